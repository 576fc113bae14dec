"""What chapter 1 leaves out: every sign there is, and integers of every make."""

import math
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm
from hlstm.checks import (
    HlstmError,
    InvalidIndexError,
    InvalidTypeError,
    InvalidValueError,
)
from hlstm.corpus import UnknownCharacterError
from hlstm.text import one_hot, streams, train_val_split, windows

# Every code point: surrogates, combining marks, unassigned ones and all planes.
SIGNS = (
    st.characters()
    | st.integers(0xD800, 0xDFFF).map(chr)
    | st.characters(categories=["Mn"])
)
TEXT = st.text(SIGNS, min_size=1)


# Vocabulary


@given(TEXT, st.sampled_from([1, 3, 1 << 16]))
def test_encode_decode_round_trip(text: str, size: int) -> None:
    with (
        mock.patch.object(hlstm.corpus, "PIECE", size),
        mock.patch.object(hlstm.text, "PIECE", size),
    ):
        vocab = hlstm.Vocabulary.from_text(text)
        ids = vocab.encode(text)
    assert ids.dtype == torch.long and ids.shape == (len(text),)
    assert vocab.decode(ids) == vocab.decode(ids.tolist()) == text
    assert list(vocab.symbols) == sorted(set(text))


@given(st.permutations("a\u0301\u00e9\ud800\udc00\U0001f600\uffff\0"))
def test_the_order_of_the_text_does_not_matter(shuffled: list[str]) -> None:
    vocab = hlstm.Vocabulary.from_text("".join(shuffled))
    assert vocab.symbols == tuple("\0a\u00e9\u0301\ud800\udc00\uffff\U0001f600")


@given(TEXT, TEXT)
def test_unknown_characters_are_refused_or_left_out(known: str, text: str) -> None:
    vocab = hlstm.Vocabulary(dict.fromkeys(known))
    kept = "".join(s for s in text if s in known)
    assert vocab.decode(vocab.encode(text, errors="ignore")) == kept
    unknown = sorted(set(text) - set(known))
    if not unknown:
        assert vocab.decode(vocab.encode(text)) == text
        return
    with pytest.raises(ValueError, match="not in the vocabulary") as error:
        vocab.encode(text)
    for s in unknown[:5]:
        assert f"{s!r} (U+{ord(s):04X} " in str(error.value)
        assert f"first at position {text.index(s)})" in str(error.value)
    assert (f"and {len(unknown) - 5} more" in str(error.value)) == (len(unknown) > 5)
    str(error.value).encode()  # can be printed, surrogates too


@pytest.mark.parametrize("symbol", "\u00e9\ud800\u0301\U0001f600")
def test_both_ways_out_of_the_message_work(symbol: str) -> None:
    vocab, text = hlstm.Vocabulary.from_text("abcde"), f"ab{symbol}cd{symbol}"
    with pytest.raises(ValueError, match="position 2") as error:
        vocab.encode(text)
    drop, translate = re.findall(
        r"encode\(text, errors=.*?\)|text\.translate\(\{.*\}\)", str(error.value)
    )
    names = {"encode": vocab.encode, "text": text}
    assert vocab.decode(eval(drop, names)) == "abcd"
    mapped = vocab.decode(vocab.encode(eval(translate, names)))
    assert len(mapped) == 6 and mapped.startswith("ab") and mapped[3:5] == "cd"
    assert mapped[2] == ("e" if symbol == "\u00e9" else "a")


