"""`LSTMCell` and `LSTM` against PyTorch's, beyond the cases that chapters 4 and 6 print."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch

import hlstm

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def pair(
    layers: int, bias: bool, batch_first: bool
) -> tuple[torch.nn.LSTM, hlstm.LSTM]:
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 7, layers, bias, batch_first, dtype=torch.float64)
    mine = hlstm.LSTM(5, 7, layers, bias, batch_first, dtype=torch.float64)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


@pytest.mark.parametrize(
    ("layers", "bias", "batch_first", "carried", "length"),
    itertools.product((1, 2, 3), (True, False), (True, False), (True, False), (1, 9)),
)
def test_lstm_equals_torch(
    layers: int, bias: bool, batch_first: bool, carried: bool, length: int
) -> None:
    theirs, mine = pair(layers, bias, batch_first)
    shape = (3, length, 5) if batch_first else (length, 3, 5)
    x = torch.randn(shape, dtype=torch.float64)
    state = torch.randn(2, layers, 3, 7, dtype=torch.float64)
    results = []
    for module in (theirs, mine):
        leaves = [x.clone().requires_grad_(), state.clone().requires_grad_()]
        hx = (leaves[1][0], leaves[1][1]) if carried else None
        output, (h, c) = module(leaves[0], hx)
        (output.sin().sum() + h.cos().sum() + (c**2).sum()).backward()
        gradients = [p.grad for p in [*leaves, *module.parameters()]]
        results.append([output, h, c, *gradients])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, **CLOSE)


def test_state_dict_goes_both_ways() -> None:
    theirs, mine = pair(2, True, False)
    theirs.load_state_dict(mine.state_dict())
    assert list(theirs.state_dict()) == list(mine.state_dict())


def test_unbatched_and_non_contiguous() -> None:
    theirs, mine = pair(2, True, True)
    x = torch.randn(5, 9, dtype=torch.float64).T
    torch.testing.assert_close(mine(x), theirs(x), **CLOSE)
    state = tuple(torch.randn(2, 7, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(mine(x, state), theirs(x, state), **CLOSE)


def test_copies_keep_their_weights() -> None:
    _, mine = pair(1, True, False)
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        torch.testing.assert_close(copied(x), mine(x), rtol=0, atol=0)


@pytest.mark.parametrize("bad", [torch.zeros(2), torch.zeros(4, 2, 6)])
def test_wrong_input_raises_as_torch_does(bad: torch.Tensor) -> None:
    theirs, mine = pair(1, True, False)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(bad.double())
    with pytest.raises(expected.type):
        mine(bad.double())


def test_forget_bias_needs_biases() -> None:
    with pytest.raises(ValueError, match="no LSTM bias to set in LSTM"):
        hlstm.set_forget_bias_(hlstm.LSTM(5, 7, bias=False))


def test_clipping_equals_torch_over_many_gradients() -> None:
    torch.manual_seed(0)
    for _ in range(200):
        mine = [torch.randn(3, 4), torch.randn(5)]
        scale = 10 ** torch.empty(1).uniform_(-8, 8)
        for p in mine:
            p.grad = torch.randn_like(p) * scale
        theirs = copy.deepcopy(mine)
        for p, q in zip(mine, theirs, strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        a = hlstm.clip_grad_norm_(mine, 0.7)
        b = torch.nn.utils.clip_grad_norm_(theirs, 0.7)
        torch.testing.assert_close(a, b)
        for p, q in zip(mine, theirs, strict=True):
            torch.testing.assert_close(p.grad, q.grad)
