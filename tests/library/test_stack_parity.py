"""`LSTM` and `LSTMCell` compute what PyTorch's compute: outputs, states, gradients."""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

import hlstm

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
# The largest difference, relative to the largest number of the tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}
State = tuple[Tensor, Tensor]


@cache
def torch_computes(dtype: torch.dtype, autocast: bool = False) -> bool:
    """Whether PyTorch's own LSTM computes in `dtype` on this processor, gradients too."""
    own = torch.float32 if autocast else dtype
    lstm = torch.nn.LSTM(5, 7, dtype=own)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output, _ = lstm(torch.ones(2, 3, 5, dtype=own))
        output.float().sum().backward()
    except RuntimeError:  # as oneDNN does for bfloat16 without AVX-512
        return False
    return True


@pytest.fixture(scope="module", params=["auto", "reference"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds of the fastest engine and of the readable one."""
    defaults = inspect.unwrap(hlstm.LSTM.__init__).__kwdefaults__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "engine", request.param)
        assert hlstm.LSTM(1, 1).engine == request.param
        yield


def pair(
    layers: int = 2, bias: bool = True, batch_first: bool = False, **options: Any
) -> tuple[torch.nn.LSTM, hlstm.LSTM]:
    options = {"dtype": torch.float64} | options
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 7, layers, bias, batch_first, **options)
    mine = hlstm.LSTM(5, 7, layers, bias, batch_first, **options)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def assert_same(
    theirs: list[Tensor | None], mine: list[Tensor | None], tolerance: float
) -> None:
    for a, b in zip(theirs, mine, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.shape == b.shape and a.dtype == b.dtype
            gap, size = (a - b).abs().max(), a.abs().max()
            assert gap <= tolerance * size, f"{gap:.1e} in a tensor up to {size:.1e}"


def everything(
    module: torch.nn.Module, x: Tensor, state: Tensor | None
) -> list[Tensor | None]:
    """Outputs, both states, and every gradient of a loss on all three."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, state) if t is not None]
    output, (h, c) = module(leaves[0], tuple(leaves[1]) if len(leaves) > 1 else None)
    loss = output.sin().sum() + h.cos().sum() + (c**2).sum()
    module.zero_grad()
    loss.backward()
    return [output, h, c, *(leaf.grad for leaf in [*leaves, *module.parameters()])]


def spread(*shape: int, dtype: torch.dtype, contiguous: bool) -> Tensor:
    """Random numbers, next to each other in memory or not."""
    if contiguous:
        return torch.randn(shape, dtype=dtype)
    *front, last = shape
    return torch.randn(last, *front, 2, dtype=dtype)[..., 0].movedim(0, -1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_lstm_equals_torch(
    layers: int,
    bias: bool,
    batch_first: bool,
    contiguous: bool,
    carried: bool,
    dtype: torch.dtype,
) -> None:
    theirs, mine = pair(layers, bias, batch_first, dtype=dtype)
    for length in (1, 2, 9):
        shape = (3, length, 5) if batch_first else (length, 3, 5)
        x = spread(*shape, dtype=dtype, contiguous=contiguous)
        state = spread(2, layers, 3, 7, dtype=dtype, contiguous=contiguous)
        assert x.is_contiguous() == contiguous == state.is_contiguous()
        got = everything(mine, x, state if carried else None)
        if torch_computes(dtype):
            expected = everything(theirs, x, state if carried else None)
        else:
            start = state.float() if carried else None
            precise = everything(theirs.float(), x.float(), start)
            expected = [None if t is None else t.to(dtype) for t in precise]
            theirs.to(dtype)
        assert_same(expected, got, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("bias", [True, False])
def test_cell_equals_torch(
    bias: bool, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(5, 7, bias, dtype=dtype)
    mine = hlstm.LSTMCell(5, 7, bias, dtype=dtype)
    mine.load_state_dict(theirs.state_dict())
    x = spread(*batch, 5, dtype=dtype, contiguous=False)
    state = torch.randn(2, *batch, 7, dtype=dtype)
    results: list[list[Tensor | None]] = []
    for cell in (theirs, mine):
        leaves = [x.clone().requires_grad_(), state.clone().requires_grad_()]
        h, c = cell(leaves[0], (leaves[1][0], leaves[1][1]))
        h, c = cell(leaves[0], (h, c))
        fresh = cell(x)
        (h.sin().sum() + (c**2).sum() + fresh[0].sum()).backward()
        grads = [leaf.grad for leaf in [*leaves, *cell.parameters()]]
        results.append([h, c, *fresh, *grads])
    assert_same(results[0], results[1], TOLERANCE[dtype])


def test_ten_thousand_steps() -> None:
    theirs, mine = pair(layers=1)
    x = torch.randn(10_000, 1, 5, dtype=torch.float64)
    assert_same(everything(theirs, x, None), everything(mine, x, None), 1e-10)


@pytest.mark.parametrize("carried", [True, False])
def test_a_batch_of_nobody(carried: bool) -> None:
    state = torch.zeros(2, 2, 0, 7, dtype=torch.float64)
    x = torch.zeros(4, 0, 5, dtype=torch.float64)
    for module in pair():
        output, (h, c) = module(x, tuple(state) if carried else None)
        assert output.shape == (4, 0, 7) and h.shape == c.shape == (2, 0, 7)
        output.sum().backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert len(grads) == 8 and not any(g.any() for g in grads)


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_sequence_without_a_batch(batch_first: bool, carried: bool) -> None:
    theirs, mine = pair(batch_first=batch_first)
    x = torch.randn(5, 9, dtype=torch.float64).T
    state = torch.randn(2, 2, 7, dtype=torch.float64) if carried else None
    assert_same(everything(theirs, x, state), everything(mine, x, state), 1e-12)


# Packed sequences


def flat(result: tuple[PackedSequence, State]) -> list[Tensor | None]:
    packed, (h, c) = result
    return [*packed, h, c]


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"),
    [
        ((3, 2, 1), True),
        ((3, 2, 1), False),
        ((4, 4), True),
        ((1,), True),
        ((2, 5, 1, 5), False),
    ],
)
def test_packed_equals_torch(
    lengths: tuple[int, ...],
    enforce_sorted: bool,
    layers: int,
    bias: bool,
    carried: bool,
) -> None:
    theirs, mine = pair(layers, bias, batch_first=True)
    rows = [torch.randn(n, 5, dtype=torch.float64) for n in lengths]
    hx = torch.randn(2, layers, len(rows), 7, dtype=torch.float64)
    results: list[list[Tensor | None]] = []
    for module in (theirs, mine):
        leaves = [t.clone().requires_grad_() for t in [*rows, hx]]
        packed = pack_sequence(leaves[:-1], enforce_sorted)
        out = flat(module(packed, tuple(leaves[-1]) if carried else None))
        assert out[0] is not None and out[-1] is not None and out[-2] is not None
        (out[0].sin().sum() + out[-2].cos().sum() + (out[-1] ** 2).sum()).backward()
        grads = [leaf.grad for leaf in [*leaves, *module.parameters()]]
        results.append([*out, *grads])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(b, a, **CLOSE)


# Dropout between layers


def test_dropout_follows_the_mode() -> None:
    theirs, mine = pair(layers=3, dropout=0.4)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    assert not torch.equal(mine(x)[0], mine(x)[0])
    theirs.eval(), mine.eval()
    torch.testing.assert_close(mine(x), theirs(x), **CLOSE)


def test_all_is_dropped_at_one() -> None:
    theirs, mine = pair(layers=3, dropout=1.0)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    assert_same(everything(theirs, x, None)[:3], everything(mine, x, None)[:3], 1e-12)


def test_dropout_has_the_law_of_torch() -> None:
    """The top layer is not dropped; what it reads is, independently at each step."""
    x = torch.randn(2, 1, 5, dtype=torch.float64).expand(2, 20_000, 5)
    moments = []
    with torch.no_grad():
        for module in pair(layers=2, dropout=0.4):
            output, (h, _) = module(x)
            torch.testing.assert_close(h[0], h[0, :1].expand_as(h[0]), **CLOSE)
            products = torch.stack([output[-1], output[-1] ** 2, output[0] * output[1]])
            moments.append((products.mean(1), products.var(1) / x.shape[1]))
    (a, error_a), (b, error_b) = moments
    assert ((a - b).abs() / (error_a + error_b).sqrt()).max() < 5


# Under autocast


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_autocast_gives_the_dtypes_of_torch(layers: int, carried: bool) -> None:
    theirs, mine = pair(layers, dtype=torch.float32)
    x, state = torch.randn(6, 3, 5), torch.randn(2, layers, 3, 7)
    hx = (state[0], state[1]) if carried else None
    precise = mine(x, hx)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mine(x, hx)
    tensors = [got[0], *got[1]]
    assert {t.dtype for t in tensors} == {torch.bfloat16}
    # PyTorch leaves float32 where its kernel for bfloat16 does not run, or fails.
    runs = torch_computes(torch.bfloat16, autocast=True)
    if runs and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = theirs(x, hx)
        assert [t.dtype for t in (expected[0], *expected[1])] == [torch.bfloat16] * 3
    for rounded, exact in zip(tensors, (precise[0], *precise[1]), strict=True):
        torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=3e-2)
    got[0].float().sum().backward()
    grads = [p.grad for p in mine.parameters() if p.grad is not None]
    assert [g.dtype for g in grads] == [torch.float32] * 4 * layers


def test_autocast_of_the_cell_and_of_packed_sequences() -> None:
    cell, rnn = hlstm.LSTMCell(5, 7), pair(dtype=torch.float32)[1]
    x = torch.randn(3, 5)
    packed = pack_sequence([torch.randn(n, 5) for n in (3, 1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = torch.nn.LSTMCell(5, 7)(x), cell(x)
        assert [t.dtype for t in got] == [t.dtype for t in expected]
        output, state = rnn(packed)
    assert {t.dtype for t in (output.data, *state)} == {torch.bfloat16}


# Properties

SIZES = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 4),
        "hidden_size": st.integers(1, 5),
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
    }
)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
often = settings(max_examples=40, deadline=None, derandomize=True)


def network(sizes: dict[str, Any], batch: int) -> tuple[hlstm.LSTM, State]:
    """A network and a state to start from."""
    torch.manual_seed(0)
    rnn = hlstm.LSTM(**sizes, dtype=torch.float64)
    state = torch.randn(2, rnn.num_layers, batch, rnn.hidden_size, dtype=torch.float64)
    return rnn, (state[0], state[1])


def sequences(rnn: hlstm.LSTM, lengths: list[int]) -> list[Tensor]:
    return [torch.randn(n, rnn.input_size, dtype=torch.float64) for n in lengths]


@often
@given(sizes=SIZES, length=st.integers(2, 8), data=st.data())
def test_pieces_equal_the_whole(
    sizes: dict[str, Any], length: int, data: st.DataObject
) -> None:
    rnn, state = network(sizes, 2)
    time = 1 if rnn.batch_first else 0
    x = torch.stack(sequences(rnn, [length, length]), 1 - time)
    cut = data.draw(st.integers(1, length - 1))
    first, middle = rnn(x.narrow(time, 0, cut), state)
    second, end = rnn(x.narrow(time, cut, length - cut), middle)
    whole, expected = rnn(x, state)
    torch.testing.assert_close(torch.cat([first, second], time), whole, **CLOSE)
    torch.testing.assert_close(end, expected, **CLOSE)


@often
@given(sizes=SIZES, batch=st.integers(1, 4), length=st.integers(1, 6))
def test_a_batch_equals_its_rows(
    sizes: dict[str, Any], batch: int, length: int
) -> None:
    rnn, (h, c) = network(sizes, batch)
    rows = sequences(rnn, [length] * batch)
    side = 0 if rnn.batch_first else 1
    together, (h_n, c_n) = rnn(torch.stack(rows, side), (h, c))
    for k, row in enumerate(rows):
        alone, (h_k, c_k) = rnn(row, (h[:, k], c[:, k]))
        one, state = rnn(row.unsqueeze(side), (h[:, k : k + 1], c[:, k : k + 1]))
        torch.testing.assert_close(alone, together.select(side, k), **CLOSE)
        torch.testing.assert_close((h_k, c_k), (h_n[:, k], c_n[:, k]), **CLOSE)
        torch.testing.assert_close(one.squeeze(side), alone, **CLOSE)
        torch.testing.assert_close(state[1].squeeze(1), c_k, **CLOSE)


@often
@given(sizes=SIZES, lengths=LENGTHS)
def test_packed_equals_rows_cut_at_their_lengths(
    sizes: dict[str, Any], lengths: list[int]
) -> None:
    rnn, (h, c) = network(sizes, len(lengths))
    rows = sequences(rnn, lengths)
    packed, (h_n, c_n) = rnn(pack_sequence(rows, enforce_sorted=False), (h, c))
    for k, output in enumerate(unpack_sequence(packed)):
        alone, (h_k, c_k) = rnn(rows[k], (h[:, k], c[:, k]))
        torch.testing.assert_close(output, alone, **CLOSE)
        torch.testing.assert_close((h_n[:, k], c_n[:, k]), (h_k, c_k), **CLOSE)


@often
@given(sizes=SIZES, length=st.integers(1, 6))
def test_a_stack_equals_cells_in_two_loops(sizes: dict[str, Any], length: int) -> None:
    rnn, (h, c) = network(sizes, 2)
    cells = []
    for k, weights in enumerate(rnn.all_weights):
        width = rnn.hidden_size if k else rnn.input_size
        cell = hlstm.LSTMCell(width, rnn.hidden_size, rnn.bias, dtype=torch.float64)
        names = [name for name, _ in cell.named_parameters()]
        cell.load_state_dict(dict(zip(names, weights, strict=True)))
        cells.append(cell)
    x = torch.stack(sequences(rnn, [length] * 2), 0 if rnn.batch_first else 1)
    output, (h_n, c_n) = rnn(x, (h, c))
    states = list(zip(h, c, strict=True))
    for t in range(length):
        value = x.select(1 if rnn.batch_first else 0, t)
        for k, cell in enumerate(cells):
            states[k] = cell(value, states[k])
            value = states[k][0]
        expected = output.select(1 if rnn.batch_first else 0, t)
        torch.testing.assert_close(value, expected, **CLOSE)
    for k, (h_k, c_k) in enumerate(states):
        torch.testing.assert_close((h_k, c_k), (h_n[k], c_n[k]), **CLOSE)
