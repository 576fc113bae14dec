"""The arithmetic coder and the compressor: whatever goes in comes out."""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hlstm
from hlstm.checks import InvalidIndexError, InvalidTypeError, InvalidValueError
from hlstm.compression import (
    HEADER,
    MAX_STREAMS,
    TOTAL,
    ArithmeticDecoder,
    ArithmeticEncoder,
    coding_table,
)

TEXT = "to be, or not to be, that is the question"


@pytest.fixture(scope="module")
def net() -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(hlstm.Vocabulary.from_text(TEXT), 16, 2)


def there_and_back(tables: Sequence[list[int]], symbols: list[int]) -> int:
    """Code symbols, check that they come back, and return the number of bytes."""
    encoder = ArithmeticEncoder()
    for table, symbol in zip(tables, symbols, strict=True):
        encoder.put(table, symbol)
    code = encoder.finish()
    decoder = ArithmeticDecoder(code)
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
    tables = [coding_table(torch.tensor(r) / sum(r)) for r in rows]
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
    table = coding_table(torch.tensor(p))
    assert table[0] == 0 and table[-1] == TOTAL and len(table) == len(p) + 1
    parts = [b - a for a, b in zip(table, table[1:], strict=False)]
    assert min(parts) >= 1
    wanted = [x * TOTAL for x in p]
    assert all(abs(a - b) <= len(p) + 1 for a, b in zip(parts, wanted, strict=True))


@pytest.mark.parametrize(
    "p", [[0.5, 0.4], [1.5, -0.5], [math.nan, 1.0], [math.inf, 0.0], [[1.0]]]
)
def test_what_is_no_distribution_is_refused(p: list[float]) -> None:
    with pytest.raises(InvalidValueError, match="add up to 1"):
        coding_table(torch.tensor(p))


def test_more_symbols_than_parts_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="1,048,576 symbols are too many"):
        coding_table(torch.full((TOTAL,), 1 / TOTAL))


@pytest.mark.parametrize("symbol", [-1, 2, 7])
def test_a_symbol_that_the_table_lacks_is_refused(symbol: int) -> None:
    with pytest.raises(InvalidIndexError, match=f"symbol {symbol} is not in a table"):
        ArithmeticEncoder().put([0, 5, TOTAL], symbol)


@pytest.mark.parametrize("code", [b"", b"\x80", b"\xff" * 5])
def test_a_decoder_notices_that_the_code_has_ended(code: bytes) -> None:
    decoder, table = ArithmeticDecoder(code), [0, TOTAL // 2, TOTAL]
    with pytest.raises(InvalidValueError, match="the code ended"):
        for _ in range(8 * len(code) + 2):
            decoder.take(table)


@given(st.integers(2, 9), st.integers(0, 400))
def test_the_bound_of_characters_holds(V: int, n: int) -> None:
    """The likeliest symbol of all, again and again: the cheapest text there is."""
    encoder, table = ArithmeticEncoder(), [0, *range(TOTAL - V + 1, TOTAL + 1)]
    for _ in range(n):
        encoder.put(table, 0)
    # What is left of the interval says how many digits n symbols have cost so far.
    spent = 32 - math.log2(encoder.high - encoder.low) + len(encoder.bits)
    assert spent + encoder.pending >= n / TOTAL


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
    with pytest.raises(ValueError, match="not in the vocabulary"):
        hlstm.compress(net, "Z")
    wrong: list[Any] = [0, -1, MAX_STREAMS + 1, 2**26, 2**70, np.int64(0)]
    for streams in wrong:
        with pytest.raises(InvalidValueError, match="streams is an integer from 1 to"):
            hlstm.compress(net, TEXT, streams)
    wrong = [1.0, True, "1", None, Fraction(1), np.float64(2)]
    for streams in wrong:
        with pytest.raises(InvalidTypeError, match="streams is an integer from 1 to"):
            hlstm.compress(net, TEXT, streams)
    for data in ("text", 5, None, [1, 2]):
        with pytest.raises(InvalidTypeError, match="data is bytes, and got a"):
            hlstm.decompress(net, data)  # type: ignore[arg-type]


def test_integers_and_bytes_of_every_kind_are_taken(net: hlstm.DeepRNN) -> None:
    data = hlstm.compress(net, TEXT, 3)
    streams: list[Any] = [np.int64(3), np.uint8(3), torch.tensor(3)]
    assert all(hlstm.compress(net, TEXT, s) == data for s in streams)
    kinds: list[Any] = [bytearray, memoryview]
    for kind in kinds:
        assert hlstm.decompress(net, kind(data)) == TEXT


def test_a_text_has_no_more_streams_than_characters(net: hlstm.DeepRNN) -> None:
    """So that many streams of a short text cost neither memory nor time."""
    for text, most in ((TEXT, len(TEXT)), ("to", 2), ("t", 1), ("", 1)):
        data = hlstm.compress(net, text, MAX_STREAMS)
        assert HEADER.unpack_from(data)[1] == most
        assert hlstm.decompress(net, data) == text


# Headers that lie, under checksums that are right


def forge(data: bytes, count: int, streams: int) -> bytes:
    """`data` with other numbers in its header, and the checksum of the whole."""
    crc = HEADER.unpack_from(data)[2]
    body = HEADER.pack(count, streams, crc) + data[HEADER.size : -4]
    return body + zlib.crc32(body).to_bytes(4)


HUGE = [10**6, 2**20, 2**24, 2**32, 2**53, 2**63, 2**64 - 1]


@pytest.mark.parametrize("count", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 500, *HUGE])
@pytest.mark.parametrize("streams", [0, 1, 7, 500, 2**16, 2**26, 2**31, 2**32 - 1])
def test_a_forged_header_is_refused_at_once(
    net: hlstm.DeepRNN, count: int, streams: int
) -> None:
    data = forge(hlstm.compress(net, TEXT), count, streams)
    with bounded_tensors(), pytest.raises(InvalidValueError):
        hlstm.decompress(net, data)


