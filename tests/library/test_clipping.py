"""What chapter 11 leaves out: parameters of every kind, and gradients out of range."""

import copy
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import hlstm
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.clipping import NonFiniteGradientError, grad_norm


def parameters(*gradients: list[float] | None) -> list[Tensor]:
    """One parameter for each gradient; None is a parameter without one."""
    made = [torch.zeros(len(g or [])) for g in gradients]
    for p, g in zip(made, gradients, strict=True):
        p.grad = None if g is None else torch.tensor(g)
    return made


NUMBERS = st.floats(-(2.0**50), 2.0**50, width=32)


@given(
    st.lists(st.none() | st.lists(NUMBERS, max_size=4), max_size=4),
    st.floats(1e-3, 1e3),
)
def test_clipping_is_that_of_pytorch(
    gradients: list[list[float] | None], max_norm: float
) -> None:
    ours, theirs = parameters(*gradients), parameters(*gradients)
    norm = hlstm.clip_grad_norm_(ours, max_norm)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    assert float(grad_norm(ours)) <= max_norm * (1 + 1e-5) or not gradients


def test_one_tensor_is_enough() -> None:
    (p,) = parameters([3.0, 4.0])
    assert hlstm.clip_grad_norm_(p, math.inf) == 5 == grad_norm(p)
    assert hlstm.clip_grad_norm_(p) == 5
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8]))


def test_squares_that_overflow_do_not() -> None:
    huge = parameters([3e30, 0.0], [4e30])
    torch.testing.assert_close(hlstm.clip_grad_norm_(huge), torch.tensor(5e30))
    assert abs(float(grad_norm(huge)) - 1) < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_stay_and_are_named(bad: float) -> None:
    made = parameters([1.0], None, [2.0, bad])
    with pytest.raises(NonFiniteGradientError, match=r"parameter 2 of shape \(2,"):
        hlstm.clip_grad_norm_(made)
    assert made[0].grad is not None and made[0].grad.item() == 1


def test_a_norm_out_of_range_is_named() -> None:
    with pytest.raises(NonFiniteGradientError, match="out of range for its dtype"):
        hlstm.clip_grad_norm_(parameters([3e38, 3e38]))


def test_a_gradient_that_is_not_finite_is_a_refusal() -> None:
    assert NonFiniteGradientError.__bases__ == (HlstmError, ArithmeticError)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, -math.inf, np.float32(0)])
def test_a_length_is_positive(bad: float) -> None:
    made = parameters([3.0, 4.0])
    with pytest.raises(
        InvalidValueError, match="max_norm is a number above 0, and got"
    ):
        hlstm.clip_grad_norm_(made, bad)
    assert grad_norm(made) == 5


@pytest.mark.parametrize("bad", ["1", True, None, 1j, [1.0], torch.ones(2), np.ones(2)])
def test_a_length_that_is_no_number_is_named(bad: Any) -> None:
    made = parameters([3.0, 4.0])
    with pytest.raises(InvalidTypeError, match="max_norm is a number above 0, and got"):
        hlstm.clip_grad_norm_(made, bad)
    assert grad_norm(made) == 5


@pytest.mark.parametrize(
    "one", [np.float32(1), np.int64(1), Fraction(1), torch.ones(1)]
)
def test_a_length_is_any_number(one: Any) -> None:
    made = parameters([3.0, 4.0])
    assert hlstm.clip_grad_norm_(made, one) == 5
    torch.testing.assert_close(made[0].grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("infinity", [math.inf, np.float32("inf"), np.float64("inf")])
def test_infinity_only_measures(infinity: float) -> None:
    made = parameters([3.0, 4.0])
    assert hlstm.clip_grad_norm_(made, infinity) == 5
    assert made[0].grad is not None and made[0].grad.tolist() == [3.0, 4.0]


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
