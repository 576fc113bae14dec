"""What `make check` reads with codespell and proselint: they see a fault where there is one."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book import ROOT
from book.tools.prose import Finding, allowed, findings, plain


def repository(root: Path, *cells: nbformat.NotebookNode, module: str = "") -> Path:
    """A small repository: one chapter, and one module."""
    for name in ("chapters", "hlstm", "book"):
        (root / name).mkdir()
    nbformat.write(new_notebook(cells=list(cells)), root / "chapters" / "01_a.ipynb")
    (root / "hlstm" / "a.py").write_text(module)
    return root


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("As $h_t$ and `c` say.", "As term0 and term1 say."),
        ("[Shannon](https://a.b/c) said", "[Shannon]term0 said"),
        ("$$ a\n= b $$ then", "term0 then"),
        ("```sh\nthe the\n```\nthen", "term0\nthen"),
        ("it costs \\$5, or \\$6", "it costs \\$5, or \\$6"),
        ("a slope of tanh(c) is", "a slope of term0 is"),
        ("    axes\n        Axes to draw into.", "term0\n        Axes to draw into."),
        ("The end\n\nthe end", "The end\n\n***\n\nthe end"),
    ],
)
def test_what_is_no_prose_is_left_out(text: str, prose: str) -> None:
    assert plain(text) == prose


def test_proselint_finds_what_is_wrong_and_says_where(tmp_path: Path) -> None:
    bad, good = new_markdown_cell("It stays for ever."), "It holds for every text."
    caption = "#| fig-cap: The the curve.\nplt.show()"
    module = '"""Peradventure a module."""\n\n\ndef f():\n    """Return it."""\n'
    cells = bad, new_markdown_cell(good), new_code_cell(caption)
    found = findings(repository(tmp_path, *cells, module=module))
    assert [(f.place, f.check) for f in found] == [
        (f"chapters/01_a.ipynb {bad.id}", "archaism"),
        (f"chapters/01_a.ipynb {cells[2].id}", "lexical_illusions"),
        ("hlstm/a.py the module", "archaism"),
    ]
    assert isinstance(found[0], Finding) and "for ever" in found[0].said


def test_prose_without_a_fault_has_no_finding(tmp_path: Path) -> None:
    code = new_code_cell('print("for ever")')
    assert findings(repository(tmp_path, new_markdown_cell("It holds."), code)) == []


def test_exceptions_have_a_reason() -> None:
    assert all(len(reason.split()) > 3 for reason in allowed().values())


def test_codespell_reads_the_exceptions(tmp_path: Path) -> None:
    codespell = shutil.which("codespell", path=sysconfig.get_path("scripts"))
    assert codespell is not None
    path = tmp_path / "text.md"
    path.write_text("Cleary wrote teh paper.\n")  # codespell:ignore teh
    command = [codespell, "--toml", str(ROOT / "pyproject.toml"), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode and run.stdout.count("==>") == 1
    assert run.stdout.rstrip().endswith("==> the")
