"""Characters as input."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hlstm

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_columns_equal_one_hot_vectors(
    shape: tuple[int, ...], batch_first: bool, bias: bool
) -> None:
    rnn = hlstm.LSTM(5, 7, 2, bias, batch_first, dtype=torch.float64)
    ids = torch.randint(5, shape)
    outputs = [rnn(hlstm.one_hot(ids, 5).double()), rnn.forward_ids(ids)]
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
        hlstm.LSTM(5, 7, batch_first=True).forward_ids(ids)


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
