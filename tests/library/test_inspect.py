"""What the chapter Inside leaves out: every measure beside a slow way to compute it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hlstm
from hlstm import inspect
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.gates import gate_activations, update_state

TEXT = "ab.\n\nBA:\nab ba, a bb.\nba a.\n\nAB:\nb, aa: ab.\n"
VOCAB = hlstm.Vocabulary.from_text(TEXT)


def network(seed: int = 0, **options: Any) -> hlstm.DeepRNN:
    """A small untrained network, in float64, whose weights are large enough to matter."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 5, "num_layers": 2} | options
    net = hlstm.DeepRNN(VOCAB, **sizes).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return net


def constant(forget: float = 0.0, **biases: float) -> hlstm.DeepRNN:
    """A network of one unit whose gates are what their biases say, whatever is read."""
    net = hlstm.DeepRNN(VOCAB, 1, 1).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        for row, name in enumerate("ifgo"):
            net.lstm.get_parameter("bias_ih_l0")[row] = (biases | {"f": forget}).get(
                name, 0.0
            )
    return net


def step_by_step(net: hlstm.DeepRNN, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gates (4, L, T, H), h and c (L, T, H), one character and one layer at a time."""
    L, H = net.lstm.num_layers, net.lstm.hidden_size
    h, c = torch.zeros(L, H).double(), torch.zeros(L, H).double()
    rows: list[Tensor] = []
    with torch.no_grad():
        for k in net.vocab.encode(text):
            x = F.one_hot(k, len(net.vocab)).double()
            if net.tied:
                x = net.head.weight[k]
            now = []
            for layer in range(L):
                W_ih, W_hh, b = net.lstm.layer_weights(layer)
                a = W_ih @ x + W_hh @ h[layer] + (0 if b is None else b)
                gate = gate_activations(a)
                x, new = update_state(gate, c[layer])
                h[layer], c[layer] = x, new
                now.append(torch.stack([*gate, x, new]))
            rows.append(torch.stack(now, 1))
    whole = torch.stack(rows, 2)
    return whole[:4], whole[4], whole[5]


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"num_layers": 3}])
def test_gates_are_those_of_a_loop(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(**options)
    gates, h, c = step_by_step(net, TEXT)
    for chunk in (7, 1000):
        monkeypatch.setattr(inspect, "CHUNK", chunk)
        ours, (our_h, our_c) = inspect.gates_over_text(net, TEXT)
        assert torch.allclose(torch.stack(ours), gates, rtol=0, atol=1e-12)
        assert torch.allclose(our_h, h, rtol=0, atol=1e-12)
        assert torch.allclose(our_c, c, rtol=0, atol=1e-12)
        for ours_alone, both in zip(
            inspect.states_over_text(net, TEXT), (our_h, our_c), strict=True
        ):
            assert ours_alone.equal(both)


def test_nothing_is_dropped_and_nothing_is_left_changed() -> None:
    net = network(dropout=0.5, weight_drop=0.5).train()
    same = network()
    before = torch.random.get_rng_state()
    functions = (
        lambda net: inspect.gates_over_text(net, TEXT)[1][0],
        lambda net: inspect.connectivity(net, TEXT[:9]),
        lambda net: inspect.connectivity_by_distance(net, TEXT * 4, 5, 3),
        lambda net: inspect.loss_after_change(net, TEXT * 4, 5, 3),
        lambda net: inspect.state_after_change(net, TEXT * 4, (1, 3), 3),
        lambda net: inspect.memory_of_beginnings(net, "ab", [TEXT] * 16, (1, 3)),
    )
    for function in functions:
        with torch.no_grad():  # a caller's, and gradients are taken all the same
            assert function(net).equal(function(same))
    assert torch.random.get_rng_state().equal(before)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_saturation_counts_gates_at_their_ends() -> None:
    shares = inspect.saturation(constant(forget=5.0, i=-5.0, o=0.0), TEXT)
    found = {name: share.flatten().tolist() for name, share in shares.items()}
    assert found == {"i": [1, 0], "f": [0, 1], "o": [0, 0]}
    net = network()
    gates, _, _ = step_by_step(net, TEXT)
    i = inspect.saturation(net, TEXT, 0.3, 0.6)["i"]
    assert torch.allclose(i[0], (gates[0] < 0.3).double().mean(1))
    assert torch.allclose(i[1], (gates[0] > 0.6).double().mean(1))


def test_timescales_of_constant_gates() -> None:
    for bias in (-2.0, 0.0, 3.0):
        f = 1 / (1 + math.exp(-bias))
        (found,) = inspect.timescales(constant(bias), TEXT).flatten().tolist()
        assert math.isclose(found, -1 / math.log(f))
        assert math.isclose(f**found, 1 / math.e)
    assert inspect.timescales(constant(100.0), TEXT) == math.inf


def test_an_untrained_network_is_like_another_and_drawn_as_one_says() -> None:
    net = network(tied=True)
    before = torch.random.get_rng_state()
    fresh = inspect.untrained_like(net, 3, 0.5, 2.0)
    assert torch.random.get_rng_state().equal(before)
    assert fresh.tied and fresh.head.weight.dtype == torch.float64
    assert {n: p.shape for n, p in fresh.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    net = network()
    torch.manual_seed(3)
    wanted = hlstm.DeepRNN(VOCAB, 5, 2, column_bound=0.5, forget_bias=2.0).state_dict()
    fresh = inspect.untrained_like(net, 3, 0.5, 2.0)
    for name, weight in fresh.state_dict().items():
        assert weight.equal(wanted[name].double()), name
    assert not fresh.head.weight.equal(inspect.untrained_like(net, 4).head.weight)


def test_a_memory_that_fills_up_is_full() -> None:
    fills = constant(forget=20.0, i=20.0, g=20.0)
    assert inspect.full_memories(fills, TEXT).all()
    changes = constant(forget=-20.0, i=20.0)
    with torch.no_grad():
        changes.lstm.get_parameter("weight_ih_l0")[2] = torch.linspace(
            -1, 1, len(VOCAB)
        )
    assert not inspect.full_memories(changes, TEXT).any()
    # A memory that is never written stands still too, at 0, and is not full.
    assert not inspect.full_memories(constant(forget=1.0, i=0.0, g=0.0), TEXT).any()


def follower() -> hlstm.DeepRNN:
    """Three units set by hand, as in chapter 4: line end, in a speech, column."""
    net = hlstm.DeepRNN(VOCAB, 3, 1).double()
    newline, colon = VOCAB.encode("\n:").tolist()
    i, f, g, o = range(4)
    W_ih, W_hh = torch.zeros(4, 3, len(VOCAB)).double(), torch.zeros(4, 3, 3).double()
    b = torch.zeros(4, 3).double()
    b[o] = 20
    b[i, 0], b[f, 0], W_ih[g, 0, newline] = 20, -20, 20
    b[i, 1], b[g, 1], W_ih[i, 1, colon] = -20, 20, 40
    b[f, 1], W_ih[f, 1, newline], W_ih[f, 1, colon] = 60, -40, -80
    W_hh[f, 1, 0] = -40 / math.tanh(1)
    b[i, 2], b[f, 2], b[g, 2] = 20, 20, math.atanh(0.01)
    W_ih[i, 2, newline] = W_ih[f, 2, newline] = -40
    with torch.no_grad():
        net.lstm.get_parameter("weight_ih_l0").copy_(W_ih.flatten(0, 1))
        net.lstm.get_parameter("weight_hh_l0").copy_(W_hh.flatten(0, 1))
        net.lstm.get_parameter("bias_ih_l0").copy_(b.flatten())
        net.lstm.get_parameter("bias_hh_l0").zero_()
    return net


def test_units_that_were_made_to_follow_are_found() -> None:
    """The search finds what is there: the units of chapter 4's hand-set cell."""
    net, text = follower(), "ab a.\n\nBA:\nab ba.\na bb, ab ab ab.\n\n" * 12
    found = inspect.units_that_follow(net, text)
    (name,), (line,) = found["in a name"], found["position in line"]
    assert (name.layer, name.unit, line.unit) == (0, 1, 2)
    assert name.held < -0.999 and line.held > 0.999
    torch.manual_seed(0)
    shuffled = torch.randperm(len(text))
    labels = inspect.text_labels(text)
    controls = {key: label[shuffled] for key, label in labels.items()}
    for units in inspect.units_that_follow(net, text, controls).values():
        assert abs(units[0].held) < 0.3
    with pytest.raises(InvalidValueError, match=r"'x' has the shape \(3,\)"):
        inspect.units_that_follow(net, text, {"x": torch.zeros(3)})


def one_prediction(net: hlstm.DeepRNN, ids: Tensor, t: int) -> Tensor:
    """Sizes of the gradients of the loss of character t + 1, (t + 1,)."""
    x = F.one_hot(ids[: t + 1], len(net.vocab)).double()
    if net.tied:
        x = net.head.weight.detach()[ids[: t + 1]]
    x.requires_grad_()
    output, _ = net.lstm(x[None])
    loss = F.cross_entropy(net.head(output[0, -1]), ids[t + 1])
    return torch.autograd.grad(loss, x)[0].norm(dim=-1)


@pytest.mark.parametrize("tied", [False, True])
def test_connectivity_is_a_gradient_for_each_prediction(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, ids = network(tied=tied), VOCAB.encode(TEXT[:12])
    for together in (5, 100):
        monkeypatch.setattr(inspect, "TOGETHER", together)
        square = inspect.connectivity(net, TEXT[:12])
        assert square.shape == (11, 11)
        for t in range(11):
            wanted = one_prediction(net, ids, t)
            assert torch.allclose(square[t, : t + 1], wanted, rtol=1e-9)
            assert (square[t, : t + 1] > 0).all() and (square[t, t + 1 :] == 0).all()


def test_distances_count_from_the_character_before() -> None:
    net, reach = network(), 11
    text = (TEXT * 9)[: inspect.WARM_UP + reach + 1]  # has one place only
    row = inspect.connectivity_by_distance(net, text, reach, 2)
    wanted = inspect.connectivity(net, text)[-1].flip(0)[:reach]
    assert row.shape == (2, reach)
    assert torch.allclose(row, wanted.expand(2, -1), rtol=1e-9)


def test_one_seed_draws_the_same_places() -> None:
    net = network()
    for measure in (inspect.connectivity_by_distance, inspect.loss_after_change):
        draws = [measure(net, TEXT * 4, 4, 3, seed) for seed in (0, 0, 1)]
        assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


def test_a_change_is_noticed_as_reading_both_texts_says() -> None:
    net, reach = network(), 6
    text = "ab" * ((inspect.WARM_UP + reach + 1) // 2) + "a"
    text = text[: inspect.WARM_UP + reach + 1]  # one place only, and two symbols
    changed = list(text)
    place = inspect.WARM_UP
    changed[place] = {"a": "b", "b": "a"}[text[place]]

    def losses(read: str) -> Tensor:
        logits, _ = net(VOCAB.encode(read)[None, :-1])
        each = F.cross_entropy(logits[0], VOCAB.encode(text)[1:], reduction="none")
        return each[place:].detach()

    wanted = losses("".join(changed)) - losses(text)
    found = inspect.loss_after_change(net, text, reach, 2)
    assert found.shape == (2, reach)
    assert torch.allclose(found, wanted.expand(2, -1), atol=1e-10)
    assert (wanted.abs() > 1e-9).all()

    def states(read: str, k: int) -> Tensor:
        return net(VOCAB.encode(read)[None, : place + k])[1][0][:, 0].detach()

    parted = inspect.state_after_change(net, text, (1, 4), 2)
    for row, k in zip(parted, (1, 4), strict=True):
        one, other = states(text, k), states("".join(changed), k)
        size = (one - other).norm(dim=1) / one.norm(dim=1)
        assert torch.allclose(row, size, rtol=1e-6)


def test_a_network_that_reads_nothing_notices_nothing() -> None:
    net, text = constant(), TEXT * 4
    assert (inspect.loss_after_change(net, text, 5, 3) == 0).all()
    assert (inspect.connectivity(net, TEXT[:9]) == 0).all()


def holds(forget: float) -> hlstm.DeepRNN:
    """A unit that writes −1 for an A and 1 for a B, and keeps it, or does not."""
    net = constant(forget, i=-20.0, o=20.0)
    a, b = VOCAB.encode("AB").tolist()
    with torch.no_grad():
        W = net.lstm.get_parameter("weight_ih_l0")
        W[0, [a, b]] = 40.0
        W[2, a], W[2, b] = -20.0, 20.0
        W[1, [a, b]] = -40.0
    return net


def test_a_beginning_is_known_while_it_is_kept() -> None:
    texts = ["ab ba a", "ba, ab b"] * 40
    kept = inspect.memory_of_beginnings(holds(20.0), "AB", texts, (1, 3, 6))
    assert kept.shape == (3, 1) and (kept > 0.999).all()
    lost = inspect.memory_of_beginnings(holds(-1000.0), "AB", texts, (1, 3, 6))
    assert (lost.isnan() | (lost < 0.2)).all()


def test_layers_are_probed_for_what_they_hold() -> None:
    net = holds(20.0)
    text = TEXT * 30
    since, held = [], 0.0
    for s in text:
        held = {"A": -1.0, "B": 1.0}.get(s, held)
        since.append(held)
    torch.manual_seed(0)
    targets = {"kept": torch.tensor(since), "noise": torch.randn(len(text))}
    scores = inspect.probe_layers(net, text, targets)
    assert scores["kept"][0] > 0.999 and scores["noise"][0] < 0.05
    every = inspect.probe_layers(network(), text)
    assert set(every) == set(inspect.probe_targets(net, text)) >= {"next", "4 back"}
    assert all(len(layers) == 2 for layers in every.values())


def test_a_window_knows_its_characters_and_no_others() -> None:
    torch.manual_seed(0)
    text = "".join("ab "[k] for k in torch.randint(3, (2000,)).tolist())
    scores = inspect.probe_window(network(), text, 2)
    assert scores["this one"] > 0.999 and scores["1 back"] > 0.999
    assert abs(scores["2 back"]) < 0.05 and abs(scores["next"]) < 0.05


def test_targets_are_characters_before_and_after() -> None:
    targets = inspect.probe_targets(network(), TEXT)
    ids = VOCAB.encode(TEXT)
    assert targets["next"][:-1].equal(ids[1:]) and targets["this one"].equal(ids)
    for k in range(1, 5):
        assert targets[f"{k} back"][k:].equal(ids[:-k])


# Refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: inspect.gates_over_text(net, ""), "0 characters, .* at least 1"),
        (lambda net: inspect.connectivity(net, "a"), "1 characters, .* at least 2"),
        (lambda net: inspect.gates_over_text(net, "x"), "x"),
        (lambda net: inspect.gates_over_text(net, 3), "str"),  # type: ignore[arg-type]
        (lambda net: inspect.saturation(net, TEXT, low=2), "^low"),
        (lambda net: inspect.full_memories(net, TEXT, 0), "^spread"),
        (lambda net: inspect.connectivity_by_distance(net, TEXT, 99), "at least 200"),
        (lambda net: inspect.connectivity_by_distance(net, TEXT, 0), "^reach"),
        (lambda net: inspect.connectivity_by_distance(net, TEXT * 9, 2, 0), "^places"),
        (lambda net: inspect.loss_after_change(net, TEXT), "at least 201"),
        (lambda net: inspect.loss_after_change(net, "a" * 300), "one symbol only"),
        (lambda net: inspect.state_after_change(net, TEXT * 9, (2, 1)), "rise"),
        (lambda net: inspect.state_after_change(net, TEXT * 9, ()), "rise"),
        (lambda net: inspect.state_after_change(net, TEXT * 9, (0, 1)), "^distances"),
        (lambda net: inspect.untrained_like(net, -1), "^seed"),
        (lambda net: inspect.untrained_like(net, column_bound=-1), "^column_bound"),
        (lambda net: inspect.probe_window(net, TEXT, 0), "^size"),
        (
            lambda net: inspect.memory_of_beginnings(net, ["a", "ab"], [TEXT] * 9),
            r"\[1, 2",
        ),
        (lambda net: inspect.memory_of_beginnings(net, ["a"], [TEXT] * 9), r"\[1\]"),
        (lambda net: inspect.memory_of_beginnings(net, "ab", ["a"] * 9), "at least 64"),
        (lambda net: inspect.memory_of_beginnings(net, "ab", [TEXT * 2]), "at least 8"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Any, words: str) -> None:
    with pytest.raises(HlstmError, match=words):
        call(network())


def test_another_module_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="net is a DeepRNN, and got a Linear"):
        inspect.gates_over_text(nn.Linear(2, 2), TEXT)  # type: ignore[arg-type]
