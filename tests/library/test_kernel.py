"""The compiled code is found, made, kept and opened, or there is one warning."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hlstm
from hlstm import kernel
from tests.conftest import posix

pytestmark = posix
# In place of the headers, which take seconds: what is cached is the same to the cache.
# `test_many_at_once` tries the flags on the real ones.
SMALL = 'extern "C" int answer() { return 42; }\n'

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="there is no c++")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for a test, and nothing that was found before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("HLSTM_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(kernel, "MAIN", SMALL)
    monkeypatch.setattr(kernel, "PROBE", SMALL)
    kernel.find_library.cache_clear()
    kernel.warn_once.cache_clear()
    yield tmp_path / "cache" / "hlstm"
    kernel.find_library.cache_clear()
    kernel.warn_once.cache_clear()


def found() -> int:
    """What the compiled code of `SMALL` answers, looked for afresh."""
    kernel.find_library.cache_clear()
    library = kernel.find_library()
    assert isinstance(library, ctypes.CDLL), library
    return int(library.answer())


def missing() -> str:
    """Why there is no compiled code, looked for afresh."""
    kernel.find_library.cache_clear()
    return kernel.why_not()


def fake_compiler(folder: Path, *lines: str) -> str:
    """A compiler that does something first, and then what c++ does."""
    path = folder / "fake-c++"
    text = ["#!/bin/sh", *lines, f'exec {shutil.which("c++")} "$@"']
    path.write_text("\n".join(text) + "\n")
    path.chmod(0o755)
    return str(path)


# The compiler


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "there is no compiler, for CXX is empty"),
        ("  ", "there is no compiler, for CXX is empty"),
        ("no-such-c++ -O9", "there is no compiler 'no-such-c++'"),
        ("'c++", "CXX is no command: No closing quotation"),
        ("false", "the compiler failed"),
    ],
)
def test_no_compiler(
    command: str, reason: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", command)
    assert missing().startswith(reason)
    assert not own_cache.exists()


@needs_compiler
def test_a_compiler_with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "c++ '-DA B'")
    assert kernel.find_compiler() == [shutil.which("c++"), "-DA B"]
    monkeypatch.setenv("CXX", "env c++")
    assert found() == 42


def test_one_warning_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    lstm = hlstm.LSTM(3, 4)
    x = torch.randn(2, 1, 3)
    with pytest.warns(RuntimeWarning) as caught:
        for _ in range(3):
            lstm(x)
            assert kernel.library() is None
    (warning,) = caught
    assert str(warning.message).startswith("no fast engine: there is no compiler")


# The level


def test_the_level_is_in_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    best = kernel.flag_choices()
    monkeypatch.setenv("HLSTM_MAX_CPU_ISA", "AVX2")
    for machine, more in (("x86_64", ("-mno-avx512f",)), ("aarch64", ())):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert kernel.flag_choices() == [flags + more for flags in best]
    monkeypatch.setenv("HLSTM_MAX_CPU_ISA", "AVX3")
    assert missing() == "HLSTM_MAX_CPU_ISA is AVX2 or SSE41, and got 'AVX3'"


@needs_compiler
def test_each_level_is_kept_apart(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found() == 42
    for level in kernel.LEVELS if kernel.flag_choices()[0] else ():
        monkeypatch.setenv("HLSTM_MAX_CPU_ISA", level)
        if kernel.flag_choices()[0] == kernel.CHOICES[0]:
            pytest.skip("levels are those of x86")
        before = set(own_cache.glob("*.so"))
        assert found() == 42
        assert len(set(own_cache.glob("*.so")) - before) == 1


# The cache


def test_the_place_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel.cache_folder() == tmp_path / "cache" / "hlstm"
    monkeypatch.setenv("HOME", str(tmp_path))
    for other in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        assert kernel.cache_folder() == tmp_path / ".cache" / "hlstm"
    monkeypatch.setenv("HOME", "relative/home")
    with pytest.raises(OSError, match="there is no place for compiled code"):
        kernel.cache_folder()


@needs_compiler
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert missing().startswith("there is no place for compiled code: Could not")


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "cache" in missing()


@needs_compiler
def test_the_cache_is_made_for_its_user_alone(own_cache: Path) -> None:
    before = os.umask(0)
    try:
        assert found() == 42
    finally:
        os.umask(before)
    assert own_cache.stat().st_mode & 0o777 == 0o700
    (built,) = own_cache.glob("*.so")
    assert built.stat().st_mode & 0o777 == 0o700
    assert sorted(own_cache.iterdir()) == [built.with_suffix(".sha256"), built]


@needs_compiler
def test_what_others_may_write_is_not_opened(own_cache: Path) -> None:
    assert found() == 42
    (built,) = own_cache.glob("*.so")
    for path in (own_cache, built):
        for mode in (0o720, 0o702):
            path.chmod(mode)
            assert missing() == f"others may write {path}; chmod go-w makes it safe"
        path.chmod(0o755)
        assert found() == 42


@needs_compiler
def test_what_belongs_to_others_is_not_opened(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found() == 42
    me = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: me + 1)
        assert missing() == f"{own_cache} belongs to another user"
    assert found() == 42


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "empty", "seal", "no seal", "no library"])
def test_what_is_not_whole_is_made_again(damage: str, own_cache: Path) -> None:
    assert found() == 42
    (built,) = own_cache.glob("*.so")
    seal, whole = built.with_suffix(".sha256"), built.read_bytes()
    # Not in place: this process has the library open.
    for path in (built, seal) if "no" in damage else ():
        if damage == ("no library" if path is built else "no seal"):
            path.unlink()
    fresh = own_cache / "fresh"
    if damage in ("cut", "empty"):
        fresh.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
        fresh.replace(built)
    if damage == "seal":
        seal.write_bytes(b"\xff" * 64)
    assert not kernel.is_whole(built)
    assert found() == 42 and kernel.is_whole(built)
    assert sorted(own_cache.iterdir()) == [seal, built]


@needs_compiler
@pytest.mark.parametrize(
    "stop",
    [
        "kill -9 $$",
        'echo "fatal error: Killed signal terminated program cc1plus" >&2; exit 1',
        'echo "fatal error: error writing: No space left on device" >&2; exit 1',
    ],
)
@pytest.mark.parametrize("when", ["*-march=native*", "*engine.so*"])
def test_a_compiler_that_is_stopped_leaves_nothing(
    when: str,
    stop: str,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither half a library nor a slower one; and the next time it is all there."""
    guard = f'case "$*" in {when}) {stop};; esac'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, guard))
    assert missing().startswith("the compiler was stopped: ")
    assert not list(own_cache.iterdir())
    fake_compiler(tmp_path)
    assert found() == 42 and len(list(own_cache.glob("*.so"))) == 1


