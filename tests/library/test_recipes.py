"""Recipes: the measured table, what is read between its points, and what is suggested."""

import itertools
import json
import math
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import pytest
import torch

import hlstm
from benchmarks import suggest as program
from hlstm import recipes
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.recipes import PRESETS, curve, expected_loss, suggest

SIZES = sorted(program.SIZES)
LENGTHS = sorted(program.DROPOUT)
Table = list[dict[str, Any]]
CURVES = [
    (size, length, masked)
    for size in SIZES
    for length in LENGTHS
    for masked in (False, True)
]


@pytest.fixture(scope="module")
def runs() -> Table:
    """The measured runs."""
    return list(recipes.read_measured()["runs"])


@pytest.fixture(scope="module")
def speeds() -> dict[str, int]:
    """Characters a second by size."""
    return dict(recipes.read_measured()["speeds"])


# The table


def test_the_table_is_whole(runs: Table, speeds: dict[str, int]) -> None:
    """Each size, on each text, with and without dropout, for each time, once."""
    found = [
        (r["hidden_size"], r["characters"], r["dropout"], r["steps"]) for r in runs
    ]
    steps = {
        size: {
            program.steps_of(speeds[str(size)], budget, size)
            for budget in program.BUDGETS
        }
        for size in SIZES
    }
    wanted = {
        (size, length, dropout, number)
        for size in SIZES
        for length, rates in program.DROPOUT.items()
        for dropout in rates
        for number in steps[size]
    }
    assert sorted(found) == sorted(wanted) and len(wanted) == 60


def test_the_table_is_of_the_present_recipe() -> None:
    assert recipes.read_measured()["recipe"] == program.recipe()


def test_runs_say_what_they_are(runs: Table) -> None:
    for run in runs:
        assert 0.8 < run["loss"] <= run["last_loss"] < 4.4
        config = recipes.training_config(run["hidden_size"], run["steps"])
        read = run["steps"] * config.batch_size * config.sequence_length
        assert run["speed"] == pytest.approx(read / run["seconds"], rel=1e-2)
        assert {"machine", "versions", "date"} <= run.keys()


@pytest.mark.parametrize("size", SIZES)
def test_what_must_be_monotonous_is(size: int, runs: Table) -> None:
    """More steps help where there is text enough, and more text helps in a long run."""
    for length in LENGTHS[1:]:
        losses = [loss for _, loss in sorted(curve(runs, size, length, False).items())]
        assert all(a > b for a, b in itertools.pairwise(losses))
    last = [max(curve(runs, size, length, False).items())[1] for length in LENGTHS]
    assert last[0] > last[1]
    steps = max(curve(runs, size, LENGTHS[1], False))
    if 16 * 64 * steps > LENGTHS[1]:  # a run that has read all of it once
        assert last[1] > last[2] - 0.01


def test_a_larger_network_is_slower(speeds: dict[str, int]) -> None:
    assert [*speeds] == sorted(speeds, key=lambda size: speeds[size])
    assert sorted(map(int, speeds)) == SIZES


# Between its points


@pytest.mark.parametrize(("size", "length", "masked"), CURVES)
def test_a_measured_point_is_met_exactly(
    size: int, length: int, masked: bool, runs: Table
) -> None:
    for steps, loss in curve(runs, size, length, masked).items():
        assert expected_loss(runs, size, length, steps, masked) == loss


def test_the_middle_of_two_points_is_that_of_their_logarithms() -> None:
    def run(steps: int, characters: int, loss: float) -> dict[str, Any]:
        sizes = {"hidden_size": 8, "dropout": 0.0}
        return {"steps": steps, "characters": characters, "loss": loss, **sizes}

    runs = [
        run(10, 100, 4.0),
        run(1000, 100, 2.0),
        run(10, 400, 3.0),
        run(1000, 400, 1),
    ]
    assert expected_loss(runs, 8, 100, 100) == pytest.approx(3)
    assert expected_loss(runs, 8, 200, 10) == pytest.approx(3.5)
    assert expected_loss(runs, 8, 200, 100) == pytest.approx(2.5)
    assert expected_loss(runs, 8, 1, 1) == 4 and expected_loss(runs, 8, 999, 9999) == 1


def test_only_a_guess_goes_on_beyond_what_was_measured() -> None:
    def run(steps: int, loss: float) -> dict[str, Any]:
        sizes = {"hidden_size": 8, "characters": 100, "dropout": 0.0}
        return {"steps": steps, "loss": loss, **sizes}

    runs = [run(1, 9.0), run(10, 4.0), run(100, 3.0)]
    assert expected_loss(runs, 8, 100, 1000) == 3
    assert expected_loss(runs, 8, 100, 1000, beyond=True) == pytest.approx(2)
    for steps in (0.1, 1, 5, 100):
        here = expected_loss(runs, 8, 100, steps)
        assert here == expected_loss(runs, 8, 100, steps, beyond=True)


def test_much_time_is_not_given_to_a_small_network() -> None:
    """Four hours on four million characters, where a large network was still learning."""
    found = suggest(4_000_000, 240.0, 1.0)
    assert found.hidden_size == max(SIZES) and "more time than any" in found.note
    assert found.seconds > 0.99 * 240 * 60


# What is suggested

SPEEDS = (0.2, 1.0, 3.0)
TEXTS = (20_000, 100_000, 300_000, 1_000_000, 2_500_000, 4_000_000, 9_000_000)
MINUTES = (0.02, 0.05, 0.1, 0.3, 1.0, 1.8, 5.0, 60.0)


