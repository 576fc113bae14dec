"""What chapter 9 says of depth rests on runs that are complete, tuned and accounted for."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import hlstm
from benchmarks import depth

ROOT = Path(__file__).parents[2]
SHAPES = depth.shapes()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What was measured."""
    return dict(json.loads(depth.RESULT.read_text("utf-8")))


@pytest.fixture(scope="module")
def runs(found: dict[str, Any]) -> dict[str, Any]:
    """The runs among it."""
    return dict(found["runs"])


def test_the_runs_are_those_of_the_plan(runs: dict[str, Any]) -> None:
    """All rates for one seed, then the best one and half of it for the others."""
    plan = {**depth.plan(), **depth.plan(runs)}
    wanted = {k: (network, asdict(config)) for k, (network, config) in plan.items()}
    assert {k: (run["network"], run["config"]) for k, run in runs.items()} == wanted


def test_the_seed_that_tries_all_rates_is_not_among_those_that_count() -> None:
    assert depth.TUNING_SEED not in depth.SEEDS and len(depth.SEEDS) >= 3


@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_rate_is_no_end_of_the_grid(
    shape: tuple[int, int], runs: dict[str, Any]
) -> None:
    assert depth.RATES[0] < depth.best_rate(runs, *shape) < depth.RATES[-1]
    assert depth.RATES[0] < depth.final_losses(runs, *shape)[0] < depth.RATES[-1]


def test_the_groups_are_what_they_are_called(found: dict[str, Any]) -> None:
    vocab = hlstm.Vocabulary("".join(chr(97 + k) for k in range(65)))
    assert found["corpus"]["name"] == "tinyshakespeare"
    assert len({H for _, H in depth.GROUPS["equal width"]}) == 1
    for group, members in depth.GROUPS.items():
        assert [layers for layers, _ in members] == list(range(1, len(members) + 1))
        for L, H in members if group.endswith("parameters") else ():
            size = sum(p.numel() for p in hlstm.DeepRNN(vocab, H, L).parameters())
            assert abs(size / int(group.split()[0].replace(",", "")) - 1) < 0.01


def test_every_run_says_where_it_comes_from(
    found: dict[str, Any], runs: dict[str, Any]
) -> None:
    assert found["command"] == "make depth"
    assert "-m benchmarks.depth" in (ROOT / "Makefile").read_text("utf-8")
    assert re.fullmatch("[0-9a-f]{64}", found["corpus"]["sha256"])
    for run in runs.values():
        assert run["processor"] and "1 threads" in run["machine"]
        assert {"python", "torch", "numpy", "hlstm"} <= run["versions"].keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
        assert run["precision"] in ("float32", "bfloat16") and run["seconds"] > 0


def test_what_is_there_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken off and started again, the program measures the rest, and no more."""
    measured: list[tuple[int, float, int]] = []

    def one_by_one(
        measure: Callable[..., Any], jobs: Mapping[str, Any], processes: int
    ) -> Iterator[tuple[str, Any]]:
        for name, (network, config) in jobs.items():
            rate, seed = config.learning_rate, config.seed
            measured.append((network["num_layers"], rate, seed))
            if len(measured) == 7:
                raise KeyboardInterrupt
            lucky = seed == depth.TUNING_SEED and rate == 0.08
            loss = 2 + abs(rate - 0.04) + 0.01 * seed - lucky
            run = {"network": network, "config": asdict(config), "loss": loss}
            yield name, {**run, "seconds": 1.0}

    monkeypatch.setattr(depth, "in_processes", one_by_one)
    monkeypatch.setattr(depth, "corpus", lambda: ({"name": "a text"},))
    monkeypatch.setattr(depth, "GROUPS", {"equal width": ((1, 8), (2, 8))})
    with pytest.raises(KeyboardInterrupt):
        depth.main(3, tmp_path / "depth.json")
    depth.main(3, tmp_path / "depth.json")
    tuning = [(layers, rate, 0) for layers in (1, 2) for rate in depth.RATES]
    final = [
        (layers, rate, seed)
        for layers in (1, 2)
        for rate in (0.08, 0.04)
        for seed in depth.SEEDS
    ]
    assert measured == tuning[:7] + tuning[6:] + final
    kept = json.loads((tmp_path / "depth.json").read_text("utf-8"))["runs"]
    rate, losses = depth.final_losses(kept, 2, 8)
    assert rate == 0.04 and losses == pytest.approx([2.01, 2.02, 2.03])
    depth.main(3, tmp_path / "depth.json")
    assert len(measured) == 1 + len(tuning) + len(final)
    depth.main(4, tmp_path / "depth.json")
    assert len(measured) == 1 + 2 * (len(tuning) + len(final)), "another length: again"
