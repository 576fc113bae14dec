"""The backward pass by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hlstm.backward import LSTMFunction, step_backward
from hlstm.checks import HlstmError
from hlstm.gates import gate_activations, update_state

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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
    assert isinstance(error.value, HlstmError)