@contextmanager
def bounded_tensors() -> Iterator[None]:
    """Fail where one stream or step costs more than a forged file of 50 bytes may."""

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                assert result.numel() <= 2**23, func
            return result

    with Watch():
        yield


def test_files_of_random_headers_are_refused(net: hlstm.DeepRNN) -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        body = generator.bytes(int(generator.integers(0, 60)))
        data = body + zlib.crc32(body).to_bytes(4)
        with pytest.raises(InvalidValueError):
            hlstm.decompress(net, data)


def test_a_vocabulary_of_one_symbol_keeps_to_the_bound() -> None:
    net = hlstm.DeepRNN(hlstm.Vocabulary("a"), 2, 1)
    data = hlstm.compress(net, "a" * 100)
    with pytest.raises(InvalidValueError, match="claims 8,388,609 characters"):
        hlstm.decompress(net, forge(data, 8 * TOTAL + 1, 1))
    assert struct.calcsize(HEADER.format) == HEADER.size


# What else is set in the process


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(
    net: hlstm.DeepRNN, dtype: torch.dtype
) -> None:
    wanted, default = hlstm.compress(net, TEXT, 3), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert hlstm.compress(net, TEXT, 3) == wanted
        assert hlstm.decompress(net, wanted) == TEXT
    finally:
        torch.set_default_dtype(default)


def test_the_default_device_changes_nothing(net: hlstm.DeepRNN) -> None:
    wanted = hlstm.compress(net, TEXT, 3)
    with torch.device("meta"):
        assert hlstm.compress(net, TEXT, 3) == wanted
        assert hlstm.decompress(net, wanted) == TEXT


def test_inference_mode_and_autocast_compress(net: hlstm.DeepRNN) -> None:
    """Whoever reads in the mode in which was written gets the text."""
    modes: list[Any] = [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)]
    for mode in modes:
        with mode:
            assert hlstm.decompress(net, hlstm.compress(net, TEXT, 3)) == TEXT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_of_every_dtype_compress(
    net: hlstm.DeepRNN, dtype: torch.dtype
) -> None:
    other = hlstm.DeepRNN(net.vocab, 16, 2).to(dtype)
    assert hlstm.decompress(other, hlstm.compress(other, TEXT, 3)) == TEXT


def test_weights_that_are_not_finite_are_refused(net: hlstm.DeepRNN) -> None:
    other = hlstm.DeepRNN(net.vocab, 16, 2)
    torch.nn.init.constant_(other.head.bias, math.nan)
    with pytest.raises(InvalidValueError, match="add up to 1"):
        hlstm.compress(other, TEXT)
