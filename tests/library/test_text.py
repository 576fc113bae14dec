"""What chapter 1 leaves out: the texts people really have, and the n-gram by brute force."""

import errno
import hashlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pooch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm
from tests.conftest import posix

# Every code point: surrogates, combining marks, unassigned ones and all planes.
SIGNS = (
    st.characters()
    | st.integers(0xD800, 0xDFFF).map(chr)
    | st.characters(categories=["Mn"])
)
TEXT = st.text(SIGNS, min_size=1)


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


def whole(content: bytes) -> str:
    """The text of a file's bytes, decoded in one piece."""
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


# Files


@given(st.text("\r\na\u00e9\u20ac\U0001f600\ufeff", min_size=1), st.integers(1, 9))
def test_a_file_is_read_in_pieces_as_it_is_in_one(text: str, size: int) -> None:
    content = text.encode()
    with temporary(content) as path, mock.patch.object(hlstm.text, "PIECE", size):
        if expected := whole(content):
            assert hlstm.load_corpus(path) == expected
        else:
            with pytest.raises(ValueError, match="empty"):
                hlstm.load_corpus(path)


@contextmanager
def temporary(content: bytes) -> Iterator[Path]:
    """A file that goes after each of hypothesis's examples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_bytes(content)
        yield path


MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
BYTES = st.lists(
    st.sampled_from(
        [b"a", b"\0", b"\r", b"\n", b"\xe2\x82\xac", b"\xef\xbb\xbf", *MARKS]
    )
    | st.binary(min_size=1, max_size=4)
).map(b"".join)


@given(BYTES, st.sampled_from([1, 2, 3, 1 << 16]))
def test_any_bytes_are_read_or_refused_with_the_right_offset(
    content: bytes, size: int
) -> None:
    with temporary(content) as path, mock.patch.object(hlstm.text, "PIECE", size):
        try:
            text = hlstm.load_corpus(path)
        except ValueError as refused:
            message = str(refused)
        else:
            assert text == whole(content) and "\0" not in text
            return
    if "looks like" in message:
        assert content.startswith(MARKS)
    elif "binary" in message:
        assert f"0x00 at offset {content.index(0)}." in message
    elif "empty" in message:
        assert whole(content) == ""
    else:
        with pytest.raises(UnicodeDecodeError) as error:
            content.decode()
        at = error.value.start
        assert f"bad byte {content[at]:#04x} at offset {at} (" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"abc\xff", "not UTF-8: bad byte 0xff at offset 3"),
        (b"\xef\xbb\xbfabc\xff", "not UTF-8: bad byte 0xff at offset 6"),
        (b"abc\xe2\x82", "bad byte 0xe2 at offset 3 .unexpected end of data"),
        (b"\xed\xa0\x80", "bad byte 0xed at offset 0"),
        (b"\0", "binary: byte 0x00 at offset 0"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary: byte 0x00 at offset 8"),
        (b"a" * 200_000 + b"\0", "binary: byte 0x00 at offset 200000"),
        (b"a" * 200_000 + b"\xff", "bad byte 0xff at offset 200000"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        hlstm.load_corpus(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "looks like UTF-16"),
        ("utf-32", "looks like UTF-32"),
        ("utf-16-le", "binary"),
        ("latin-1", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("big_endian", [False, True])
@posix
def test_the_command_in_the_message_converts_the_file(
    tmp_path: Path, encoding: str, message: str, big_endian: bool
) -> None:
    path, text = tmp_path / "my text.txt", "Exit, clich\u00e9.\n"
    path.write_bytes(text.encode(encoding))
    if big_endian and encoding in ("utf-16", "utf-32"):
        path.write_bytes(("\ufeff" + text).encode(f"{encoding}-be"))
    with pytest.raises(ValueError, match=message) as error:
        hlstm.load_corpus(path)
    command = str(error.value)[str(error.value).index("iconv") :]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert hlstm.load_corpus(tmp_path / "utf8.txt") == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.load_corpus(tmp_path / "nowhere.txt")


@posix
def test_a_folder_is_refused_with_a_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "my texts"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)
    with pytest.raises(IsADirectoryError, match="my texts is a folder") as error:
        hlstm.load_corpus(folder)
    command = str(error.value)[str(error.value).index("cat ") :]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert hlstm.load_corpus(tmp_path / "corpus.txt") == "ab"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_unreadable_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    path = tmp_path / "text.txt"
    path.write_text("a")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="cannot read the corpus") as error:
        hlstm.load_corpus(path)
    assert error.value.errno == number and error.value.filename == str(path)
    assert os.strerror(number) in str(error.value)
    assert isinstance(error.value, PermissionError) == (number == errno.EACCES)


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert hlstm.load_corpus(path) == "one\ntwo\nthree\n"


def test_both_spellings_of_a_sign_stay(tmp_path: Path) -> None:
    path, text = tmp_path / "text.txt", "\u00e9 e\u0301 \U0001f600\u200d"
    path.write_text(text, "utf-8")
    assert hlstm.load_corpus(path) == text
    assert len(hlstm.Vocabulary.from_text(text)) == 6
    assert len(hlstm.Vocabulary.from_text(unicodedata.normalize("NFC", text))) == 4


class Terminal(io.StringIO):
    """An error stream that a person watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_shows_in_a_terminal_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    shown: bool,
) -> None:
    path, errors = tmp_path / "text.txt", stream()
    path.write_bytes(b"abcd" * 50)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(hlstm.text, "PIECE", 10)
    hlstm.Vocabulary.from_text(hlstm.load_corpus(path))
    assert errors.getvalue() == "", "nothing in the first second"
    at_once = partial(hlstm.text.tqdm, mininterval=0)
    monkeypatch.setattr(
        hlstm.text,
        "tqdm",
        lambda *args, **named: at_once(*args, **named | {"delay": 0}),
    )
    text = hlstm.load_corpus(path)
    assert ("200/200" in errors.getvalue()) == shown
    hlstm.Vocabulary.from_text(text)
    assert (" characters/s" in errors.getvalue()) == shown


