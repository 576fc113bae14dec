"""What goes to disk: headers with one meaning, what is never replaced, what no file can hold."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.files import (
    CheckpointError,
    load_tensors,
    read_header,
    replace_file,
    save_tensors,
)
from tests.conftest import posix

TENSORS = {"a": torch.arange(4.0), "b": torch.ones(2, 3), "c": torch.zeros(0)}


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    path = tmp_path / "whole"
    save_tensors(path, TENSORS, {"of": "tests"})
    content = path.read_bytes()
    path.unlink()
    return content


def with_header(content: bytes, change: Callable[[str], str]) -> bytes:
    """The same numbers under a header whose text is changed."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = change(content[8:end].decode()).encode()
    return len(header).to_bytes(8, "little") + header + content[end:]


def refused(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_tensors(path)
    assert str(caught.value).startswith(f"{path} ")


# One header, one meaning


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('"a":', '"a":{},"a":', "a"),
        ('"b":', '"a":', "a"),
        ('{"__metadata__"', '{"__metadata__":{},"__metadata__"', "__metadata__"),
        ('"hlstm":', '"hlstm":"{}","hlstm":', "hlstm"),
        (
            '"dtype":"F32","shape":[4]',
            '"dtype":"I32","dtype":"F32","shape":[4]',
            "dtype",
        ),
        (r"\"of\":", r"\"of\": \"others\", \"of\":", "of"),
        (r"\"schema\":", r"\"schema\": 3, \"schema\":", "schema"),
    ],
)
def test_a_name_that_comes_twice_is_refused(
    tmp_path: Path, whole: bytes, old: str, new: str, name: str
) -> None:
    content = with_header(whole, lambda text: text.replace(old, new))
    assert content != whole
    refused(
        tmp_path / "file", content, f"damaged header: the name '{name}' comes twice"
    )


def test_many_names_that_come_twice_take_no_time(tmp_path: Path, whole: bytes) -> None:
    names = ",".join(f'"{k}":0' for k in [*range(100_000), 0])
    content = with_header(whole, lambda text: f"{{{names}}}")
    refused(tmp_path / "file", content, "the name '0' comes twice")


def entries(content: bytes) -> dict[str, Any]:
    return {k: v for k, v in read_header(content).items() if k != "__metadata__"}


def moved(content: bytes, offsets: dict[str, Any]) -> bytes:
    """The file with other offsets in its header."""

    def change(text: str) -> str:
        header = json.loads(text)
        for name, span in offsets.items():
            header[name]["data_offsets"] = span
        return json.dumps(header)

    return with_header(content, change)


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ({"a": [0, 16], "b": [16, 40]}, None),
        ({"a": [24, 40], "b": [0, 24]}, None),
        ({"a": [8, 24], "b": [24, 48]}, "a gap before .* at byte"),
        ({"b": [20, 44]}, "a gap before 'b' at byte 20"),
        ({"b": [12, 36]}, "an overlap with 'b' at byte 12"),
        ({"b": [0, 24]}, "an overlap with"),
        ({"a": [0, 16], "b": [0, 16]}, "an overlap with"),
        ({"a": [-16, 0], "b": [0, 24]}, "an overlap with 'a' at byte -16"),
        ({"b": [16, 41]}, "end at byte 41 of 40"),
        ({"b": [16, 39]}, "end at byte 39 of 40"),
        (
            {"b": [16, 10**30]},
            "end at byte 1,000,000,000,000,000,000,000,000,000,000 of",
        ),
        ({"b": [40, 16]}, "'b' ends before it begins"),
        ({"b": [16]}, "no two offsets for 'b'"),
        ({"b": [16, 40, 40]}, "no two offsets for 'b'"),
        ({"b": "16"}, "no two offsets for 'b'"),
        ({"b": None}, "no two offsets for 'b'"),
        ({"b": [16.0, 40]}, "no two offsets for 'b'"),
        ({"a": [False, 16]}, "no two offsets for 'a'"),
    ],
)
def test_tensors_that_do_not_tile_the_numbers_are_refused(
    tmp_path: Path, offsets: dict[str, Any], words: str | None
) -> None:
    content = save({"a": torch.zeros(4), "b": torch.zeros(2, 3)})
    changed = moved(content, offsets)
    if words is None:
        assert read_header(changed)
        return
    with pytest.raises(
        InvalidValueError, match=f"no valid safetensors file: .*{words}"
    ):
        read_header(changed)
    refused(tmp_path / "file", changed, words)