@needs_compiler
def test_an_interruption_leaves_nothing(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "compile_sources", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kernel.why_not()
    assert not list(own_cache.iterdir())
    assert kernel.why_not() == ""


@needs_compiler
def test_flags_that_are_refused(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next best are taken, and the best again when the compiler has learnt them."""
    refusal = 'echo "error: unsupported option" >&2; exit 1'
    guard = f'case "$*" in *-fopenmp*) {refusal};; esac'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, guard))
    assert found() == 42
    assert len(list(own_cache.glob("*.so"))) == 1
    fake_compiler(tmp_path)
    assert found() == 42
    assert len(list(own_cache.glob("*.so"))) == 2
    fake_compiler(tmp_path, 'test "$1" = --version || exit 1')
    assert found() == 42, "from the cache"
    monkeypatch.setattr(kernel, "MAIN", SMALL + "// changed\n")
    assert missing() == "the compiler failed: it takes none of the flags"


@needs_compiler
def test_the_version_of_the_compiler_counts(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 1):
        said = f'test "$1" = --version && echo {version} && exit'
        monkeypatch.setenv("CXX", fake_compiler(tmp_path, said))
        assert found() == 42
    assert len(list(own_cache.glob("*.so"))) == 2


@needs_compiler
def test_source_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MAIN", "int one() { return ")
    assert missing().startswith("the compiler failed: ")


@needs_compiler
def test_many_at_once(own_cache: Path, tmp_path: Path) -> None:
    """Processes that find an empty cache at the same time all find the code."""
    script = f"""
import os
from hlstm import kernel
kernel.MAIN = {SMALL!r}
children = []
for _ in range(3):
    children.append(os.fork())
    if not children[-1]:
        os._exit(kernel.find_library().answer())
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""
    run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert run.stdout == b"[42, 42, 42]\n"
    (built,) = own_cache.glob("*.so")
    assert kernel.is_whole(built)
    assert sorted(own_cache.iterdir()) == [built.with_suffix(".sha256"), built]


# Room


def test_each_thread_has_room_of_its_own() -> None:
    places: list[int] = []
    rooms = []

    def take() -> None:
        rooms.append(kernel.scratch("test", 10, torch.float32))
        places.append(rooms[-1].data_ptr())
        assert kernel.scratch("test", 5, torch.float32).data_ptr() == places[-1]
        assert len(kernel.scratch("test", 20, torch.float32)) == 20

    for thread in [threading.Thread(target=take) for _ in range(2)]:
        thread.start()
        thread.join()
    assert len(set(places)) == 2