LARGE = """
import re, sys
from pathlib import Path
import hlstm.text  # PyTorch too, before anything is measured


def memory(line):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(line + r":\\s+(\\d+)", status)[1])


before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here
text = hlstm.load_corpus(sys.argv[1])
loaded = memory("VmHWM")
vocab = hlstm.Vocabulary.from_text(text)
ids = vocab.encode(text)
print((loaded - before) / len(text), (memory("VmHWM") - before) / len(text))
print(ascii(vocab), len(text), len(ids), ids.dtype)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_and_the_order_that_of_every_process(tmp_path: Path) -> None:
    """A text of one byte a character: two at most to load, 1 + 8 to encode."""
    path = tmp_path / "large.txt"
    content = "To be, or not to be \u00e9\u00e8\r\n".encode() * 400_000
    path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)],
        env=os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    figures, answer = result.stdout.splitlines()
    load, encode = map(float, figures.split())
    assert 1 < load < 2.5 and 8 < encode < 10, figures
    vocab = ascii(hlstm.Vocabulary.from_text(whole(content[:100])))
    assert answer == f"{vocab} 9200000 9200000 torch.int64"
    assert result.stderr == ""


# tinyshakespeare, without the network


@pytest.fixture
def tiny_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a benchmark file of one line, wherever it comes from."""
    known = hashlib.sha256(b"First Citizen:\n").hexdigest()
    monkeypatch.setattr(hlstm.text, "TINYSHAKESPEARE_SHA256", known)
    monkeypatch.delenv("HLSTM_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    return tmp_path


def test_tinyshakespeare_is_downloaded_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> None:
        asked.append(known_hash)
        path.mkdir()
        (path / fname).write_bytes(b"First Citizen:\n")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    for _ in range(2):
        assert hlstm.load_corpus("tinyshakespeare") == "First Citizen:\n"
    assert asked == [f"sha256:{hlstm.text.TINYSHAKESPEARE_SHA256}"]


def test_without_a_network_the_message_names_a_folder(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrieve(*args: object, **named: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match="no route.*HLSTM_DATA"):
        hlstm.load_corpus("tinyshakespeare")
    (tiny_folder / "tinyshakespeare.txt").write_bytes(b"First Citizen:\n")
    monkeypatch.setenv("HLSTM_DATA", str(tiny_folder))
    assert hlstm.load_corpus("tinyshakespeare") == "First Citizen:\n"
    (tiny_folder / "tinyshakespeare.txt").write_bytes(b"Second Citizen:\n")
    with pytest.raises(ValueError, match="not the benchmark file: its SHA-256 is"):
        hlstm.load_corpus("tinyshakespeare")


# Vocabulary


@given(TEXT, st.sampled_from([1, 3, 1 << 16]))
def test_encode_decode_round_trip(text: str, size: int) -> None:
    with mock.patch.object(hlstm.text, "PIECE", size):
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
    assert history.loss == [0, 0, 0] and history.val_loss == [0]
    assert net.generate_text("a", 4) == "aaaaa"


# Batches


def test_a_split_is_a_cut() -> None:
    first, rest = hlstm.train_val_split(torch.arange(10), 0.75)
    assert first.tolist() == list(range(7)) and rest.tolist() == [7, 8, 9]
    for fraction in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="fraction is between 0 and 1"):
            hlstm.train_val_split(torch.arange(10), fraction)


@given(st.integers(0, 40), st.integers(-2, 30))
def test_a_text_too_short_for_its_streams(n: int, batch_size: int) -> None:
    ids = torch.arange(n)
    if batch_size < 1:
        with pytest.raises(ValueError, match=f"at least 1, and got {batch_size}"):
            hlstm.streams(ids, batch_size)
    elif n // batch_size < 2:
        with pytest.raises(ValueError, match=f"^{n} characters cannot") as error:
            hlstm.streams(ids, batch_size)
        if largest := re.search(r"batch_size up to (\d+)", str(error.value)):
            assert hlstm.streams(ids, int(largest[1])).shape[1] >= 2
        else:
            assert n < 2
    else:
        assert hlstm.streams(ids, batch_size).shape == (batch_size, n // batch_size)


def test_a_window_has_a_length() -> None:
    with pytest.raises(ValueError, match="sequence_length is at least 1, and got 0"):
        next(hlstm.windows(torch.arange(9), 1, 0))


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


@given(st.text("ab", min_size=4, max_size=30), st.text("abc", min_size=1, max_size=8))
def test_counting_on_is_counting_anew_before_each_character(
    train: str, held_out: str
) -> None:
    vocab = hlstm.Vocabulary("abc")
    orders = hlstm.witten_bell(
        vocab.encode(train), vocab.encode(held_out), 3, 3, adaptive=True
    )
    for n, mine in enumerate(orders, 1):
        for m, p in enumerate(mine.tolist()):
            (expected,) = brute_force(train + held_out[:m], held_out[m], 3, n)
            assert math.isclose(p, expected, rel_tol=1e-12)


def test_impossible_orders_are_refused() -> None:
    ids = torch.zeros(40, dtype=torch.long)
    for order in (0, 41):
        with pytest.raises(ValueError, match=f"1 to the 40 .* got {order}"):
            hlstm.witten_bell(ids, ids, 3, order)
    with pytest.raises(ValueError, match="30-grams of 76 symbols overflow"):
        hlstm.witten_bell(ids, ids, 76, 30)
