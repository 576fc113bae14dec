"""`LSTMCell`: one class, its numbers; and the forget bias."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hlstm
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.gates import State


def test_the_cell_is_one_class_with_the_state_of_the_gates() -> None:
    assert hlstm.LSTMCell.__bases__ == (nn.Module,)
    assert hlstm.LSTMCell.forward.__annotations__["return"] is State


@pytest.mark.parametrize("bias", [True, False])
def test_a_seed_draws_the_parameters_of_torch(bias: bool) -> None:
    torch.manual_seed(3)
    mine = hlstm.LSTMCell(3, 5, bias)
    torch.manual_seed(3)
    theirs = nn.LSTMCell(3, 5, bias)
    assert str(mine) == str(theirs)
    torch.testing.assert_close(dict(mine.state_dict()), dict(theirs.state_dict()))
    mine.reset_parameters()
    assert not torch.equal(mine.weight_hh, theirs.weight_hh)


def test_a_cell_of_no_units_steps() -> None:
    h, c = hlstm.LSTMCell(3, 0)(torch.ones(2, 3))
    assert h.shape == c.shape == (2, 0)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(1.5), 1.5),
        (np.int64(2), 2.0),
        (Fraction(1, 2), 0.5),
        (torch.tensor(3.0), 3.0),
        (-4, -4.0),
    ],
)
def test_a_forget_bias_is_any_number(value: Any, number: float) -> None:
    cell = hlstm.LSTMCell(2, 3)
    bias_ih, bias_hh = cell.get_parameter("bias_ih"), cell.get_parameter("bias_hh")
    before = bias_ih.tolist()
    assert hlstm.set_forget_bias_(cell, value) is cell
    assert bias_ih.tolist() == before[:3] + [number] * 3 + before[6:]
    assert bias_hh[3:6].tolist() == [0] * 3


@pytest.mark.parametrize("value", ["1", True, None, 1j, torch.ones(3)])
def test_a_forget_bias_that_is_no_number_is_named(value: Any) -> None:
    cell = hlstm.LSTMCell(2, 3)
    bias = cell.get_parameter("bias_ih")
    before = bias.tolist()
    with pytest.raises(InvalidTypeError, match="value is a number, and got"):
        hlstm.set_forget_bias_(cell, value)
    assert bias.tolist() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_forget_bias_is_finite(value: float) -> None:
    with pytest.raises(InvalidValueError, match=f"value is a number, and got {value}"):
        hlstm.set_forget_bias_(hlstm.LSTMCell(2, 3), value)


@pytest.mark.parametrize(
    "module",
    [hlstm.LSTM(5, 7, bias=False), nn.GRU(3, 2), nn.RNN(3, 2), nn.Linear(2, 2)],
    ids=lambda module: type(module).__name__,
)
def test_forget_bias_needs_biases(module: nn.Module) -> None:
    words = f"no LSTM bias to set in {type(module).__name__}"
    with pytest.raises(InvalidValueError, match=words):
        hlstm.set_forget_bias_(module)


def test_forget_bias_needs_a_module() -> None:
    with pytest.raises(InvalidTypeError, match="module is a torch.nn.Module"):
        hlstm.set_forget_bias_(None)  # type: ignore[arg-type]


def test_forget_bias_passes_over_modules_that_are_no_lstm() -> None:
    """A `hidden_size` may be anything in somebody else's module."""
    other = nn.Linear(2, 2)
    other.hidden_size = [4, 4]  # type: ignore[assignment]
    net = nn.Sequential(other, nn.LSTM(2, 3, num_layers=2))
    hlstm.set_forget_bias_(net, 2.0)
    assert net.get_parameter("1.bias_ih_l1")[3:6].tolist() == [2.0] * 3
