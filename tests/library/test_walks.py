"""How far it is, call by call, from what a user asks to where it is computed."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

import hlstm
from hlstm import cli


def way(start: str, end: str, call: Callable[[], object]) -> list[str]:
    """The functions on the stack from `start` to `end`, the first time `end` is entered."""
    found: list[str] = []

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or frame.f_code.co_name != end or found:
            return
        names, at = [], frame
        while at.f_code.co_name != start and at.f_back:
            if "hlstm" in at.f_globals.get("__name__", ""):
                names.append(at.f_code.co_name)
            at = at.f_back
        found.extend(names[::-1])

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def test_from_temperature_to_the_division_by_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "sample shakespeare --temperature 0.5 --length 3 --seed 0".split()
    found = way("sample", "boltzmann", lambda: cli.main(words))
    assert found == ["<genexpr>", "_draws", "next_distribution", "boltzmann"]


def test_from_forward_to_the_loop_over_time() -> None:
    rnn = hlstm.LSTM(3, 4, engine="reference")
    found = way("forward", "unroll", lambda: rnn(torch.zeros(2, 1, 3)))
    assert found == ["run_layer", "reference_layer", "unroll"]
