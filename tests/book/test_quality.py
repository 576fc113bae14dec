"""The recipes behind chapter 15: what is trained is what is evaluated and saved."""

import inspect
import json
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hlstm
from benchmarks import extras, quality, recipe
from benchmarks.recipe import Recipe
from hlstm.recipes import PRESETS
from hlstm.training import train_step

VOCAB = hlstm.Vocabulary("abcdefg")
SMALL = Recipe(
    {"hidden_size": 12, "num_layers": 2},
    hlstm.TrainConfig(
        batch_size=4,
        sequence_length=9,
        steps=47,
        warmup_steps=2,
        eval_every=16,
        save_every=10,
        precision="float32",
    ),
)
MASKS = {"dropout": 0.3, "dropout_head": 0.4, "weight_drop": 0.3}
HEADLINE = {**MASKS, "column_bound": 1.0, "reset": 0.2, "ema": 0.9}


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(7, (700,), generator=torch.Generator().manual_seed(0))


def network(changed: Recipe = SMALL) -> hlstm.DeepRNN:
    """Return a network of a recipe, its hooks hung up."""
    torch.manual_seed(0)
    net = hlstm.DeepRNN(VOCAB, **changed.network)
    extras.hang_up(net, changed.extras)
    return net


@pytest.mark.parametrize("name", ["drop_characters", "label_smoothing"])
def test_a_hook_acts_in_training_only_and_is_in_no_file(
    ids: Tensor, name: str, tmp_path: Path
) -> None:
    net = network(SMALL.change(**{name: 0.5})).eval()
    net.save(tmp_path / "net")
    inputs = ids[:40].view(2, 20)
    expected, (h, c) = hlstm.load_model(tmp_path / "net")(inputs)
    logits, state = net(inputs)
    assert torch.equal(logits, expected)
    assert torch.equal(state[0], h) and torch.equal(state[1], c)


def test_a_dropped_character_adds_no_column(ids: Tensor) -> None:
    """With p next to 1 every character is dropped, and the columns do not matter."""
    net = network(SMALL.change(drop_characters=1.0))
    inputs = ids[:40].view(2, 20)
    got, _ = net(inputs)
    with torch.no_grad():
        net.lstm.get_parameter("weight_ih_l0").zero_()
    torch.testing.assert_close(got, net.eval()(inputs)[0])


def test_kept_characters_are_scaled(ids: Tensor) -> None:
    """What reaches the first layer is 0 or the column over 1 − p, whole characters alike."""
    net = network(SMALL.change(drop_characters=0.2))
    seen: list[Tensor] = []
    net.lstm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = torch.randint(7, (50, 200))
    net(inputs)
    (x,) = seen
    kept = x.sum(-1)
    torch.testing.assert_close(x, F.one_hot(inputs, 7) * kept[..., None])
    scaled = torch.tensor([0, 1.25])
    torch.testing.assert_close(kept.unique(), scaled)
    assert abs((kept == 0).float().mean() - 0.2) < 0.02