def test_what_is_no_vocabulary_or_text_is_refused() -> None:
    vocab = hlstm.Vocabulary("ab")
    assert repr(vocab) == "Vocabulary('ab')" and hash(vocab) == hash(
        hlstm.Vocabulary("ab")
    )
    assert vocab != hlstm.Vocabulary("ba") and vocab != "ab"
    for symbols, message in (
        ("", "at least one symbol"),
        (["ab"], "one character"),
        ([1], "one character"),
        ("aba", "'a' comes twice"),
    ):
        with pytest.raises(ValueError, match=message):
            hlstm.Vocabulary(symbols)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one symbol"):
        hlstm.Vocabulary.from_text("")
    with pytest.raises(TypeError, match="a str, and got bytes"):
        vocab.encode(b"ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'strict'|\"strict\".*'drop'"):
        vocab.encode("ab", errors="drop")
    for bad in (-1, 2, 10**30):
        with pytest.raises(IndexError, match=f"id {bad} is outside 0"):
            vocab.decode([bad])
    with pytest.raises(ValueError, match="row by row"):
        vocab.decode(torch.tensor([[0]]))
    assert vocab.encode("").shape == (0,) and vocab.decode([]) == ""


def test_a_text_of_one_symbol_is_certain_from_the_start() -> None:
    vocab = hlstm.Vocabulary.from_text("aaaa")
    net = hlstm.DeepRNN(vocab, hidden_size=3, num_layers=1)
    config = hlstm.TrainConfig(batch_size=2, sequence_length=4, steps=3)
    ids = vocab.encode("a" * 40)
    history = hlstm.Trainer(net, config, progress=False).fit(ids, ids)
    assert history.loss == [0, 0, 0] and set(history.val_loss) == {0}
    assert net.generate_text("a", 4) == "aaaaa"


# Batches


def test_a_split_is_a_cut() -> None:
    first, rest = train_val_split(torch.arange(10), 0.75)
    assert first.tolist() == list(range(7)) and rest.tolist() == [7, 8, 9]
    for fraction in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="^fraction is "):
            train_val_split(torch.arange(10), fraction)


