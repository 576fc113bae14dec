"""Every default of `DeepRNN` and `TrainConfig` is the best of its kind that was measured."""

import json
from dataclasses import asdict, fields, replace
from statistics import mean
from typing import Any

import pytest
import torch

import hlstm
from benchmarks import defaults

ROWS = {**defaults.TRAINING, **defaults.NETWORK}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What was measured."""
    return dict(json.loads(defaults.RESULT.read_text("utf-8")))


@pytest.fixture(scope="module")
def runs(found: dict[str, Any]) -> dict[str, Any]:
    """The runs among it."""
    return dict(found["runs"])


def names() -> set[str]:
    """All that can be given to a network and to a run."""
    return {"vocab", *defaults.default_network()} | {
        each.name for each in fields(hlstm.TrainConfig)
    }


@pytest.mark.parametrize("name", sorted(names()))
def test_a_default_is_measured_or_has_a_reason(name: str) -> None:
    assert name in ROWS or defaults.REASONS[name]
    assert set(defaults.REASONS) <= names()


def test_the_runs_are_around_the_present_defaults(
    found: dict[str, Any], runs: dict[str, Any]
) -> None:
    """Whoever changes a default measures again."""
    plan = {
        f"{name}/{seed}": (network, asdict(replace(config, seed=seed)))
        for name, (network, config) in defaults.plan(found["precision"]).items()
        for seed in defaults.SEEDS
    }
    assert {k: (run["network"], run["config"]) for k, run in runs.items()} == plan
    assert found["reasons"] == defaults.REASONS


@pytest.mark.parametrize("name", ROWS)
def test_a_default_is_the_best_of_its_row(
    name: str, found: dict[str, Any], runs: dict[str, Any]
) -> None:
    """Within two standard errors of the best, which is what chance does, or has a reason."""
    values = {
        value: mean(losses) for value, losses in defaults.rows(runs)[name].items()
    }
    default = values[defaults.default_value(name, found["precision"])]
    assert len(values) == len(ROWS[name])
    within = default - min(values.values()) <= 2 * defaults.standard_error(runs)
    assert within or name in defaults.REASONS


def test_a_batch_or_a_window_of_another_size_reads_as_many_characters() -> None:
    plan = defaults.plan("float32")
    read = {
        config.batch_size * config.sequence_length * config.steps
        for _, config in plan.values()
    }
    assert len(read) == 1


def test_a_worse_default_would_be_seen(runs: dict[str, Any]) -> None:
    """The error of chance is smaller than what the worst value of a row costs."""
    values = [mean(losses) for losses in defaults.rows(runs)["column_bound"].values()]
    assert max(values) - min(values) > 4 * defaults.standard_error(runs)


def test_a_run_measures_what_it_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    text = hlstm.load_corpus()[:6000]
    vocab = hlstm.Vocabulary.from_text(text)
    texts = vocab.encode(text[:5000]), vocab.encode(text[5000:])
    monkeypatch.setattr(defaults, "corpus", lambda: (vocab, *texts, {}))
    network = {**defaults.default_network(), "hidden_size": 8, "num_layers": 1}
    config = hlstm.TrainConfig(steps=4, eval_every=2, seed=3)
    measured = defaults.measure_run(network, config)
    torch.manual_seed(3)
    net = hlstm.DeepRNN(vocab, **network)
    history = hlstm.Trainer(net, config, progress=False).fit(*texts)
    assert measured["loss"] == history.val_loss[-1] and measured["seconds"] > 0
    assert measured["config"] == asdict(config) and measured["network"] == network
