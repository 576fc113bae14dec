"""Reads a chapter for Sphinx: directives become tags, and the cache stays honest.

A code cell may open with directives, one a line: ``#| name`` or ``#| name: value``.
They are taken out of the cell, and some have a meaning for the page:

=====================  ====================================================
``hide``               the cell runs and does not show
``export [module]``    the cell is marked with the module that it goes to
``code-fold: true``    the code is folded away behind a button
``fig-alt: text``      what a screen reader says in place of the picture
``fig-cap: text``      a caption under the picture
=====================  ====================================================

A cell that begins with ``%%writefile csrc/NAME.hpp`` is C++: the export writes it to
hlstm/csrc/NAME.hpp, and the page colours it. The magic has to be its first line.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from book import ROOT
from book.notebooks.setup_cell import CELL_ID

DIRECTIVE = re.compile(r"#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<value>.*)")

HEADER = re.compile(r"%%writefile csrc/(?P<name>\w+\.hpp)\n")


def split_directives(source: str) -> tuple[dict[str, str], str]:
    """The directives that open a cell, and the code without them."""
    directives: dict[str, str] = {}
    lines = source.splitlines(keepends=True)
    while lines and (match := DIRECTIVE.fullmatch(lines[0].strip())):
        directives[match["name"]] = match["value"].strip()
        del lines[0]
    return directives, "".join(lines)


MAGIC = re.compile(r"^\s*[%!?]|[?!]\s*$|=\s*[%!]", re.MULTILINE)


def plain_python(code: str) -> str:
    """Code of a notebook with its magics, if any, turned into calls."""
    # Looking for magics token by token takes IPython a while.
    return TransformerManager().transform_cell(code) if MAGIC.search(code) else code


def python_of(cells: Iterable[NotebookNode]) -> str:
    """The Python of several cells, which may open with magics; C++ is left out."""
    return "\n".join(
        plain_python(cell.source) for cell in cells if not HEADER.match(cell.source)
    )


def code_cells(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The code cells of a notebook."""
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def modules(notebook: NotebookNode) -> list[str]:
    """The modules that a chapter exports, in the order of their first cells."""
    default, found = "", []
    for cell in code_cells(notebook):
        directives, _ = split_directives(cell.source)
        default = directives.get("default_exp", default)
        for name in ("export", "exports", "exporti"):
            if name in directives:
                found.append(directives[name] or default)
    return list(dict.fromkeys(found))


def read(text: str, root: Path = ROOT) -> NotebookNode:
    """Read a chapter from the text of its file: the reader that myst-nb is given."""
    notebook = nbformat.reads(text, as_version=4)
    # It does nothing here, and with each version it would make every execution stale.
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != CELL_ID]
    default = ""
    for cell in code_cells(notebook):
        directives, cell.source = split_directives(cell.source)
        default = directives.get("default_exp", default)
        _apply(cell, directives, default)
    _sign(notebook, root)
    return notebook


def download(text: str) -> str:
    """The chapter that a reader downloads: the same code, without the directives."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            _, cell.source = split_directives(cell.source)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    notebook.metadata.pop("jupytext", None)
    return nbformat.writes(notebook) + "\n"


def _apply(cell: NotebookNode, directives: dict[str, str], default: str) -> None:
    """Say in tags and metadata what the directives say."""
    tags = list(cell.metadata.get("tags", []))
    if header := HEADER.match(cell.source):
        tags.append(f"export-csrc/{header['name']}")
    if "hide" in directives or not cell.source.strip():
        tags.append("remove-cell")
    for name in ("export", "exports", "exporti"):
        if name in directives:
            tags.append(f"export-{directives[name] or default}")
    if directives.get("code-fold") == "true":
        tags.append("hide-input")
    if tags:
        cell.metadata["tags"] = tags
    options = cell.metadata.setdefault("mystnb", NotebookNode())
    if "fig-alt" in directives:
        options.setdefault("image", NotebookNode())["alt"] = directives["fig-alt"]
    if "fig-cap" in directives:
        options.setdefault("figure", NotebookNode())["caption"] = directives["fig-cap"]


# The cache of executed chapters knows a chapter by its code and its kernelspec.
# Neither changes when a module does, so the kernelspec carries a digest of what the
# chapter uses.


def _sign(notebook: NotebookNode, root: Path) -> None:
    """Put into the kernelspec a digest of every file that the chapter depends on."""
    kernel = notebook.metadata.setdefault("kernelspec", NotebookNode())
    kernel.update(name="python3", display_name="python3", language="python")
    package = root / "hlstm"
    code = python_of(code_cells(notebook))
    digest = hashlib.sha256()
    for path in [root / "constraints.txt", *dependencies(code, package)]:
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    kernel["hlstm"] = digest.hexdigest()


def dependencies(code: str, package: Path) -> list[Path]:
    """The files of the package that code uses, directly or through a module.

    A module counts where it is imported, and every module where the package itself is.
    A folder of data counts where its name stands in a string, and so does a style of
    figures.
    """
    names = {path.stem for path in package.glob("*.py")} - {"__init__", "_modidx"}
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    styles = {
        f"{package.name}.{path.stem}": path for path in package.glob("*.mplstyle")
    }
    found: set[str] = set()
    data: set[str] = set()
    sources = [plain_python(code)]
    while sources:
        imported, strings = _uses(sources.pop(), package.name, frozenset(names))
        data |= strings & (folders | styles.keys())
        fresh = imported - found
        found |= fresh
        sources += [(package / f"{name}.py").read_text("utf-8") for name in fresh]
    files = [package / f"{name}.py" for name in found]
    files += [styles[name] for name in data & styles.keys()]
    files += [file for name in data & folders for file in (package / name).rglob("*")]
    return sorted(file for file in files if "__pycache__" not in file.parts)


@cache
def _uses(
    code: str, package: str, names: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """What code imports from the package, and the parts of its path-like strings."""
    tree = ast.parse(code)
    return frozenset(_imports(tree, package, names)), frozenset(_strings(tree))


def _imports(tree: ast.Module, package: str, names: Iterable[str]) -> set[str]:
    """The package's modules that the code imports by name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}.{node.module or ''}" if node.level else node.module or ""
            base = base.rstrip(".")
            # `from package import name` means the module of that name, or else all.
            targets = [base]
            if base == package:
                targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for head, _, rest in (target.partition(".") for target in targets):
            if head == package:
                name = rest.partition(".")[0]
                found |= {name} if name in names else set(names)
    return found


def _strings(tree: ast.Module) -> set[str]:
    """Every part of every path-like string in the code."""
    return {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for part in node.value.split("/")
    }
