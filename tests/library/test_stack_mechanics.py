"""The parts inside: gates, the backward pass by hand, dropout, characters as input."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hlstm
from hlstm.backward import LSTMFunction, step_backward
from hlstm.gates import gate_activations, update_state

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Gates


@pytest.mark.parametrize("front", [(), (3,), (2, 3)])
def test_gates_are_the_blocks_i_f_g_o(front: tuple[int, ...]) -> None:
    a, c = random(*front, 8), random(*front, 2)
    gate = gate_activations(a)
    blocks = [a[..., 2 * k : 2 * k + 2] for k in range(4)]
    for k, squash in enumerate([torch.sigmoid, torch.sigmoid, torch.tanh]):
        assert torch.equal(gate[k], squash(blocks[k]))
    assert torch.equal(gate.o, blocks[3].sigmoid())
    h_new, c_new = update_state(gate, c)
    torch.testing.assert_close(c_new, gate.f * c + gate.i * gate.g, **CLOSE)
    torch.testing.assert_close(h_new, gate.o * c_new.tanh(), **CLOSE)


def test_gates_need_four_equal_blocks() -> None:
    with pytest.raises(ValueError, match="7 is not a multiple of 4"):
        gate_activations(torch.zeros(2, 7))


# The backward pass by hand


@pytest.mark.parametrize("front", [(), (3,)])
def test_one_step_back_equals_autograd(front: tuple[int, ...]) -> None:
    a, c_prev = random(*front, 8), random(*front, 2)
    gate = gate_activations(a)
    h, c = update_state(gate, c_prev)
    dh, dc = torch.randn_like(h), torch.randn_like(c)
    expected = torch.autograd.grad([h, c], [a, c_prev], [dh, dc])
    torch.testing.assert_close(
        step_backward(gate, c_prev, c, dh, dc), expected, **CLOSE
    )


def test_the_layer_by_hand_has_right_first_and_second_derivatives() -> None:
    inputs = random(3, 2, 8), random(2, 2), random(2, 2), random(8, 2)
    assert torch.autograd.gradcheck(LSTMFunction.apply, inputs)
    assert torch.autograd.gradgradcheck(LSTMFunction.apply, inputs)


def test_the_layer_by_hand_equals_torch() -> None:
    theirs = torch.nn.LSTM(5, 4, dtype=torch.float64)
    x, h, c = random(6, 3, 5), random(3, 4), random(3, 4)
    leaves = [x, h, c, *theirs.parameters()]
    weight_ih, weight_hh, bias_ih, bias_hh = theirs.parameters()
    output, (h_n, c_n) = theirs(x, (h[None], c[None]))
    a_in = x @ weight_ih.T + bias_ih + bias_hh
    results = []
    for out in ((output, h_n[0], c_n[0]), LSTMFunction.apply(a_in, h, c, weight_hh)):
        loss = sum((k + 1) * tensor.sin().sum() for k, tensor in enumerate(out))
        results.append([*out, *torch.autograd.grad(loss, leaves, retain_graph=True)])
    torch.testing.assert_close(results[1], results[0], **CLOSE)


@pytest.mark.parametrize(
    ("a_in", "h"),
    [((0, 2, 8), (2, 2)), ((3, 8), (2, 2)), ((3, 2, 7), (2, 2)), ((3, 2, 8), (2,))],
)
def test_the_layer_by_hand_names_wrong_shapes(
    a_in: tuple[int, ...], h: tuple[int, ...]
) -> None:
    tensors = random(*a_in), random(*h), random(*h), random(8, 2)
    with pytest.raises(ValueError, match="T at least 1") as error:
        LSTMFunction.apply(*tensors)
    assert str(a_in) in str(error.value) and str(h) in str(error.value)


# Dropout


@pytest.mark.parametrize("shared", [None, 0, 1, -1])
def test_a_mask_repeats_along_the_shared_dimension(shared: int | None) -> None:
    x = torch.rand(40, 50, 6) + 1
    drop = hlstm.InvertedDropout(0.3, shared)
    kept = drop(x) != 0
    torch.testing.assert_close(drop.eval()(x), x, rtol=0, atol=0)
    assert abs(kept.float().mean() - 0.7) < 0.1
    torch.testing.assert_close(drop.train()(x).max(), x.max() / 0.7, rtol=0.05, atol=0)
    for dim in range(3):
        repeats = bool((kept == kept.narrow(dim, 0, 1)).all())
        assert repeats == (shared is not None and dim == shared % 3)
    assert f"p=0.3, shared_dim={shared}" in str(drop)


def test_dropout_scales_what_it_keeps() -> None:
    x = random(200)
    y = hlstm.InvertedDropout(0.25)(x)
    y.sum().backward()
    factors = (y / x).detach()
    assert set(factors.round(decimals=12).tolist()) == {0.0, round(4 / 3, 12)}
    torch.testing.assert_close(x.grad, factors, **CLOSE)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_its_ends(p: float) -> None:
    x = torch.rand(50) + 1
    y = hlstm.InvertedDropout(p)(x)
    assert torch.equal(y, x * (1 - p))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_names_a_wrong_probability(p: float) -> None:
    with pytest.raises(ValueError, match=f"is in \\[0, 1\\], and got {p}"):
        hlstm.InvertedDropout(p)


# Characters as input


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_columns_equal_one_hot_vectors(
    shape: tuple[int, ...], batch_first: bool, bias: bool
) -> None:
    rnn = hlstm.LSTM(5, 7, 2, bias, batch_first, dtype=torch.float64)
    ids = torch.randint(5, shape)
    outputs = [rnn(hlstm.one_hot(ids, 5).double()), rnn.forward_one_hot(ids)]
    torch.testing.assert_close(outputs[0], outputs[1], **CLOSE)
    weights, parameters = torch.randn_like(outputs[0][0]), list(rnn.parameters())
    grads = [torch.autograd.grad((o * weights).sum(), parameters) for o, _ in outputs]
    torch.testing.assert_close(grads[0], grads[1], **CLOSE)


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        (torch.tensor([[0, 5]]), IndexError, "ids run from 0 to 5, outside 0 … 4"),
        (torch.tensor([[-1, 4]]), IndexError, "ids run from -1 to 4, outside 0 … 4"),
        (torch.tensor([[0.0]]), ValueError, "ids are int64, and got torch.float32"),
    ],
)
def test_wrong_characters_are_named(
    ids: Tensor, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        hlstm.LSTM(5, 7, batch_first=True).forward_one_hot(ids)


@pytest.mark.parametrize("ids", [torch.zeros(3).long(), torch.zeros(2, 3)])
def test_a_network_reads_rows_of_integers(ids: Tensor) -> None:
    with pytest.raises(ValueError, match="ids is \\(B, T\\) int64, and got shape"):
        hlstm.DeepRNN(hlstm.Vocabulary("abcde"), 7)(ids)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_drops_before_its_head(layers: int) -> None:
    net = hlstm.DeepRNN(hlstm.Vocabulary("abcde"), 7, layers, dropout=1.0)
    ids = torch.randint(5, (2, 6))
    assert torch.equal(net(ids)[0], net.head.bias.expand(2, 6, 5))
    assert not torch.equal(net.eval()(ids)[0], net.head.bias.expand(2, 6, 5))