@given(st.integers(0, 40), st.integers(-2, 30))
def test_a_text_too_short_for_its_streams(n: int, batch_size: int) -> None:
    ids = torch.arange(n)
    if batch_size < 1:
        with pytest.raises(ValueError, match=f"1 or larger, and got {batch_size}"):
            streams(ids, batch_size)
    elif n // batch_size < 2:
        with pytest.raises(ValueError, match=f"^{n} characters cannot") as error:
            streams(ids, batch_size)
        if largest := re.search(r"batch_size up to (\d+)", str(error.value)):
            assert streams(ids, int(largest[1])).shape[1] >= 2
        else:
            assert n < 2
    else:
        assert streams(ids, batch_size).shape == (batch_size, n // batch_size)


def test_a_window_has_a_length() -> None:
    with pytest.raises(ValueError, match="sequence_length .* 1 or larger, and got 0"):
        next(windows(torch.arange(9), 1, 0))


@given(
    st.integers(2, 400), st.integers(1, 9), st.integers(1, 50), st.integers(0, 10**6)
)
def test_windows_cover_each_stream_once(n: int, batch: int, T: int, seed: int) -> None:
    ids = torch.randint(50, (n,), generator=torch.Generator().manual_seed(seed))
    if n // batch < 2:
        with pytest.raises(ValueError, match="cannot fill"):
            list(windows(ids, batch, T))
        return
    inputs, targets = zip(*windows(ids, batch, T), strict=True)
    rows = ids[: n // batch * batch].view(batch, -1)
    assert torch.equal(torch.cat(inputs, 1), rows[:, :-1])
    assert torch.equal(torch.cat(targets, 1), rows[:, 1:])


def test_one_hot_refuses_what_has_no_place() -> None:
    assert one_hot(torch.tensor([[2]]), 3).tolist() == [[[0, 0, 1]]]
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="outside"):
            one_hot(torch.tensor([0, bad]), 3)


# Integers and numbers of every make

Make = Callable[[list[int]], object]


def array_of(kind: str) -> Make:
    return lambda ids: np.array(ids, dtype=kind)


def tensor_of(kind: torch.dtype) -> Make:
    return lambda ids: torch.tensor(ids, dtype=kind)


ARRAYS = ("i1", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2")
TENSORS = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16)
MAKES: dict[str, Make] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "list of NumPy's": lambda ids: [np.int64(k) for k in ids],
    "list of tensors": lambda ids: [torch.tensor(k) for k in ids],
    "read-only": lambda ids: np.frombuffer(bytes(ids), dtype=np.uint8),
    "backwards": lambda ids: np.array(ids[::-1])[::-1],
    "every other": lambda ids: torch.tensor(ids).repeat_interleave(2)[::2],
    "objects": lambda ids: np.array(ids, dtype=object),
    **{f"array of {kind}": array_of(kind) for kind in ARRAYS},
    **{f"tensor of {kind}": tensor_of(kind) for kind in TENSORS},
}
KNOWN = [2, 0, 1, 3, 3, 1, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_integers_of_every_make_are_taken(make: Make) -> None:
    ids: torch.Tensor = torch.tensor(KNOWN)

    def made() -> torch.Tensor:
        return make(KNOWN)  # type: ignore[return-value]

    assert hlstm.Vocabulary("abcd").decode(made()) == "cabddba"
    assert one_hot(made(), 4).equal(one_hot(ids, 4))
    first, rest = train_val_split(made(), 0.5)
    assert first.tolist() == KNOWN[:3] and rest.tolist() == KNOWN[3:]
    rows = streams(made(), 2)
    assert rows.dtype == torch.int64 and rows.equal(streams(ids, 2))
    pairs = zip(windows(made(), 2, 1), windows(ids, 2, 1), strict=True)
    for (x, y), (u, v) in pairs:
        assert x.dtype == y.dtype == torch.int64 and x.equal(u) and y.equal(v)


USES: dict[str, Callable[[object], object]] = {
    "decode": lambda ids: hlstm.Vocabulary("abcd").decode(ids),  # type: ignore[arg-type]
    "one_hot": lambda ids: one_hot(ids, 4),  # type: ignore[arg-type]
    "train_val_split": lambda ids: train_val_split(ids),  # type: ignore[arg-type]
    "streams": lambda ids: streams(ids, 1),  # type: ignore[arg-type]
    "windows": lambda ids: next(windows(ids, 1, 2)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize(
    "ids",
    [
        "abc",
        b"abc",
        5,
        2.5,
        None,
        [1.0, 2.0],
        [True, False],
        [None],
        ["a"],
        [[1, 2], [3]],
        np.array([1.0]),
        np.array([True]),
        np.array(["a"]),
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([1j]),
    ],
    ids=repr,
)
def test_what_holds_no_integers_is_refused_by_name(
    use: Callable[[object], object], ids: object
) -> None:
    with pytest.raises(InvalidTypeError, match="^ids is a tensor, an array or a list"):
        use(ids)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_other_shapes_and_what_is_too_large_are_refused(
    use: Callable[[object], object],
) -> None:
    with pytest.raises(InvalidIndexError, match="outside 0"):
        use([0, 1, 10**30])
    if use is USES["one_hot"]:
        assert one_hot(np.array([[0, 3]]), 4).shape == (1, 2, 4)
        return
    for ids in ([[0, 1]], torch.zeros(2, 2, dtype=torch.long), torch.tensor(3)):
        with pytest.raises(
            InvalidValueError, match=r"ids has shape .*\(N,\) is needed"
        ):
            use(ids)


SIZES: dict[str, Callable[[object], object]] = {
    "num_classes": lambda n: one_hot([0], n),  # type: ignore[arg-type]
    "batch_size": lambda n: streams(range(9), n),  # type: ignore[arg-type]
    "sequence_length": lambda n: next(windows(range(9), 1, n)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_an_integer(name: str) -> None:
    for size in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        assert SIZES[name](size) is not None
    for wrong in (0, -1, np.int64(0)):
        with pytest.raises(InvalidValueError, match=f"^{name} is an integer, 1 or"):
            SIZES[name](wrong)
    for bad in (True, 2.0, "3", None, [3], torch.tensor(3.0)):
        with pytest.raises(InvalidTypeError, match=f"^{name} is an integer, 1 or"):
            SIZES[name](bad)


def test_a_fraction_is_a_number() -> None:
    for half in (0.5, Fraction(1, 2), np.float32(0.5), torch.tensor(0.5)):
        first, rest = train_val_split(torch.arange(6), half)  # type: ignore[arg-type]
        assert len(first) == len(rest) == 3
    for bad in (True, "0.5", None, [0.5], 1j):
        with pytest.raises(InvalidTypeError, match="^fraction is a number above 0"):
            train_val_split(torch.arange(6), bad)  # type: ignore[arg-type]
    for wrong in (0, 1, -0.5, 1.5, math.inf, math.nan, np.float64(1)):
        with pytest.raises(InvalidValueError, match="^fraction is "):
            train_val_split(torch.arange(6), wrong)


def test_narrow_integers_are_not_copied() -> None:
    """A text of one byte a character: nothing as long as it is made of eight."""
    text = torch.randint(70, (100_000,), dtype=torch.uint8)
    train, _ = train_val_split(text)
    assert train.dtype == torch.uint8 and train.data_ptr() == text.data_ptr()
    found = [x for x, _ in windows(text, 10, 50)]
    assert max(x.untyped_storage().nbytes() for x in found) == 8 * 10 * 50
    assert sum(x.numel() for x in found) == 10 * (10_000 - 1)


def test_streams_of_a_tensor_are_a_view() -> None:
    ids = torch.arange(10)
    rows = streams(ids, 3)
    assert rows.data_ptr() == ids.data_ptr()
    assert next(windows(ids, 3, 2))[0].data_ptr() == ids.data_ptr()


def test_the_default_device_and_dtype_do_not_matter() -> None:
    vocab = hlstm.Vocabulary("abc")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert vocab.decode([0, 2]) == vocab.decode(vocab.encode("ac")) == "ac"
            vectors = one_hot([0, 2], 3)
            rows = streams([0, 1, 2], 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert vectors.dtype == torch.float32 and vectors.tolist()[1] == [0, 0, 1]
    assert rows.tolist() == [[0, 1, 2]]


# Refusals and the class


def test_a_vocabulary_is_one_class() -> None:
    assert hlstm.Vocabulary.__mro__ == (hlstm.Vocabulary, object)
    vocab = hlstm.Vocabulary("ba")
    again = pickle.loads(pickle.dumps(vocab))
    assert again == vocab and again.encode("ab").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: hlstm.Vocabulary(5), InvalidTypeError),  # type: ignore[arg-type]
        (lambda: hlstm.Vocabulary([["a"]]), InvalidValueError),  # type: ignore[list-item]
        (lambda: hlstm.Vocabulary(""), InvalidValueError),
        (lambda: hlstm.Vocabulary("aa"), InvalidValueError),
        (lambda: hlstm.Vocabulary.from_text(5), InvalidTypeError),  # type: ignore[arg-type]
        (lambda: hlstm.Vocabulary("a").encode(5), InvalidTypeError),  # type: ignore[arg-type]
        (lambda: hlstm.Vocabulary("a").encode(["a"]), InvalidTypeError),  # type: ignore[arg-type]
        (lambda: hlstm.Vocabulary("a").encode("a", []), InvalidValueError),  # type: ignore[arg-type]
        (lambda: hlstm.Vocabulary("a").encode("b"), UnknownCharacterError),
        (lambda: streams(range(3), 2), InvalidValueError),
        (lambda: next(windows([], 1, 1)), InvalidValueError),
    ],
)
def test_every_refusal_is_of_the_family(
    call: Callable[[], object], kind: type[HlstmError]
) -> None:
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