def test_zoneout_keeps_old_values(ids: Tensor) -> None:
    inputs = ids[:40].view(2, 20)
    _, (h, c) = network(SMALL.change(zoneout=1.0))(inputs)
    assert not h.any() and not c.any()
    almost, plain = network(SMALL.change(zoneout=1e-9)).eval(), network().eval()
    state = torch.randn(2, 2, 2, 12).unbind()
    for got, expected in zip(almost(inputs, state), plain(inputs, state), strict=True):
        torch.testing.assert_close(got, expected)
    half = network(SMALL.change(zoneout=0.5))
    assert not torch.equal(half(inputs)[0], half(inputs)[0])
    half.eval()
    assert torch.equal(half(inputs)[0], half(inputs)[0])
    assert not torch.allclose(half(inputs)[0], plain(inputs)[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_smoothed_labels_give_the_gradient_of_the_smoothed_loss(
    ids: Tensor, precision: str
) -> None:
    smooth, plain = network(SMALL.change(label_smoothing=0.1)), network()
    inputs, targets = ids[:40].view(2, 20), ids[1:41].view(2, 20)
    half = precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = plain(inputs)[0].float()
    F.cross_entropy(logits.mT, targets, label_smoothing=0.1).backward()
    still = torch.optim.SGD(smooth.parameters(), 0.0)
    window = inputs, targets, None
    loss, _, _ = train_step(smooth, still, *window, 1e9, precision=precision)
    assert loss == pytest.approx(F.cross_entropy(logits.mT, targets).item())
    tolerance = 1e-2 if half else 1e-5
    for ours, theirs in zip(smooth.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm()


class Killed(BaseException):
    """Stands for a signal that no program survives."""


class Mortal(quality.Watch):
    """A watch that kills the run after so many steps."""

    last = 27

    def on_step_end(self, trainer: hlstm.Trainer) -> None:
        super().on_step_end(trainer)
        if trainer.position.step == self.last:
            raise Killed


def measure(ids: Tensor, wanted: Recipe, seed: int = 0) -> dict[str, Any]:
    """Measure a run on a text of 620 characters, judged on 80."""
    corpus: Any = SimpleNamespace(vocab=VOCAB, train_ids=ids[80:], val_ids=ids[:80])
    return quality.measure_run(corpus, "test", wanted, seed, False)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        HEADLINE,
        {**HEADLINE, "tied": True, "locked": True, "text_share": 0.5},
        {"zoneout": 0.1},
        {"drop_characters": 0.1, "label_smoothing": 0.1, "fixed_offsets": True},
        {"reset": 1.0, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_a_killed_run_ends_the_same(
    ids: Tensor,
    changed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = SMALL.change(**changed)
    monkeypatch.setattr(quality, "BUILD", tmp_path / "straight")
    straight = measure(ids, wanted)
    monkeypatch.setattr(quality, "BUILD", tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(quality, "Watch", Mortal)
        measure(ids, wanted)
    folder = tmp_path / "killed" / "test"
    newest = max(folder.glob("step-*.safetensors"))
    if newest.stem.endswith("27"):
        newest.unlink()  # a power cut would not have saved it
    assert max(folder.glob("step-*.safetensors")).stem == "step-00000020"
    with pytest.raises(ValueError, match="another run"):
        measure(ids, wanted, seed=1)
    with pytest.raises(ValueError, match="another run"):
        measure(ids, wanted.change(zoneout=0.2))
    resumed = measure(ids, wanted)
    assert 20 < resumed["timed_steps"] <= 27 < straight["timed_steps"] <= 47
    for run in (straight, resumed):
        assert [line["step"] for line in run["history"]] == [16, 32, 47]
        for line in run["history"]:
            line.pop("seconds")
        for name in ("seconds", "timed_steps"):
            run.pop(name)
    assert resumed == straight and not folder.exists()


def test_what_is_measured_is_what_the_recipe_says(
    ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "BUILD", tmp_path)
    seen: list[hlstm.Trainer] = []

    class Look(quality.Watch):
        def on_fit_start(self, trainer: hlstm.Trainer) -> None:
            super().on_fit_start(trainer)
            seen.append(trainer)

    monkeypatch.setattr(quality, "Watch", Look)
    result = measure(ids, SMALL.change(**HEADLINE), seed=3)
    (trainer,) = seen
    config = asdict(trainer.config)
    assert config["seed"] == 3
    told = result["recipe"]
    assert told["config"].items() <= config.items() and told["config"]["ema"] == 0.9
    assert told["network"]["dropout"] == trainer.net.lstm.dropout == 0.3
    assert told["network"]["dropout_head"] == trainer.net.dropout.p == 0.4
    assert told["network"]["weight_drop"] == trainer.net.lstm.weight_drop == 0.3
    judged = hlstm.load_model(quality.weights_path("test"))
    loss = hlstm.evaluate(judged, ids[:80])
    assert loss == pytest.approx(result["val_loss"]["streams_32"], abs=1e-6)
    loss = hlstm.evaluate(judged, ids[:80], SMALL.config.batch_size)
    assert loss == pytest.approx(result["history"][-1]["val_loss"], abs=1e-6)
    trained = hlstm.evaluate(judged, ids[-80:])
    assert result["train_loss"] == pytest.approx(trained, abs=1e-6)
    mean_loss = mean(trainer.history.loss[32:])
    assert result["history"][-1]["loss"] == pytest.approx(mean_loss)
    # The same seed draws the same network; its first columns reach to their bound.
    torch.manual_seed(3)
    columns = hlstm.DeepRNN(VOCAB, **told["network"]).lstm.get_parameter("weight_ih_l0")
    assert 0.9 < columns.abs().max() <= 1


def test_passes_start_at_the_first_character_only_where_that_is_asked(
    ids: Tensor,
) -> None:
    text = torch.arange(700) % 7
    firsts: dict[bool, set[int]] = {}
    for fixed in (False, True):
        wanted = SMALL.change(fixed_offsets=fixed)
        read: list[Tensor] = []
        net = network(wanted)
        net.register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        kind = extras.trainer_for(wanted.extras)
        kind(net, wanted.config, progress=False).fit(text)
        # A pass has 20 windows: 175 characters a stream, 174 of them read.
        firsts[fixed] = {int(x[0, 0]) for x in read[::20]}
        assert len(read) == 47 and {x.shape[1] for x in read[19::20]} == {3}
        expected, _, epoch, k = next(
            extras.unshifted_windows(text, wanted.config, 1, 6)
        )
        assert (epoch, k) == (1, 6) and torch.equal(expected, read[26]) == fixed
    assert firsts[True] == {0} and firsts[False] != {0}


def test_a_share_of_the_text_is_its_end(ids: Tensor) -> None:
    assert torch.equal(quality.share(ids, SMALL), ids)
    assert torch.equal(quality.share(ids, SMALL.change(text_share=0.1)), ids[-70:])


def test_windows_start_from_a_zero_state(ids: Tensor) -> None:
    net = hlstm.DeepRNN(VOCAB, 12, 2).eval()
    total = 0.0
    for start in range(0, 599, 256):
        inputs = ids[:600][start : start + 257]
        logits, _ = net(inputs[None, :-1])
        total += F.cross_entropy(logits[0], inputs[1:], reduction="sum").item()
    found = quality.protocols(net, ids[:600])
    assert found["windows_256"] == pytest.approx(total / 599)
    assert found["streaming"] == pytest.approx(hlstm.evaluate(net, ids[:600], 1))
    assert found["streams_32"] == pytest.approx(hlstm.evaluate(net, ids[:600], 32))
    # One window that holds everything is streaming.
    whole = quality.protocols(net, ids[:257])
    assert whole["windows_256"] == pytest.approx(whole["streaming"])


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
    for name, (wanted, _) in recipe.plan().items():
        with torch.device("meta"):
            net = hlstm.DeepRNN(vocab, **wanted.network)
        assert sum(p.numel() for p in net.parameters()) <= 3_500_000, name


def test_every_option_of_a_recipe_is_one_of_the_library() -> None:
    network = inspect.signature(hlstm.DeepRNN).parameters.keys() - {"vocab", "engine"}
    config = {each.name for each in fields(hlstm.TrainConfig)} - set(recipe.APART)
    for name, (wanted, _) in recipe.plan().items():
        told = wanted.options()
        assert told.keys() == {"network", "config", "extras"}
        assert told["network"].keys() == network, name
        assert told["config"].keys() == config, name
        assert told["extras"].keys() == recipe.EXTRAS.keys(), name
        if not name.startswith("ablation"):
            assert told["extras"] == recipe.EXTRAS, name
        json.dumps(told, allow_nan=False)
    assert {n for part in (network, config, recipe.EXTRAS) for n in part} >= {
        option for changed in recipe.SWITCHES.values() for option in changed
    }
    with pytest.raises(ValueError, match="hiden_size"):
        SMALL.change(hiden_size=3)


def test_each_switch_changes_what_it_names() -> None:
    def flat(wanted: Recipe) -> dict[str, Any]:
        return {k: v for part in wanted.options().values() for k, v in part.items()}

    basis = flat(recipe.SHORT)
    for name, changed in recipe.SWITCHES.items():
        found = flat(recipe.SHORT.change(**changed))
        differs = {k: v for k, v in found.items() if v != basis[k]}
        followed = {"dropout_head"} if "dropout" in changed else set()
        assert differs.keys() - followed == changed.keys() - followed, name
        assert all(found[k] == v for k, v in changed.items()), name


def test_the_headline_and_the_quick_starts_are_the_presets() -> None:
    plan = recipe.plan()
    for run, name in {
        "headline/0": "best",
        "quick/20 seconds/0": "minute",
        "quick/3 minutes/0": "quick",
    }.items():
        told, preset = plan[run][0].options(), PRESETS[name]
        assert preset.network.items() <= told["network"].items()
        wanted = {**asdict(preset.config), "precision": "bfloat16"}
        assert told["config"].items() <= wanted.items()


def test_the_results_are_those_of_the_present_recipes() -> None:
    runs, plan = quality.read_results()["runs"], recipe.plan()
    assert runs.keys() == plan.keys()
    for name, (wanted, seed) in plan.items():
        assert runs[name]["recipe"] == wanted.options(), name
        assert runs[name]["seed"] == seed, name
        assert runs[name]["history"][-1]["step"] == wanted.config.steps, name
        assert runs[name]["trainer"] in ("hlstm.Trainer", "0.1.0, a loop of its own")


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
