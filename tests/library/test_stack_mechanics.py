"""Characters as input."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

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


# Characters that stand for vectors


@pytest.mark.parametrize("symbols", [3, 100])  # fewer than characters, and more
@pytest.mark.parametrize("layout", ["time first", "batch first", "alone", "packed"])
@pytest.mark.parametrize("engine", ["auto", "reference", "torch"])
def test_characters_may_stand_for_vectors(
    engine: str, layout: str, symbols: int
) -> None:
    E = torch.randn(symbols, 5, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"batch_first": layout == "batch first", "engine": engine}
    rnn = hlstm.LSTM(5, 7, 2, dtype=torch.float64, **options)
    ids = torch.randint(symbols, (6,) if layout == "alone" else (6, 4))
    read: Any = ids
    vectors: Any = E[ids]
    if layout == "packed":
        read = pack_sequence(list(ids), enforce_sorted=False)
        vectors = read._replace(data=E[read.data])
    results = []
    for output, (h, c) in (rnn(read, embedding=E), rnn(vectors)):
        data = output.data if isinstance(output, PackedSequence) else output
        leaves = [E, *rnn.parameters()]
        results.append([data, h, c, *torch.autograd.grad(data.sin().sum(), leaves)])
    torch.testing.assert_close(results[0], results[1], **CLOSE)


@pytest.mark.parametrize("count", [1, 30])
def test_what_stands_for_no_vector_is_named(count: int) -> None:
    rnn, E = hlstm.LSTM(5, 7), torch.randn(9, 5)
    for wrong in (-1, 9):
        ids = torch.zeros(count, 2, dtype=torch.long)
        ids[-1, 1] = wrong
        with pytest.raises(IndexError, match="outside 0 … 8"):
            rnn(ids, embedding=E)
    with pytest.raises(ValueError, match="ids are int64, and got torch.float32"):
        rnn(torch.zeros(count, 2, 5), embedding=E)
