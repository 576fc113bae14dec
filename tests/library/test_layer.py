"""One layer over time: ids, vectors, packed; and what stands above it in the house."""

import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import hlstm
from hlstm import layer as module
from hlstm.checks import InvalidIndexError, InvalidTypeError, InvalidValueError
from hlstm.layer import (
    Layer,
    layer_shapes,
    pick_columns,
    reference_layer,
    unroll,
    unroll_packed,
)

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
V, H, B, T = 5, 4, 3, 6


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def a_layer(bias: bool = True) -> Layer:
    return random(4 * H, V), random(4 * H, H), random(4 * H) if bias else None


def by_cell(x: Tensor, h: Tensor, c: Tensor, layer: Layer) -> tuple[Tensor, ...]:
    """One layer over vectors (T, B, V), step by step with PyTorch's cell."""
    weight_ih, weight_hh, bias = layer
    hidden = []
    for step in x:
        h, c = torch._VF.lstm_cell(
            step,
            (h, c),
            weight_ih,
            weight_hh,
            bias,
            None if bias is None else torch.zeros_like(bias),
        )
        hidden.append(h)
    return torch.stack(hidden), h, c


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_the_cell_of_torch(bias: bool) -> None:
    layer, x, h, c = a_layer(bias), random(T, B, V), random(B, H), random(B, H)
    leaves = [t for t in (x, h, c, *layer) if t is not None]
    results = []
    for run in (by_cell, reference_layer):
        made = run(x, h, c, layer)
        loss = made[0].sin().sum() + 2 * made[1].sin().sum() + 3 * made[2].sin().sum()
        results.append([*made, *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(results[1], results[0], **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
def test_ids_are_one_hot_vectors(bias: bool) -> None:
    layer, h, c = a_layer(bias), random(B, H), random(B, H)
    ids = torch.randint(V, (T, B))
    vectors = nn.functional.one_hot(ids, V).double()
    torch.testing.assert_close(
        reference_layer(ids, h, c, layer), by_cell(vectors, h, c, layer), **CLOSE
    )


@pytest.mark.parametrize("characters", [True, False])
def test_packed_rows_are_run_alone(characters: bool) -> None:
    layer, h, c = a_layer(), random(B, H), random(B, H)
    rows = [torch.randint(V, (n,)) for n in (6, 3, 1)]
    vectors = [nn.functional.one_hot(row, V).double() for row in rows]
    packed = pack_sequence(rows if characters else vectors)
    hidden, h_n, c_n = reference_layer(packed.data, h, c, layer, packed.batch_sizes)
    ended = nn.utils.rnn.unpack_sequence(PackedSequence(hidden, packed.batch_sizes))
    for k, row in enumerate(vectors):
        expected = by_cell(row[:, None], h[k : k + 1], c[k : k + 1], layer)
        got = ended[k][:, None], h_n[k : k + 1], c_n[k : k + 1]
        torch.testing.assert_close(got, expected, **CLOSE)


def test_loops_take_what_the_input_gives() -> None:
    a_in, h, c, weight_hh = (
        random(T, B, 4 * H),
        random(B, H),
        random(B, H),
        a_layer()[1],
    )
    hidden, *last = unroll(a_in, h, c, weight_hh)
    sizes = torch.tensor([B] * T)
    packed, *other = unroll_packed(a_in.flatten(0, 1), h, c, weight_hh, sizes)
    torch.testing.assert_close(packed.view(T, B, H), hidden, **CLOSE)
    torch.testing.assert_close(other, last, **CLOSE)


def test_a_loop_of_no_steps_is_refused_in_the_words_of_torch() -> None:
    said = []
    for rnn in (nn.LSTM(V, H), hlstm.LSTM(V, H)):
        with pytest.raises(RuntimeError) as refused:
            rnn(torch.zeros(0, B, V))
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("ids", "kind", "words"),
    [
        ([0], InvalidTypeError, "ids are a tensor, and got a list"),
        (
            torch.tensor([0.0]),
            InvalidValueError,
            "ids are int64, and got torch.float32",
        ),
        (torch.tensor([0]).int(), InvalidValueError, "and got torch.int32"),
        (torch.tensor([0, 5]), InvalidIndexError, "from 0 to 5, outside 0 … 4"),
        (torch.tensor([-1, 4]), InvalidIndexError, "from -1 to 4, outside 0 … 4"),
    ],
)
def test_wrong_ids_are_named(ids: Any, kind: type[Exception], words: str) -> None:
    weight_ih, _, bias = a_layer()
    with pytest.raises(kind, match=words):
        pick_columns(ids, weight_ih, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_are_those_of_torch(layers: int, bias: bool) -> None:
    theirs = nn.LSTM(V, H, layers, bias).named_parameters()
    expected = [(name, tuple(p.shape)) for name, p in theirs]
    assert list(layer_shapes(V, H, layers, bias).items()) == expected


# `LSTM` over ids and vectors


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(T,), (T, B)])
def test_the_module_reads_ids(
    shape: tuple[int, ...], batch_first: bool, engine: str
) -> None:
    rnn = hlstm.LSTM(
        V, H, 2, batch_first=batch_first, dtype=torch.float64, engine=engine
    )
    ids = torch.randint(V, shape)
    expected = rnn(nn.functional.one_hot(ids, V).double())
    torch.testing.assert_close(rnn(ids), expected, **CLOSE)
    torch.testing.assert_close(rnn.forward_ids(ids), expected, **CLOSE)
    torch.testing.assert_close(rnn(ids, expected[1]), rnn.forward_ids(ids, expected[1]))


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_the_module_reads_packed_ids(enforce_sorted: bool, engine: str) -> None:
    rnn = hlstm.LSTM(V, H, 2, dtype=torch.float64, engine=engine)
    lengths = (6, 3, 1) if enforce_sorted else (1, 6, 3)
    rows = [torch.randint(V, (n,)) for n in lengths]
    vectors = [nn.functional.one_hot(row, V).double() for row in rows]
    got, state = rnn(pack_sequence(rows, enforce_sorted))
    expected, end = rnn(pack_sequence(vectors, enforce_sorted))
    torch.testing.assert_close(got.data, expected.data, **CLOSE)
    torch.testing.assert_close(state, end, **CLOSE)


def test_ids_in_three_dimensions_are_vectors_of_a_wrong_type() -> None:
    x = torch.zeros(T, B, V).long()
    said = []
    for rnn in (nn.LSTM(V, H), hlstm.LSTM(V, H)):
        with pytest.raises(ValueError) as refused:
            rnn(x)
        said.append(str(refused.value))
    assert said[0] == said[1] and "input dtype (torch.int64)" in said[0]


@pytest.mark.parametrize("ids", [torch.zeros(2, 3), torch.zeros(2, 3).int(), [0]])
def test_forward_ids_takes_nothing_else(ids: Any) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match="ids are"):
        hlstm.LSTM(V, H).forward_ids(ids)


