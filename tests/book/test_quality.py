"""The recipes behind chapter 14: what is trained is what is evaluated and saved."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hlstm
from benchmarks import quality, recipe
from benchmarks.recipe import Learner, Recipe

VOCAB = hlstm.Vocabulary("abcdefg")
SMALL = Recipe(hidden_size=12, batch_size=4, sequence_length=9, warmup_steps=2)
ALL_ON: dict[str, Any] = {
    "dropout_input": 0.1,
    "dropout_between": 0.3,
    "dropout_output": 0.3,
    "weight_drop": 0.3,
    "reset": 0.2,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "column_bound": 1.0,
}


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(7, (700,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "changed",
    [{}, ALL_ON, {**ALL_ON, "locked": True}, {"tied": True}, {"num_layers": 1}],
    ids=str,
)
def test_a_learner_computes_what_its_plain_network_does(
    ids: Tensor, changed: dict[str, Any], tmp_path: Path
) -> None:
    learner = Learner(VOCAB, replace(SMALL, **changed)).eval()
    state = None
    logits = []
    for part in ids[:60].view(2, 30).split(10, 1):
        out, state = learner(part, state)
        logits.append(out)
    learner.plain().save(tmp_path / "net")
    expected, _ = hlstm.load_model(tmp_path / "net")(ids[:60].view(2, 30))
    torch.testing.assert_close(torch.cat(logits, 1), expected)


@pytest.mark.parametrize("name", ["dropout_between", "dropout_output", "weight_drop"])
def test_a_switch_acts_in_training_only(ids: Tensor, name: str) -> None:
    changed: dict[str, Any] = {name: 0.5}
    learner = Learner(VOCAB, replace(SMALL, **changed))
    inputs = ids[:40].view(2, 20)
    assert not torch.equal(learner(inputs)[0], learner(inputs)[0])
    learner.eval()
    assert torch.equal(learner(inputs)[0], learner(inputs)[0])


def test_locked_masks_are_the_same_at_all_steps() -> None:
    learner = Learner(VOCAB, replace(SMALL, dropout_output=0.5, locked=True))
    output, _ = recipe.stack_outputs(learner, torch.zeros(4, 9, dtype=torch.long))
    dropped = output == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert 0 < dropped[:, 0].float().mean() < 1


def test_a_dropped_character_adds_no_column() -> None:
    learner = Learner(VOCAB, replace(SMALL, num_layers=1))
    columns = learner.net.lstm.get_parameter("weight_ih_l0")
    unknown = torch.full((1, 5), len(VOCAB))
    got, _ = learner(unknown)
    with torch.no_grad():
        columns.zero_()
    torch.testing.assert_close(got, learner(torch.zeros(1, 5, dtype=torch.long))[0])
    dropped = recipe.drop_characters(torch.zeros(100, 100, dtype=torch.long), 0.2, 7)
    assert abs((dropped == 7).float().mean() - 0.2) < 0.02


def test_zoneout_keeps_old_values(ids: Tensor) -> None:
    learner = Learner(VOCAB, replace(SMALL, zoneout=1.0))
    _, (h, c) = recipe.stack_outputs(learner, ids[:40].view(2, 20))
    assert not h.any() and not c.any()
    almost = Learner(VOCAB, replace(SMALL, zoneout=1e-9)).eval()
    inputs = ids[:40].view(2, 20)
    torch.testing.assert_close(almost(inputs)[0], almost.net.eval()(inputs)[0])


@pytest.mark.parametrize("changed", [{}, ALL_ON, {"tied": True}], ids=str)
def test_an_interrupted_run_ends_the_same(
    ids: Tensor,
    changed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = replace(SMALL, epochs=2.5, **changed)
    straight = recipe.start_run(VOCAB, wanted, 0)
    recipe.train(straight, ids, ids[:80], evaluations=3)
    monkeypatch.setattr(recipe, "SAVE_EVERY", 0.0)
    learn = recipe.learn_window

    def stop(run: recipe.Run, inputs: Tensor, targets: Tensor) -> None:
        if run.step == 27:
            raise KeyboardInterrupt
        learn(run, inputs, targets)

    monkeypatch.setattr(recipe, "learn_window", stop)
    with pytest.raises(KeyboardInterrupt):
        run = recipe.start_run(VOCAB, wanted, 0)
        recipe.train(run, ids, ids[:80], tmp_path / "run", 3)
    monkeypatch.setattr(recipe, "learn_window", learn)
    resumed = recipe.start_run(VOCAB, wanted, 0)
    recipe.train(resumed, ids, ids[:80], tmp_path / "run", 3)
    for run in (straight, resumed):
        for line in run.history:
            line.pop("seconds")
    assert resumed.history == straight.history and len(straight.history) == 3
    other = recipe.start_run(VOCAB, wanted, 1)
    with pytest.raises(ValueError, match="another run"):
        recipe.train(other, ids, ids[:80], tmp_path / "run", 3)


def test_windows_start_from_a_zero_state(ids: Tensor) -> None:
    net = hlstm.DeepRNN(VOCAB, 12, 2).eval()
    total = 0.0
    for start in range(0, 99, 16):
        inputs = ids[:100][start : start + 17]
        logits, _ = net(inputs[None, :-1])
        total += F.cross_entropy(logits[0], inputs[1:], reduction="sum").item()
    assert quality.windowed_loss(net, ids[:100], 16) == pytest.approx(total / 99)
    # One window that holds everything is streaming.
    whole = hlstm.evaluate(net, ids[:100], 1)
    assert quality.windowed_loss(net, ids[:100], 99) == pytest.approx(whole)
    assert quality.windowed_loss(net, ids[:100], 200) == pytest.approx(whole)


def test_dynamic_evaluation_learns_only_afterwards(ids: Tensor) -> None:
    """At rate 0 it is streaming; the first window costs the same at every rate."""
    net, text = hlstm.DeepRNN(VOCAB, 12, 2), ids[:5].repeat(40)
    still = quality.dynamic_loss(net, text, 0.0, 16)
    assert still == pytest.approx(hlstm.evaluate(net, text, 1))
    assert quality.dynamic_loss(net, text, 0.5, 16) < still
    first = quality.dynamic_loss(net, text[:17], 0.5, 16)
    assert first == pytest.approx(hlstm.evaluate(net, text[:17], 1))


def test_every_recipe_has_at_most_three_and_a_half_million_parameters() -> None:
    vocab = hlstm.Vocabulary(map(chr, range(65)))
    for name, (wanted, _) in quality.plan().items():
        with torch.device("meta"):
            net = hlstm.DeepRNN(vocab, wanted.hidden_size, wanted.num_layers)
        assert sum(p.numel() for p in net.parameters()) <= 3_500_000, name


def test_the_results_are_those_of_the_present_recipes() -> None:
    runs = quality.read_results()["runs"]
    assert runs.keys() == quality.plan().keys()
    for name, (wanted, seed) in quality.plan().items():
        assert runs[name]["recipe"] == asdict(wanted), name
        assert runs[name]["seed"] == seed, name


def test_masks_keep_the_expectation_and_their_shape() -> None:
    torch.manual_seed(0)
    ones = torch.ones(300, 7, 501)
    dropped = recipe.drop_and_scale(ones, 0.3)
    assert abs((dropped == 0).float().mean() - 77 / 256) < 0.002
    assert dropped.mean().item() == pytest.approx(1, abs=0.004)
    together = recipe.drop_and_scale(ones, 0.5, 1)
    assert torch.equal(together, together[:, :1].expand_as(ones))
    # Neighbours come from the same 64 random bits, and are independent all the same.
    zero = (dropped.flatten() == 0).float()
    assert abs((zero[1:] * zero[:-1]).mean() - (77 / 256) ** 2) < 0.002
    assert torch.equal(recipe.drop_and_scale(ones, 0.0), ones)


def test_the_readme_quotes_the_results() -> None:
    text = (quality.ROOT / "README.md").read_text("utf-8")
    runs = quality.read_results()["runs"]
    headline = [runs[f"headline/{seed}"] for seed in range(3)]
    losses = {
        name: [run["val_loss"][name] for run in headline]
        for name in ("streaming", "windows_256")
    }
    mean_loss, deviation = mean(losses["streaming"]), stdev(losses["streaming"])
    assert f"{mean_loss:.3f} nats" in text
    assert f"standard deviation {deviation:.3f}" in text
    assert f"{mean(losses['windows_256']):.3f} in windows of 256" in text
    assert f"{headline[0]['parameters'] / 1e6:.1f} million parameters" in text
    assert all(2200 < run["seconds"] < 2600 for run in headline)
    speed = json.loads(quality.RESULT.with_name("speed.json").read_text("utf-8"))
    ratios = [
        bar["measured"]
        for bar in speed["bars"]
        if bar["bar"].startswith("fused / nn.LSTM") and "float32" in bar["bar"]
    ]
    assert f"{min(ratios):.1f} to {max(ratios):.1f} times the speed" in text
