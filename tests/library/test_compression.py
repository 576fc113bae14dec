"""The arithmetic coder and the compressor: whatever goes in comes out."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hlstm
from hlstm.coding import HEADER, TOTAL

TEXT = "to be, or not to be, that is the question"


@pytest.fixture(scope="module")
def net() -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(hlstm.Vocabulary.from_text(TEXT), 16, 2)


def there_and_back(tables: Sequence[list[int]], symbols: list[int]) -> int:
    """Code symbols, check that they come back, and return the number of bytes."""
    encoder = hlstm.ArithmeticEncoder()
    for table, symbol in zip(tables, symbols, strict=True):
        encoder.put(table, symbol)
    code = encoder.finish()
    decoder = hlstm.ArithmeticDecoder(code)
    assert [decoder.take(table) for table in tables] == symbols
    return len(code)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_symbols_come_back_under_any_tables(data: st.DataObject) -> None:
    """Also under tables that leave a single part to the symbol that comes."""
    V = data.draw(st.integers(1, 6))
    weight = st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 1.0])
    row = st.lists(weight, min_size=V, max_size=V).filter(any)
    rows = data.draw(st.lists(row, max_size=60))
    tables = [hlstm.coding_table(torch.tensor(r) / sum(r)) for r in rows]
    symbols = [data.draw(st.integers(0, V - 1)) for _ in rows]
    bits = sum(
        -math.log2((t[k + 1] - t[k]) / TOTAL)
        for t, k in zip(tables, symbols, strict=True)
    )
    assert there_and_back(tables, symbols) <= bits / 8 * 1.001 + 2


@pytest.mark.parametrize("last", [0, 1, 2])
def test_an_interval_around_the_middle_stays_wide(last: int) -> None:
    """The middle half straddles ½ again and again, and leaves digits pending."""
    table = [0, TOTAL // 4, 3 * TOTAL // 4, TOTAL]
    for n in range(60):
        assert there_and_back([table] * (n + 1), [1] * n + [last]) <= (n + 2) / 8 + 2


@pytest.mark.parametrize(
    "p", [[1.0], [0.0, 1.0], [1 / 3] * 3, [1e-30, 1 - 1e-7, 1e-7], [1 / 7000] * 7000]
)
def test_a_table_leaves_a_part_to_every_symbol(p: list[float]) -> None:
    table = hlstm.coding_table(torch.tensor(p))
    assert table[0] == 0 and table[-1] == TOTAL and len(table) == len(p) + 1
    parts = [b - a for a, b in zip(table, table[1:], strict=False)]
    assert min(parts) >= 1
    wanted = [x * TOTAL for x in p]
    assert all(abs(a - b) <= len(p) + 1 for a, b in zip(parts, wanted, strict=True))


@pytest.mark.parametrize(
    "p", [[0.5, 0.4], [1.5, -0.5], [math.nan, 1.0], [math.inf, 0.0], [[1.0]]]
)
def test_what_is_no_distribution_is_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        hlstm.coding_table(torch.tensor(p))


@pytest.mark.parametrize("streams", [1, 2, 7, len(TEXT), 3 * len(TEXT)])
@pytest.mark.parametrize("text", ["", "t", TEXT])
def test_a_text_comes_back(net: hlstm.DeepRNN, text: str, streams: int) -> None:
    net.train()
    data = hlstm.compress(net, text, streams)
    assert hlstm.decompress(net, data) == text
    assert net.training


def test_the_size_is_the_loss(net: hlstm.DeepRNN) -> None:
    text = TEXT * 8
    ids = net.vocab.encode(text)
    nats = (len(ids) - 1) * hlstm.evaluate(net, ids, 1) + math.log(len(net.vocab))
    size = len(hlstm.compress(net, text)) - HEADER.size - 4
    assert abs(size - nats / (8 * math.log(2))) < 2


def test_one_symbol_needs_no_bytes() -> None:
    net = hlstm.DeepRNN(hlstm.Vocabulary("a"), 4, 1)
    data = hlstm.compress(net, "a" * 100)
    assert len(data) == HEADER.size + 5
    assert hlstm.decompress(net, data) == "a" * 100


def test_another_network_is_noticed(net: hlstm.DeepRNN) -> None:
    data = hlstm.compress(net, TEXT)
    with pytest.raises(ValueError, match="another network"):
        hlstm.decompress(hlstm.DeepRNN(net.vocab, 16, 2), data)


def test_damage_is_noticed(net: hlstm.DeepRNN) -> None:
    data = hlstm.compress(net, TEXT)
    for k in range(len(data)):
        for damaged in (data[:k], data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]):
            with pytest.raises(ValueError, match="damaged"):
                hlstm.decompress(net, damaged)


def test_wrong_arguments_are_refused(net: hlstm.DeepRNN) -> None:
    with pytest.raises(ValueError, match="streams is at least 1"):
        hlstm.compress(net, TEXT, 0)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        hlstm.compress(net, "Z")
