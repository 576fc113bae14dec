"""Writes the set-up cell, with which a chapter runs where `hlstm` is not installed.

    python -m book.notebooks.setup_cell    write it into the chapters that lack it or have another

The README's line with `pip install` says the same address, and is written with it.
Colab has torch, numpy and matplotlib and must keep its own; the cell fetches the rest.
The pages of the book leave it out.
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from packaging.requirements import Requirement

from book import ROOT, settings

CELL_ID = "setup"
OPENING = "# Where hlstm is missing, as in Colab"
COLAB = {"python_version": "3.13", "sys_platform": "linux", "platform_system": "Linux"}
KEPT = {"torch", "numpy"}
SOURCE = """\
{opening}, fetch it and what it needs; keep {kept}.
from importlib.util import find_spec

if find_spec("hlstm") is None:
    needs = \"\"\"{needs}\"\"\".split()
    missing = " ".join(name for name in needs if find_spec(name) is None)
    %pip install --quiet --no-deps git+{git_url}@v{version} {{missing}}"""


def module_of(package: str) -> str:
    """The module that a package is named after."""
    return package.lower().replace("-", "_")


def closure(
    names: Iterable[str], path: list[str] | None = None, colab: bool = True
) -> set[str]:
    """The packages of `names` and what they require in Colab, or here, as module names.

    The packages that are installed say so, here or in the folders of `path`.
    """
    place = COLAB if colab else {}
    folders = path or sys.path
    known = {module_of(dist.name): dist for dist in distributions(path=folders)}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(name) for name in names]
    while queue:
        wanted = queue.pop()
        module, extras = module_of(wanted.name), frozenset(wanted.extras)
        if (module, extras) not in seen:
            seen.add((module, extras))
            for requirement in map(Requirement, known[module].requires or []):
                marker = requirement.marker
                cases = [place | {"extra": extra} for extra in ("", *extras)]
                if not marker or any(marker.evaluate(case) for case in cases):
                    queue.append(requirement)
    return {module for module, _ in seen}


def lacking(root: Path = ROOT) -> list[str]:
    """The packages that hlstm requires and that neither torch nor numpy brings."""
    return sorted(closure(settings(root)["requirements"].split()) - closure(KEPT))


def setup_source(root: Path = ROOT) -> str:
    """The code of the cell: what settings.ini says, and what the requirements need."""
    known = settings(root)
    needs = lacking(root)
    if unknown := [name for name in needs if find_spec(name) is None]:
        raise SystemExit(f"no modules named after their packages: {', '.join(unknown)}")
    half = len(needs) // 2
    return SOURCE.format(
        opening=OPENING,
        kept=" and ".join(sorted(KEPT, reverse=True)),
        needs=" ".join(needs[:half]) + "\n    " + " ".join(needs[half:]),
        git_url=known["git_url"],
        version=known["version"],
    )


def put(notebook: NotebookNode, source: str) -> None:
    """Put the cell under the title, in place of the one that may be there."""
    cell = nbformat.v4.new_code_cell(source, id=CELL_ID)
    others = [
        other
        for other in notebook.cells
        if other.get("id") != CELL_ID and not other.source.startswith(OPENING)
    ]
    notebook.cells = [others[0], cell, *others[1:]]


def install_line(root: Path = ROOT) -> str:
    """The command that installs the package from its repository."""
    known = settings(root)
    return f"pip install git+{known['git_url']}@v{known['version']}"


def main() -> None:
    """Bring every chapter's cell, and the README, in step with settings.ini."""
    readme = ROOT / "README.md"
    text = re.sub(r"pip install git\+\S+", install_line(), readme.read_text("utf-8"))
    readme.write_text(text, "utf-8", newline="\n")
    source = setup_source()
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        old = path.read_text("utf-8")
        notebook = nbformat.reads(old, as_version=4)
        put(notebook, source)
        new = nbformat.writes(notebook) + "\n"
        if new != old:
            path.write_text(new, "utf-8", newline="\n")
            print(f"set-up cell written into {path.name}")


if __name__ == "__main__":
    main()