def test_a_byte_that_no_tensor_owns_is_refused(tmp_path: Path, whole: bytes) -> None:
    refused(tmp_path / "file", whole + b"\0", "end at byte 40 of 41 bytes")
    refused(tmp_path / "file", whole[:-1], "end at byte 40 of 39 bytes")
    only = with_header(save({}), lambda text: '{"__metadata__":{"hlstm":"{}"}}')
    refused(tmp_path / "file", only + b"hidden", "end at byte 0 of 6 bytes")


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8])
def test_a_short_file_has_no_header(length: int) -> None:
    with pytest.raises(InvalidValueError):
        read_header(bytes(length))


# What is not replaced


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A name in an empty folder in which nothing is left about."""
    yield tmp_path / "file"
    assert [p.name for p in tmp_path.iterdir()] in ([], ["file"])


@posix
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device"])
def test_what_is_no_file_is_not_replaced(
    alone: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(alone)
    elif kind == "socket":
        monkeypatch.chdir(alone.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as place:
            place.bind("file")
    ours, theirs = os.openpty()
    try:
        device = os.ttyname(theirs)
        if kind == "link to a device":
            alone.symlink_to(device)
        target = Path(device) if kind == "device" else alone
        before = os.lstat(target)
        with pytest.raises(InvalidValueError, match="is a device or a pipe"):
            save_tensors(target, TENSORS, {})
        assert os.lstat(target)[:3] == before[:3], "mode, inode and device"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    for name in (".", "", tmp_path / "folder", "../folder/"):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            replace_file(name, b"")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o440, 0o755])
def test_a_file_keeps_its_mode(alone: Path, mode: int) -> None:
    replace_file(alone, b"first")
    alone.chmod(mode)
    replace_file(alone, b"second")
    assert alone.read_bytes() == b"second"
    assert stat.S_IMODE(alone.stat().st_mode) == mode


@posix
def test_what_only_its_owner_may_read_is_never_open_to_others(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, fsync = [], os.fsync

    def look(handle: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        fsync(handle)

    replace_file(alone, b"first")
    alone.chmod(0o600)
    monkeypatch.setattr(os, "fsync", look)
    replace_file(alone, b"second")
    assert seen[0] == 0o600


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "apart").mkdir()
    target, link = tmp_path / "apart" / "file", tmp_path / "link"
    if there:
        target.write_bytes(b"first")
    link.symlink_to(target)
    replace_file(link, b"second")
    assert link.is_symlink() and target.read_bytes() == link.read_bytes() == b"second"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("symbol", ["n", "é", "\U0001f600"])
def test_a_name_may_be_as_long_as_the_system_allows(
    tmp_path: Path, symbol: str
) -> None:
    longest = 255 if os.name == "nt" else 255 // len(os.fsencode(symbol))
    path = tmp_path / (symbol * longest)
    for content in (b"first", b"second"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError):
        replace_file(tmp_path / (symbol * (longest + 1)), b"")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.*make it before saving"):
        replace_file(tmp_path / "nowhere" / "file", b"")


# What no file can hold


def test_two_names_for_one_memory_are_refused(alone: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    for other in (whole, whole[1:], whole.T, whole[2, 3], whole.detach()):
        with pytest.raises(InvalidValueError, match="one and other share memory"):
            save_tensors(alone, {"one": whole, "other": other}, {})
    with pytest.raises(InvalidValueError, match="share memory"):
        between = {"one": whole, "two": torch.ones(3), "three": whole[:1]}
        save_tensors(alone, between, {})
    assert not alone.exists()


def test_parts_of_one_memory_come_back(alone: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    parts = {"one": whole[:1], "two": whole[1:], "none": whole[:0]}
    parts["wide"] = torch.ones(1).expand(5)
    save_tensors(alone, parts, {})
    again, _ = load_tensors(alone)
    assert all(torch.equal(again[name], part) for name, part in parts.items())


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        (
            {"x": torch.ones(2, device="meta")},
            ValueError,
            "x is .* on meta: no numbers",
        ),
        ({"x": torch.eye(2).to_sparse()}, ValueError, "x is torch.sparse_coo"),
        ({"x": torch.ones(2, dtype=torch.complex128)}, ValueError, "cannot hold"),
        (
            {"__metadata__": torch.ones(2)},
            ValueError,
            "cannot be called '__metadata__'",
        ),
        ({"\ud800": torch.ones(2)}, ValueError, "cannot be called"),
        ({1: torch.ones(2)}, TypeError, "is no named tensor"),
        ({"x": [1.0]}, TypeError, "list is no named tensor"),
        ({"x": None}, TypeError, "NoneType is no named tensor"),
    ],
)
def test_a_tensor_that_no_file_can_hold_is_refused(
    alone: Path, tensors: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        save_tensors(alone, tensors, {})
    assert isinstance(caught.value, HlstmError)
    assert not alone.exists()


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), InvalidValueError),
        (deep(100_000), InvalidValueError),
        ({1: "a", "1": "b"}, InvalidValueError),
        (10**5000, InvalidValueError),
        ({1, 2}, InvalidTypeError),
        ({(1, 2): 3}, InvalidTypeError),
        (b"bytes", InvalidTypeError),
        (torch.ones(1), InvalidTypeError),
    ],
    ids=["NaN", "deep", "twice", "long", "set", "tuple as name", "bytes", "tensor"],
)
def test_a_description_that_json_cannot_hold_is_refused(
    alone: Path, value: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="JSON cannot hold the description"):
        save_tensors(alone, TENSORS, {"value": value})
    assert not alone.exists()


@pytest.mark.parametrize("change", [torch.conj, lambda t: t.conj().imag, torch.adjoint])
def test_numbers_that_are_changed_as_they_are_read_come_back(
    alone: Path, change: Callable[[Tensor], Tensor]
) -> None:
    tensor = change(torch.tensor([[1 + 2j, 3 - 4j], [5j, 6]]))
    save_tensors(alone, {"x": tensor}, {})
    assert torch.equal(load_tensors(alone)[0]["x"], tensor)


def test_what_is_read_in_inference_mode_can_be_trained(alone: Path) -> None:
    save_tensors(alone, TENSORS, {})
    with torch.inference_mode():
        tensors, _ = load_tensors(alone)
    weight = tensors["a"].requires_grad_()
    (weight**2).sum().backward()
    assert torch.equal(weight.grad, 2 * TENSORS["a"])  # type: ignore[arg-type]


def test_what_inference_mode_made_is_written(alone: Path) -> None:
    with torch.inference_mode():
        tensor = torch.arange(3.0)
        save_tensors(alone, {"x": tensor}, {})
    save_tensors(alone, {"x": tensor}, {})
    assert torch.equal(load_tensors(alone)[0]["x"], torch.arange(3.0))


def test_the_default_device_and_type_change_nothing(alone: Path) -> None:
    save_tensors(alone, TENSORS, {})
    first = alone.read_bytes()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            save_tensors(alone, TENSORS, {})
            tensors, _ = load_tensors(alone)
    finally:
        torch.set_default_dtype(torch.float32)
    assert alone.read_bytes() == first
    assert all(torch.equal(tensors[name], t) for name, t in TENSORS.items())


def test_a_copy_that_was_never_installed_writes_too(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("hlstm.files.version", missing)
    save_tensors(alone, TENSORS, {})
    assert load_tensors(alone)[1]["versions"]["hlstm"] == "unknown"
