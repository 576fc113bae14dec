"""Reads the prose of chapters, pages and docstrings with proselint.

    python -m book.tools.prose

`make check` runs it beside codespell. Only prose is read: code, formulas, links and HTML are
replaced by words that stand for nothing. What is allowed, and why, stands in pyproject.toml
under `[tool.prose.allowed]`. Prints a line for each place and for each exception that nothing
needs, and ends with 1 where there is one.
"""

import ast
import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

from book import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "playground.md")
# A fence, a formula, code, the address of a link, a bare address, a tag of HTML, a call such
# as tanh(c), the name of a parameter above what a docstring says of it.
NO_PROSE = re.compile(
    r"^```.*?^```|\$\$.*?\$\$|(?<![\\$])\$(?![\s$])[^$]+?(?<!\\)\$|`[^`\n]+`"
    r"|(?<=\])\([^()\s]*\)|https?://[^\s)]+|</?\w[^>\n]*>"
    r"|\b\w+\(\w[^()\n]{0,20}\)|^[ \t]*\w+(?:, \w+)*(?=\n[ \t]+\w)",
    re.DOTALL | re.MULTILINE,
)
CAPTION = re.compile(r"^#\| fig-(?:alt|cap): (.*)$", re.MULTILINE)
FINDING = re.compile(
    r".+?:(?P<line>\d+):(?P<column>\d+): (?P<check>[\w.]+): (?P<said>.*)"
)


class Finding(NamedTuple):
    """What a check says of a place."""

    place: str
    check: str
    said: str


def plain(text: str) -> str:
    """Return a text with a new word for each part that is no prose.

    The words differ, so that two formulas in a row are not a word said twice; and
    paragraphs are parted, so that the end of one and the start of the next are not.
    """
    number = itertools.count()
    words = NO_PROSE.sub(lambda _: f"term{next(number)}", text)
    return re.sub(r"\n[ \t]*\n", "\n\n***\n\n", words)


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each text of a repository with its place."""
    for path in sorted((root / "chapters").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            place = f"{path.relative_to(root).as_posix()} {cell.get('id')}"
            if cell.cell_type == "markdown":
                yield place, cell.source
            else:
                yield from ((place, said) for said in CAPTION.findall(cell.source))
    for name in PAGES:
        if (root / name).exists():
            yield name, (root / name).read_text("utf-8")
    for path in sorted([*root.glob("hlstm/*.py"), *root.glob("book/*/*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, kinds) and (said := ast.get_docstring(node)):
                name = getattr(node, "name", "the module")
                yield f"{path.relative_to(root).as_posix()} {name}", said


def findings(root: Path = ROOT) -> list[Finding]:
    """Return what proselint finds in the texts of a repository."""
    places: list[str] = []
    lines: list[str] = []
    for place, text in texts(root):
        added = [*plain(text).splitlines(), "", "***", ""]
        lines += added
        places += [place] * len(added)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prose.md"
        path.write_text("\n".join(lines), "utf-8")
        command = [sys.executable, "-m", "proselint", "-o", "compact"]
        command += ["check", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1) or (run.stderr and not run.stdout):
        raise RuntimeError(f"proselint failed: {run.stderr}")
    found = []
    for match in filter(None, map(FINDING.match, run.stdout.splitlines())):
        line, column = int(match["line"]) - 1, int(match["column"]) - 1
        named = re.search(r"'(.+?)'", match["said"])
        after = lines[line][column + len(named[1]) :] if named else ""
        # "for ever" is found in "for every", too.
        if not re.match(r"\w", after):
            found.append(Finding(places[line], match["check"], match["said"]))
    return found


def allowed(root: Path = ROOT) -> dict[str, str]:
    """Return the checks that we do without, each with its reason."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return dict(settings["tool"]["prose"]["allowed"])


if __name__ == "__main__":
    everything, without = findings(), allowed()
    bad = [found for found in everything if found.check not in without]
    for found in bad:
        print(f"{found.place}: {found.said} ({found.check})")
    idle = without.keys() - {found.check for found in everything}
    for check in sorted(idle):
        print(f"pyproject.toml: nothing needs the exception {check}")
    sys.exit(bool(bad or idle))
