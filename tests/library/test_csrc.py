"""The headers as C++: their layout, what other compilers say, and no step out of bounds."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from book import ROOT
from hlstm.kernel import find_compiler, flag_choices
from tests.conftest import posix, skip_or_fail

CSRC = ROOT / "hlstm" / "csrc"
PROGRAM = Path(__file__).parent / "csrc" / "sanitize.cpp"
# Releases of clang-format differ in details; constraints.txt has this one.
LAYOUT = "14."
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
pytestmark = posix


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says."""
    # Another check of memory would want to be loaded first.
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=clean
    )


def compiler() -> list[str | Path]:
    """The command of the C++ compiler."""
    try:
        return list(find_compiler())
    except OSError as error:
        skip_or_fail(str(error))


def formatter() -> str:
    """A clang-format of the release that settings.ini names."""
    for folder in (sysconfig.get_path("scripts"), None):
        found = shutil.which("clang-format", path=folder)
        if found and f"version {LAYOUT}" in run(found, "--version").stdout:
            return found
    skip_or_fail(f"no clang-format {LAYOUT}*")


def test_clang_format_changes_nothing() -> None:
    """As the style in .clang-format says; the cells of the chapter hold the same bytes."""
    files = [*sorted(CSRC.glob("*.hpp")), PROGRAM]
    said = run(formatter(), "--dry-run", "--Werror", "--style=file", *files)
    assert said.returncode == 0, said.stderr


def test_each_header_is_whole(tmp_path: Path) -> None:
    """It compiles alone, has its include guard, and draws no warning."""
    words = compiler()
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    # Attributes of vector types are none of a template's business, says gcc.
    flags += ["-Wno-unknown-pragmas", "-Wno-ignored-attributes", "-Wno-psabi"]
    for path in sorted(CSRC.glob("*.hpp")):
        text = path.read_text("utf-8")
        assert text.startswith("// ") and "#pragma once\n" in text, path.name
        source = tmp_path / f"{path.stem}.cpp"
        source.write_text(f'#include "{path.name}"\n#include "{path.name}"\n')
        said = run(*words, *flags, f"-I{CSRC}", source)
        assert said.returncode == 0, said.stderr


def test_a_gate_has_its_letter() -> None:
    """i, f, g, o are gates, and no other letter is one."""
    for path in sorted(CSRC.glob("*.hpp")):
        named = re.findall(r"auto (\w+) = load\(gate", path.read_text("utf-8"))
        assert set(named) <= set("ifgo"), path.name


def test_nothing_is_touched_beyond_its_room(tmp_path: Path) -> None:
    """Every export under the sanitizers of addresses and of undefined behaviour."""
    words = compiler()
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    if run(*words, *SANITIZERS, probe, "-o", tmp_path / "probe").returncode:
        skip_or_fail("the compiler has no sanitizers")
    target = tmp_path / "sanitize"
    flags = ["-std=c++17", "-O1", "-g", *SANITIZERS, f"-I{CSRC}"]
    for choice in flag_choices():
        built = run(*words, *flags, *choice, PROGRAM, "-o", target)
        if built.returncode == 0:
            break
    assert built.returncode == 0, built.stderr
    said = run(target)
    assert said.returncode == 0, said.stdout + said.stderr[:3000]
