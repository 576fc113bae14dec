"""C++ in a chapter: exported byte for byte, coloured on the page, and left alone."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import nbformat
import pytest
from docutils import nodes
from docutils.utils import new_document
from nbformat import NotebookNode

from book import ROOT
from book.notebooks.exports import PACKAGE, headers, main, written
from book.notebooks.reader import HEADER, code_cells, dependencies, download, read
from book.site.extension import ExportedCells, MarksFirst
from tests.conftest import posix

BODY = (
    '#pragma once\n// π, "x" and \\n:\tas it stands\ninline int one() { return 1; }\n'
)
HEADER_CELL = f"%%writefile csrc/one.hpp\n{BODY}".rstrip("\n")
MODULE_CELL = '#| default_exp one\n#| export\nFOLDER = "csrc"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A book of one chapter, with a header, a module that names its folder, and magics."""
    new = nbformat.v4
    sources = [MODULE_CELL, HEADER_CELL, "%time 1\nfrom hlstm.one import FOLDER\n"]
    cells = [new.new_markdown_cell("# 1. One\n\n> Why?", id="title")]
    cells += [new.new_code_cell(c, id=f"c{i}") for i, c in enumerate(sources)]
    (tmp_path / "chapters").mkdir()
    path = tmp_path / "chapters" / "01_one.ipynb"
    path.write_text(nbformat.writes(new.new_notebook(cells=cells)) + "\n", "utf-8")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / PACKAGE / "csrc").mkdir(parents=True)
    return tmp_path


def chapter(root: Path) -> str:
    return (root / "chapters" / "01_one.ipynb").read_text("utf-8")


@posix
def test_a_header_is_exported_byte_for_byte(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("book.notebooks.exports.ROOT", project)
    header = project / PACKAGE / "csrc" / "one.hpp"
    with pytest.raises(SystemExit, match=r"csrc/one\.hpp"):
        main(check=True)
    main()
    assert header.read_bytes() == BODY.encode()
    assert written(project / PACKAGE)["csrc/one.hpp"] == BODY.encode()
    main(check=True)
    # One that no chapter writes any longer goes.
    (project / PACKAGE / "csrc" / "old.hpp").write_text("")
    main()
    assert [path.name for path in header.parent.iterdir()] == ["one.hpp"]
    header.write_text("changed\n")
    with pytest.raises(SystemExit, match=r"csrc/one\.hpp"):
        main(check=True)


def test_the_reader_and_the_download_keep_a_header(project: Path) -> None:
    shown = list(code_cells(read(chapter(project), project)))
    assert shown[1].source == HEADER_CELL
    assert shown[1].metadata["tags"] == ["export-csrc/one.hpp"]
    given = list(code_cells(nbformat.reads(download(chapter(project)), as_version=4)))
    assert HEADER_CELL in [cell.source for cell in given]


def test_a_header_that_changes_reaches_the_chapters_that_compile_it(
    project: Path,
) -> None:
    package = project / PACKAGE
    (package / "one.py").write_text('FOLDER = "csrc"\n')
    (package / "two.py").write_text("x = 1\n")
    (package / "csrc" / "one.hpp").write_text(BODY)

    def signature() -> str:
        return str(read(chapter(project), project).metadata["kernelspec"]["hlstm"])

    before = signature()
    (package / "two.py").write_text("x = 2\n")
    assert signature() == before
    (package / "csrc" / "one.hpp").write_text(BODY + "// more\n")
    assert signature() != before


def test_the_page_colours_a_header_and_says_where_it_goes() -> None:
    document = new_document("chapter")
    code = nodes.literal_block(HEADER_CELL, HEADER_CELL, language="ipython3")
    cell = nodes.container(
        "", code, nb_element="cell_code", cell_metadata={"tags": ["export-csrc/a.hpp"]}
    )
    document += cell
    ExportedCells(document).apply()
    MarksFirst(document).run()
    assert code["language"] == "cpp"
    assert code.astext().startswith("%%writefile csrc/")
    assert cell[0].astext() == "exported to hlstm/csrc/a.hpp"
    assert not list(cell[0].findall(nodes.reference))


def test_ruff_leaves_a_header_alone(project: Path) -> None:
    """It formats the Python around it, and finds nothing to say about C++."""
    path = project / "chapters" / "01_one.ipynb"
    path.write_text(chapter(project).replace("%time 1", "%time 1\\nx=1"), "utf-8")
    ruff = shutil.which("ruff", path=sysconfig.get_path("scripts"))
    assert ruff is not None
    for words in (
        ["format"],
        ["check", "--select", "E,F,I,W", "--ignore", "E402,F401,F811"],
    ):
        run = subprocess.run(
            [ruff, *words, "--isolated", "--no-cache", str(path)],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr
    cells = list(code_cells(nbformat.reads(chapter(project), as_version=4)))
    assert cells[1].source == HEADER_CELL
    assert "x = 1" in cells[2].source


# The book's own


def test_chapters_write_headers_only_in_one_way(
    notebooks: dict[str, NotebookNode],
) -> None:
    """The magic is the first line of its cell, as Jupyter and the export want it."""
    for name, notebook in notebooks.items():
        for cell in code_cells(notebook):
            if "%%writefile" in cell.source:
                assert HEADER.match(cell.source), f"{name} {cell.id}"


def test_what_compiles_depends_on_every_header() -> None:
    package = ROOT / PACKAGE
    wanted = {f"{PACKAGE}/csrc/{name}" for name in headers(ROOT)}
    found = dependencies(f"import {PACKAGE}.kernel", package)
    assert wanted <= {path.relative_to(ROOT).as_posix() for path in found}
