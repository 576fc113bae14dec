"""Each equation has a check or is a definition that code types; nothing is executed."""

from pathlib import Path

import nbformat
import pytest

from book import ROOT
from book.notebooks.contract import PENDING, mentioned, read_contract, recorded

WORDS = r"""# 1. One

<!-- definition: 1.1 -->
$$ a = b \tag{1.1} $$

$$ a \le b, \tag{1.2} $$

Equation (1.1) is above.
"""
CODE = """a = b  # equation (1.1)
holds(a <= b, eq="1.2")
agree(
    a,
    b,
    eq=("1.2", "1.3"),
)
"""
LATER = r"""# 2. Two

$$ c \tag{1.3} $$

Equations (1.1) to (1.2); $(1.3)$ is a number.
"""


def make_book(root: Path, *, words: str = WORDS, code: str = CODE) -> Path:
    """A book of two chapters, bound by their checks."""
    (root / "chapters").mkdir()
    (root / "_toc.yml").write_text(
        "root: x\nparts:\n  - caption: Part\n    chapters:\n"
        "      - file: chapters/01_one\n      - file: chapters/02_two\n"
    )
    new = nbformat.v4
    for name, cells in {
        "01_one": [new.new_markdown_cell(words), new.new_code_cell(code)],
        "02_two": [new.new_markdown_cell(LATER)],
    }.items():
        text = nbformat.writes(new.new_notebook(cells=cells)) + "\n"
        (root / "chapters" / f"{name}.ipynb").write_text(text)
    return root


def test_the_book_keeps_its_contract() -> None:
    contract = read_contract(ROOT)
    assert contract.faults == []
    assert len(contract.equations) > 100
    assert any(equation.definition for equation in contract.equations.values())


def test_what_is_pending_is_a_chapter() -> None:
    assert {path.stem.partition("_")[2] for path in (ROOT / "chapters").iterdir()} > (
        PENDING
    )


def test_a_small_book_keeps_its_contract(tmp_path: Path) -> None:
    contract = read_contract(make_book(tmp_path), ())
    assert contract.faults == []
    first, second, third = contract.equations.values()
    assert (first.number, first.stem, first.tex) == ("1.1", "01_one", "a = b")
    assert first.definition and first.typed == ["01_one"] and first.checks == []
    assert second.tex == r"a \le b" and second.checks == ["01_one"]
    assert third.checks == ["01_one"] and third.typed == [] and third.cited == []
    assert first.cited == second.cited == ["02_two"], "what is in its own cell is near"


@pytest.mark.parametrize(
    ("words", "code", "fault"),
    [
        (
            WORDS,
            CODE.replace('"1.2"', '"1.9"'),
            "a check names (1.9), which is nowhere",
        ),
        (WORDS, CODE.replace("eq=(", "x=("), "(1.3) has neither a check nor a mark"),
        (WORDS, CODE.replace("# equation (1.1)", ""), "no comment of code names it"),
        (WORDS, "#| hide\n" + CODE, "the check of (1.2) does not show"),
        (WORDS.replace("definition", "idea"), CODE, "(1.1) has neither a check nor"),
        (WORDS.replace("n: 1.1", "n: 1.3"), CODE, "(1.3) is marked as a definition"),
        (WORDS.replace("{1.2}", "{1.1}"), CODE, "(1.1) is numbered twice"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, words: str, code: str, fault: str) -> None:
    faults = read_contract(make_book(tmp_path, words=words, code=code), ()).faults
    assert any(fault in found for found in faults), faults


def test_a_pending_chapter_may_lack_checks_until_it_has_them(tmp_path: Path) -> None:
    book = make_book(tmp_path, code="a = b")
    assert read_contract(book, ("one", "two")).faults == []
    faults = read_contract(book, ("one",)).faults
    assert faults == ["02_two: (1.3) has neither a check nor a mark as a definition"]
    for name, cell in (("01_one", CODE),):
        path = book / "chapters" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].source = cell
        nbformat.write(notebook, path)
    faults = read_contract(book, ("one", "two")).faults
    assert "one is done: take it out of PENDING" in faults


def test_what_a_check_prints_is_a_record() -> None:
    printed = (
        "(4.3) holds: largest difference 1.2e-07\nand (4.4) holds\n(4.5) holds\n"
        "(4.6), (4.7) and (B.1) hold: largest difference 0\n"
    )
    assert list(recorded(printed)) == [
        ("4.3", 1.2e-07),
        ("4.5", None),
        ("4.6", 0.0),
        ("4.7", 0.0),
        ("B.1", 0.0),
    ]


def test_a_range_stands_for_all_between() -> None:
    known = ["4.1", "4.2", "4.3", "4.4"]
    assert mentioned("(4.1), and (4.2) to (4.4), (9.9)", known) == known
