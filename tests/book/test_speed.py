"""The benchmark of chapter 20: what it takes from the chapter, and what it wrote."""

import copy
import json

import pytest
import torch

from benchmarks import speed


@pytest.fixture(scope="module")
def result() -> speed.Result:
    """The committed figures."""
    found: speed.Result = json.loads(speed.RESULT.read_text("utf-8"))
    return found


def test_the_benchmark_climbs_the_ladder_of_the_chapter() -> None:
    names = speed.chapter()
    window = names.make_window(2, 3, 64)
    expected = names.train_pytorch(window)
    expected = [gradient.clone() for gradient in expected]
    for name, rung in names.RUNGS.items():
        tolerance = 0.02 if name == "halved" else 1e-5
        for found, gradient in zip(names.train(rung, window), expected, strict=True):
            assert (found - gradient).norm() <= tolerance * gradient.norm(), name


def test_a_prediction_is_calls_and_the_larger_of_both_times() -> None:
    names = speed.chapter()
    machine = names.Machine(1e9, 2e9, 4e8, 1e8, 1e-3)
    lines = [names.Line(3e9, 8), names.Line(0, 1e6), names.Line(0, 2e8)]
    assert names.predict(lines, machine) == pytest.approx(3e-3 + 3 + 2.5e-3 + 2)
    assert names.predict(lines[:1], machine, half=True) == pytest.approx(1e-3 + 1.5)


def test_the_ledger_counts_products_and_bytes() -> None:
    names = speed.chapter()
    a = torch.ones(2, 3, requires_grad=True)
    with names.Ledger() as book:
        (a @ torch.ones(3, 5)).sum().backward()
    assert [line.flops for line in book.lines if line.flops] == [60, 60]
    assert names.Line(60, 4 * (6 + 15 + 10)) in book.lines


def test_the_figures_are_of_a_whole_run(result: speed.Result) -> None:
    rows = {
        (r["T"], r["B"], r["H"], r["dtype"], r["passes"]): r for r in result["layers"]
    }
    assert {key[:3] for key in rows} == set(speed.SHAPES)
    assert len(rows) == 3 * len(speed.SHAPES)
    assert set(result["ladder"]["rungs"]) == {"nn.LSTM", *speed.RUNGS}
    assert result["seconds"] <= 600
    assert result["command"] == "make bench"


def test_the_verdicts_follow_from_the_figures(result: speed.Result) -> None:
    assert result["bars"] == speed.judge(result)
    slower = copy.deepcopy(result)
    for row in slower["layers"]:
        row["ms"]["fused"] = 1.001 * row["ms"]["nn.LSTM"]
    fused = [b for b in speed.judge(slower) if b["bar"].startswith("fused")]
    assert len(fused) == 2 * len(speed.SHAPES) and not any(b["met"] for b in fused)
