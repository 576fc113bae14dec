"""The gates of one step, and the move of the memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hlstm.gates import gate_activations, update_state

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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


def test_a_step_keeps_the_dtype() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        gate = gate_activations(torch.randn(3, 8, dtype=dtype))
        h, c = update_state(gate, torch.randn(3, 2, dtype=dtype))
        assert {part.dtype for part in (*gate, h, c)} == {dtype}
