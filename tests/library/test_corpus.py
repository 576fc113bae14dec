"""What appendix A leaves out: the files people really have, and what they cost."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pooch
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
from hlstm.corpus import UnknownCharacterError, as_ids, code_points
from tests.conftest import posix


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
    with temporary(content) as path, mock.patch.object(hlstm.corpus, "PIECE", size):
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


ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7z", b"\x28\xb5", b"PK", b"7z", b"%PDF")
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
    with temporary(content) as path, mock.patch.object(hlstm.corpus, "PIECE", size):
        try:
            text = hlstm.load_corpus(path)
        except ValueError as refused:
            message = str(refused)
        else:
            assert text == whole(content) and "\0" not in text
            return
    if "looks like" in message:
        assert content.startswith(MARKS)
    elif "Take the text out" in message:
        assert size > 3 and content.startswith(ARCHIVES)
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
        ("utf-16-be", "binary"),
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


def zipped(data: bytes) -> bytes:
    """A ZIP archive of one file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("play.txt", data)
    return whole.getvalue()


def tarred(data: bytes) -> bytes:
    """A tar archive of one file."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        member = tarfile.TarInfo("play.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()


PACKERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip": (gzip.compress, "compressed with gzip"),
    "bzip2": (bz2.compress, "compressed with bzip2"),
    "xz": (lzma.compress, "compressed with xz"),
    "unzip": (zipped, "a ZIP archive"),
    "tar": (tarred, "a tar archive"),
}


@pytest.mark.parametrize("data", [b"", b"Exit.\n", b"Enter, a fool\n" * 20_000])
@pytest.mark.parametrize("program", PACKERS)
@posix
def test_what_is_packed_is_named_with_the_command_that_takes_it_out(
    tmp_path: Path, program: str, data: bytes
) -> None:
    pack, words = PACKERS[program]
    path = tmp_path / "my play"
    path.write_bytes(pack(data))
    with pytest.raises(InvalidValueError, match=words) as error:
        hlstm.load_corpus(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "UTF-16" not in message
    if shutil.which(program):
        command = message[message.rindex(f"{program} -") :]
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
        assert (tmp_path / "text.txt").read_bytes() == data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x28\xb5\x2f\xfd\x20\r\x69\0\0", "compressed with zstd"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
        (zipped(b""), "office documents and e-books"),
        (b"PK\5\6" + bytes(18), "a ZIP archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary: byte 0x00 at offset 8. Give"),
        (b"\x7fELF\2\1\1" + bytes(9), "binary: byte 0x00 at offset 7. Give"),
    ],
)
def test_what_is_no_text_gets_no_advice_on_utf_16(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=words) as error:
        hlstm.load_corpus(path)
    assert "UTF-16" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "BZh9 is a begin",
        "PK",
        "7z",
        "%PDF-1.7 is a format",
        "a" * 257 + "ustar",
        "\x1f",
    ],
)
def test_a_text_may_begin_as_an_archive_does(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text, "utf-8")
    assert hlstm.load_corpus(path) == text


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
@pytest.mark.parametrize("text", ["\u0416 \u4e00\n", "a\U0001f600", "\u00e9"])
def test_utf_16_without_a_mark_is_told_by_its_zeros(
    tmp_path: Path, encoding: str, text: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes((text + "\r\n").encode(encoding))
    with pytest.raises(InvalidValueError, match=f"If this is {encoding}, convert it"):
        hlstm.load_corpus(path)


@pytest.mark.parametrize("source", [5, None, ["play.txt"], b"play.txt", 1.5])
def test_a_source_is_a_path(source: object) -> None:
    with pytest.raises(InvalidTypeError, match="^source is .* and got "):
        hlstm.load_corpus(source)  # type: ignore[arg-type]


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
    monkeypatch.setattr(hlstm.corpus, "PIECE", 10)
    hlstm.Vocabulary.from_text(hlstm.load_corpus(path))
    assert errors.getvalue() == "", "nothing in the first second"
    at_once = partial(hlstm.corpus.tqdm, mininterval=0)
    monkeypatch.setattr(
        hlstm.corpus,
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


def most_memory(call: Callable[[], object]) -> int:
    """The most memory that Python and NumPy held during a call, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sign", ["a", "\u00e9", "\u2014", "\U0001f600"])
