"""What `make inside` measured is what the program says, and the program runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import hlstm
from benchmarks import inside


def test_the_file_was_measured_by_this_program() -> None:
    found = json.loads(inside.RESULT.read_text("utf-8"))
    assert found["sizes"] == inside.SIZES and found["config"] == asdict(inside.CONFIG)
    assert found["characters"] == inside.CHARACTERS
    assert found["steps"] == [*inside.STEPS]
    assert set(found["networks"]) == {str(seed) for seed in inside.SEEDS}
    L = inside.SIZES["num_layers"]
    for pair in found["networks"].values():
        assert pair["trained"]["loss"] < 1.7 < pair["untrained"]["loss"]
        for each in pair.values():
            assert {len(scores) for scores in each["probe"].values()} == {L}
            assert len(each["full"]) == L and len(each["state"]) == len(inside.STEPS)


def test_it_trains_what_is_missing_and_measures_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = hlstm.load_corpus("shakespeare")[:20_000]
    few = replace(inside.CONFIG, steps=2, batch_size=4, sequence_length=8)
    changes: dict[str, Any] = {
        "RESULT": tmp_path / "inside.json",
        "NETWORKS": tmp_path / "networks",
        "SIZES": {"hidden_size": 4, "num_layers": 2},
        "CONFIG": few,
        "SEEDS": (0, 1),
        "CHARACTERS": 400,
        "STEPS": (1, 3),
    }
    for name, value in changes.items():
        monkeypatch.setattr(inside, name, value)
    monkeypatch.setattr(hlstm, "load_corpus", lambda _: text)
    inside.main()
    first = json.loads(inside.RESULT.read_text("utf-8"))
    assert set(first["networks"]) == {"0", "1"}
    for pair in first["networks"].values():
        assert pair["trained"]["probe"] != pair["untrained"]["probe"]

    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("it trains what is there")

    monkeypatch.setattr(inside, "train", no_training)
    inside.main()
    again = json.loads(inside.RESULT.read_text("utf-8"))
    assert again["networks"] == first["networks"]
