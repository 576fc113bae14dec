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
from torch.utils._python_dispatch import TorchDispatchMode

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


# The other arguments of PyTorch


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("norm_type", [1.0, 2, 3.5, math.inf])
@pytest.mark.parametrize("bad", [0.5, math.nan, math.inf, 3e38])
def test_in_silence_clipping_is_that_of_pytorch(
    bad: float, norm_type: float, foreach: bool | None
) -> None:
    """Also where a square overflows: then all becomes zero, there and here."""
    gradients: tuple[list[float] | None, ...]
    gradients = [1.0, -2.0], None, [], [bad, 3e38 if bad == 3e38 else 3.0]
    ours, theirs = parameters(*gradients), parameters(*gradients)
    arguments = 0.7, norm_type, False, foreach
    norm = hlstm.clip_grad_norm_(ours, *arguments)
    # PyTorch has no largest entry of no entries.
    kept = [p for p in theirs if p.grad is None or p.grad.numel()]
    expected = nn.utils.clip_grad_norm_(kept, *arguments)
    torch.testing.assert_close(norm, expected, equal_nan=True)
    for a, b in zip(ours, theirs, strict=True):
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


@pytest.mark.parametrize("foreach", [True, False])
def test_the_length_may_be_another(foreach: bool) -> None:
    for q, length in ((1, 7.0), (2, 5.0), (math.inf, 4.0)):
        made = parameters([3.0], [0.0, -4.0])
        assert grad_norm(made, q) == length
        assert hlstm.clip_grad_norm_(made, 1.0, q, foreach=foreach) == length
        torch.testing.assert_close(grad_norm(made, q), torch.tensor(1.0))
    torch.testing.assert_close(
        grad_norm(parameters([3e30], [4e30]), 1.5).double() / 1e30,
        torch.tensor((3**1.5 + 4**1.5) ** (1 / 1.5)).double(),
    )


@pytest.mark.parametrize("bad", [0, -1, math.nan, -math.inf])
def test_the_kind_of_a_length_is_positive(bad: float) -> None:
    with pytest.raises(InvalidValueError, match="norm_type is a number above 0, and"):
        hlstm.clip_grad_norm_(parameters([1.0]), 1.0, bad)


class Reads(TorchDispatchMode):
    """Count how often the program waits for a number."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and see whether it hands a number to Python."""
        self.count += "_local_scalar_dense" in str(func) or "is_nonzero" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("strict", "reads"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("foreach", [None, False])
def test_who_does_not_ask_does_not_wait(
    strict: bool, reads: int, foreach: bool | None
) -> None:
    made = parameters([3.0], [0.0, 4.0])
    with Reads() as seen:
        hlstm.clip_grad_norm_(made, error_if_nonfinite=strict, foreach=foreach)
    assert seen.count == reads
    torch.testing.assert_close(grad_norm(made), torch.tensor(1.0))


def test_loss_scaling_skips_steps_that_overflow_and_changes_no_other() -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x, losses = torch.randn(5, 3), []
    for net, start in zip(nets, (2.0**126, 1.0), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=start)
        optimizer, taken = torch.optim.SGD(net.parameters(), lr=0.5), 0
        while taken < 3:
            optimizer.zero_grad()
            loss = net(x).square().sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = hlstm.clip_grad_norm_(net.parameters(), error_if_nonfinite=False)
            taken += bool(norm.isfinite())
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    assert len(losses) > 6 and losses[0] == losses[1]  # the first step was skipped
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q)
