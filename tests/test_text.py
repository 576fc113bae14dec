"""What chapter 1 leaves out: the texts people really have, and the n-gram by brute force."""

import hashlib
import math
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm

# What `json`, files and terminals can hold: any character but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_corpus_is_the_plays() -> None:
    text = hlstm.load_corpus("shakespeare")
    assert len(text) == 4_782_196
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest.startswith("573709db5d85e55057ff")
    assert not set("_*#\\[]") & set(text)
    assert "\nBut, soft! what light through yonder window breaks?\n" in text


def test_tinyshakespeare_is_cut_from_the_same_edition() -> None:
    folder = os.environ.get("HLSTM_DATA")
    if not folder or not (Path(folder) / "tinyshakespeare.txt").is_file():
        pytest.skip("HLSTM_DATA names no folder with tinyshakespeare.txt")
    tiny = hlstm.load_corpus("tinyshakespeare")
    plays = set(hlstm.load_corpus("shakespeare").split("\n\n"))
    speeches = tiny.split("\n\n")
    assert sum(speech in plays for speech in speeches) / len(speeches) > 0.97


@given(TEXT)
def test_encode_decode_round_trip(text: str) -> None:
    vocab = hlstm.Vocabulary.from_text(text)
    ids = vocab.encode(text)
    assert ids.dtype == torch.long
    assert vocab.decode(ids) == text
    assert list(vocab.symbols) == sorted(set(text))


def test_unknown_characters_are_named_with_their_place() -> None:
    vocab = hlstm.Vocabulary.from_text("abc")
    with pytest.raises(ValueError, match=r"U\+00E9 .*position 2.*translate"):
        vocab.encode("abécd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc\xff", "not UTF-8: bad byte 0xff at offset 3"),
        ("abc".encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        hlstm.load_corpus(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.load_corpus(tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError):
        hlstm.load_corpus(tmp_path)


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert hlstm.load_corpus(path) == "one\ntwo\nthree\n"


@given(
    st.integers(2, 400), st.integers(1, 9), st.integers(1, 50), st.integers(0, 10**6)
)
def test_windows_cover_each_stream_once(n: int, batch: int, T: int, seed: int) -> None:
    ids = torch.randint(50, (n,), generator=torch.Generator().manual_seed(seed))
    if n // batch < 2:
        with pytest.raises(ValueError, match="cannot fill"):
            list(hlstm.windows(ids, batch, T))
        return
    inputs, targets = zip(*hlstm.windows(ids, batch, T), strict=True)
    rows = ids[: n // batch * batch].view(batch, -1)
    assert torch.equal(torch.cat(inputs, 1), rows[:, :-1])
    assert torch.equal(torch.cat(targets, 1), rows[:, 1:])


def test_one_hot_refuses_what_has_no_place() -> None:
    assert hlstm.one_hot(torch.tensor([[2]]), 3).tolist() == [[[0, 0, 1]]]
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="outside"):
            hlstm.one_hot(torch.tensor([0, bad]), 3)


def brute_force(train: str, held_out: str, size: int, order: int) -> list[float]:
    """Witten and Bell's interpolation, one character and one context at a time."""
    seen: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for t in range(len(train)):
        for k in range(min(order, t + 1)):
            seen[k][train[t - k : t]][train[t]] += 1
    text, start = train + held_out, len(train)
    result = []
    for t in range(start, len(text)):
        p = 1 / size
        for k in range(order):
            if count := seen[k].get(text[t - k : t]):
                c, d = count.total(), len(count)
                p = (count[text[t]] + d * p) / (c + d)
        result.append(p)
    return result


@given(
    st.text("abc", min_size=8, max_size=60), st.text("abcd", min_size=1, max_size=20)
)
def test_witten_bell_equals_counting_by_hand(train: str, held_out: str) -> None:
    vocab = hlstm.Vocabulary("abcd")
    orders = hlstm.witten_bell(vocab.encode(train), vocab.encode(held_out), 4, 5)
    for n, mine in enumerate(orders, 1):
        expected = brute_force(train, held_out, 4, n)
        assert all(
            math.isclose(a, b, rel_tol=1e-12)
            for a, b in zip(mine.tolist(), expected, strict=True)
        )