def test_forward_ids_calls_the_module() -> None:
    rnn, calls = hlstm.LSTM(V, H), []
    rnn.register_forward_hook(lambda module, given, made: calls.append(given[0]))
    ids = torch.randint(V, (T, B))
    rnn.forward_ids(ids)
    assert len(calls) == 1 and calls[0] is ids


# The house


@pytest.mark.parametrize(
    ("public", "names"),
    [(hlstm.LSTM, ["LSTM", "TorchNames"]), (hlstm.DeepRNN, ["DeepRNN"])],
)
def test_a_public_class_is_one_class_below_module(
    public: type[nn.Module], names: list[str]
) -> None:
    ours = [c.__name__ for c in public.__mro__ if c.__module__.startswith("hlstm")]
    assert ours == names
    assert nn.Module in public.__bases__


def test_forward_reaches_the_loop_in_four_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    def gate_activations(a: Tensor) -> Any:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not called[-1:] == ["forward"]:
            called.append(frame.f_code.co_name)
            frame = frame.f_back
        return original(a)

    original = module.gate_activations
    monkeypatch.setattr(module, "gate_activations", gate_activations)
    hlstm.LSTM(V, H, engine="reference")(torch.zeros(T, B, V))
    assert called == ["unroll", "reference_layer", "run_layer", "forward"]