@pytest.mark.parametrize("characters", TEXTS)
def test_more_time_never_promises_a_higher_loss(characters: int) -> None:
    found = [suggest(characters, minutes, 1.0) for minutes in MINUTES]
    assert all(a.loss >= b.loss for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("characters", TEXTS)
def test_a_suggestion_fits_into_its_time(
    characters: int, speed: float, runs: Table
) -> None:
    for minutes in MINUTES:
        found = suggest(characters, minutes, speed)
        assert 0 < found.seconds <= 60 * minutes
        assert found.hidden_size in SIZES and 0 <= found.dropout <= 0.3
        assert found.steps == found.config.steps > 0
        masked = found.dropout > 0
        expected = expected_loss(
            runs, found.hidden_size, characters, found.steps, masked
        )
        assert found.loss == expected or "more time than" in found.note


def test_a_machine_of_twice_the_speed_needs_half_the_time() -> None:
    slow, fast = suggest(1_000_000, 1.0, 1.0), suggest(1_000_000, 0.5, 2.0)
    assert fast.seconds == pytest.approx(slow.seconds / 2)
    assert {**asdict(slow), "seconds": 0} == {**asdict(fast), "seconds": 0}


def test_a_measured_run_is_suggested_with_its_own_loss(runs: Table) -> None:
    best = min(
        (run for run in runs if run["characters"] == LENGTHS[-1]),
        key=lambda run: run["loss"],
    )
    seconds = max(run["seconds"] for run in runs)
    found = suggest(LENGTHS[-1], 1.02 * seconds / 60, 1.0)
    assert found.hidden_size == best["hidden_size"] and found.loss == best["loss"]


@pytest.mark.parametrize(
    ("characters", "minutes", "said"),
    [
        (1_000_000, 0.8, ""),
        (100_000, 0.8, ""),
        (50_000, 1.0, "shorter than 100,000 characters"),
        (5_000_000, 1.0, "longer than 4,000,000 characters"),
        (1_000_000, 0.005, "less time than any"),
        (4_000_000, 100.0, "more time than any"),
    ],
)
def test_a_note_says_what_was_not_measured(
    characters: int, minutes: float, said: str
) -> None:
    note = suggest(characters, minutes, 1.0).note
    assert said in note and (note == "") == (said == "")


def test_network_and_config_are_what_trains() -> None:
    found = suggest(300_000, 0.5, 1.0)
    net = hlstm.DeepRNN(hlstm.Vocabulary("abc"), **found.network)
    assert net.lstm.hidden_size == found.hidden_size
    assert net.lstm.num_layers == found.num_layers == 2
    assert net.dropout.p == found.dropout
    assert found.config == recipes.training_config(found.hidden_size, found.steps)


def test_a_speed_is_measured_beside_that_of_the_table(
    monkeypatch: pytest.MonkeyPatch, speeds: dict[str, int]
) -> None:
    def thrice(net: hlstm.DeepRNN, config: hlstm.TrainConfig) -> float:
        size = net.lstm.hidden_size
        assert config == recipes.training_config(size, config.steps)
        return 3.0 * speeds[str(size)]

    monkeypatch.setattr(recipes, "measure_speed", thrice)
    assert suggest(1_000_000, 0.5) == suggest(1_000_000, 0.5, 3.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((31, 1.0, 1.0), "characters is 31, and a batch needs a text of at least 32"),
        ((0, 1.0, 1.0), "characters is an integer, 1 or larger, and got 0"),
        ((-5, 1.0, 1.0), "characters is an integer, 1 or larger, and got -5"),
        ((1000, 0, 1.0), "minutes is a number above 0, and got 0"),
        ((1000, -1.0, 1.0), "minutes is a number above 0, and got -1.0"),
        ((1000, math.nan, 1.0), "minutes is a number above 0, and got nan"),
        ((1000, math.inf, 1.0), "minutes is a number above 0, and got inf"),
        ((1000, 1.0, 0.0), "speed is a number above 0, and got 0.0"),
        ((1000, 1e-9, 1.0), "minutes is 1e-09, too few for a single step"),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments: Any, words: str) -> None:
    with pytest.raises(InvalidValueError) as error:
        suggest(*arguments)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    "arguments", [("long", 1.0, 1.0), (1e6, 1.0), (1000, "x", 1.0)]
)
def test_what_is_no_number_is_refused(arguments: Any) -> None:
    with pytest.raises(InvalidTypeError):
        suggest(*arguments)


def test_a_fresh_run_keeps_the_promise() -> None:
    """Between measured lengths and times. Runs of other seeds, or in another precision,
    differ by up to 0.03."""
    characters = 300_000
    found = suggest(characters, 0.05, 1.0)
    vocab, train_ids, held_out, _ = program.corpus()
    torch.manual_seed(0)
    net = hlstm.DeepRNN(vocab, **found.network)
    trainer = hlstm.Trainer(net, found.config, progress=False)
    history = trainer.fit(train_ids[:characters], held_out)
    assert min(history.val_loss) == pytest.approx(found.loss, abs=0.06)


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_trained(name: str) -> None:
    preset = PRESETS[name]
    net = hlstm.DeepRNN(hlstm.Vocabulary("abc"), **preset.network)
    assert preset.name == name and net.lstm.num_layers == 2
    assert isinstance(preset.config, hlstm.TrainConfig)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_promises_what_was_measured(name: str) -> None:
    path = files("hlstm").joinpath("results/presets.json")
    found = json.loads(path.read_text("utf-8"))["runs"]
    runs = [run for run in found.values() if run["preset"] == name]
    assert len(runs) == 3 or (name == "best" and runs)
    for run in runs:
        assert run["network"] == PRESETS[name].network
        assert run["config"] == asdict(PRESETS[name].config)
    about = PRESETS[name].about
    for loss in (min(r["loss"] for r in runs), max(r["loss"] for r in runs)):
        assert f"{loss:.2f}" in about