@pytest.mark.parametrize("rest", ["", "bcd\r\n"])
def test_memory_is_bounded_for_signs_of_every_width(
    tmp_path: Path, sign: str, rest: str
) -> None:
    """Twice the text and a megabyte to read; 8 bytes a character and two to encode."""
    path = tmp_path / "large.txt"
    path.write_bytes((sign + rest).encode() * 1_000_000)
    text = hlstm.load_corpus(path)
    size = sys.getsizeof(text)
    assert most_memory(lambda: hlstm.load_corpus(path)) < 2 * size + 1e6
    assert most_memory(lambda: hlstm.Vocabulary.from_text(text)) < 3e6
    vocab = hlstm.Vocabulary.from_text(text)
    table = 8 * max(map(ord, vocab.symbols))
    encoded = most_memory(lambda: vocab.encode(text))
    assert encoded < 8 * len(text) + table + 2e6
    ids = vocab.encode(text)
    assert most_memory(lambda: vocab.decode(ids)) < 2 * size + 2e6


def test_one_wide_sign_widens_the_text_and_not_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"abcd" * 1_000_000 + "\U0001f600".encode())
    assert most_memory(lambda: hlstm.load_corpus(path)) < 5 * 4_000_000 + 1e6


def test_the_plays_are_read_in_twice_their_memory() -> None:
    size = sys.getsizeof(hlstm.load_corpus())
    assert most_memory(hlstm.load_corpus) < 2 * size + 1e6


# tinyshakespeare, without the network


@pytest.fixture
def tiny_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a benchmark file of one line, wherever it comes from."""
    known = hashlib.sha256(b"First Citizen:\n").hexdigest()
    monkeypatch.setattr(hlstm.corpus, "TINYSHAKESPEARE_SHA256", known)
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
    assert asked == [f"sha256:{hlstm.corpus.TINYSHAKESPEARE_SHA256}"]


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


# Characters that are not known, and integers that are


def test_an_unknown_character_is_an_error_of_its_own() -> None:
    vocab = hlstm.Vocabulary("ab")
    with pytest.raises(UnknownCharacterError) as error:
        vocab.encode("ab\u20ac")
    refused = error.value
    assert isinstance(refused, HlstmError) and isinstance(refused, ValueError)
    assert refused.what == (
        "not in the vocabulary of 2 symbols: '\u20ac' (U+20AC EURO SIGN, first at "
        "position 2)"
    )
    assert str(refused).startswith(refused.what + ". Drop them with encode(text")
    again = pickle.loads(pickle.dumps(refused))
    assert str(again) == str(refused) and again.what == refused.what


def test_what_is_no_text_is_refused_at_the_call() -> None:
    for bad in (b"ab", 5, None, ["a"]):
        with pytest.raises(InvalidTypeError, match="a text is a str, and got"):
            code_points(bad)  # type: ignore[arg-type]
    assert list(code_points("")) == []


def test_integers_keep_their_memory_where_they_can() -> None:
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        array = np.array([1, 2, 3], dtype=dtype)
        found = as_ids("ids", array)
        array[0] = 7
        assert found.tolist() == [7, 2, 3]
    tensor = torch.tensor([[1, 2]])
    assert as_ids("ids", tensor, dims=None) is tensor


def test_integers_have_a_name_a_shape_and_a_range() -> None:
    with pytest.raises(InvalidTypeError, match="^train_ids is .* got torch.float64"):
        as_ids("train_ids", torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InvalidValueError, match="2 dimensions is needed$"):
        as_ids("ids", [1], dims=2)
    for ids in ([0, -1], np.array([0, -1]), torch.tensor([0, -1])):
        with pytest.raises(InvalidIndexError, match="id -1 is outside 0 .* 4, the"):
            as_ids("ids", ids, size=5)
    for ids in (
        np.array([2**64 - 1], np.uint64),
        torch.tensor([2**63], dtype=torch.uint64),
    ):
        with pytest.raises(InvalidIndexError, match="above 2"):
            as_ids("ids", ids)
    empty: list[object] = [[], (), np.array([]), torch.tensor([])]
    for nothing in empty:
        assert as_ids("ids", nothing, size=1).dtype == torch.int64
