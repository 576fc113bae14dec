"""Renumbering a small book: every mention follows, once, and the rest stays."""

from pathlib import Path

import nbformat
import pytest

from book.notebooks.renumber import main

TOC = """\
root: README
parts:
  - caption: How it works
    chapters:
      - file: chapters/02_gates
      - file: chapters/01_text
      - file: chapters/01b_counting
      - file: playground
  - caption: Appendices
    chapters:
      - file: chapters/C_corpus
      - file: api
"""
GATES = r"""# 2. The gates

You need [chapter 1](01_text.ipynb).

<!-- definition: 2.1, 2.3 -->
$$ a \tag{2.1} $$ and $$ b \tag{2.3} $$ and $$ b' \tag{2.3a} $$
"""
COUNTING = r"""# 1. Supplement: counting

$$ n = \sigma(2.1) \tag{1B.1} $$ then $$ m \tag{1.2} $$

See equations (2.1), (2.3) and (1B.1), the gates of chapters 1 and 2, [chapter
1](01b_counting.ipynb), and (2.3a). Half is $f (2.1)$, or `(2.1)`, and a range (0.6).
Chapter 1b's table stands in appendix C; chapter 3 of Graves (2012) has more.
"""
CODE = '''#| fig-cap: What chapter 2 draws, in the manner of
# equation (2.3), of chapters 1b
# and 2.
def f(x=(2.1)):
    """Equation (1.2), then (1B.1); chapter 1b."""
    %time x
    print(f"equations (2.1) and (2.3), {x}", "at (2.1)", (2.1))
    return "chapters/01_text.ipynb"
'''
CHECKS = """agree(a, b, 2.1, eq="2.1")
agree("2.1", (2.3), eq=(
    "1B.1",
    "1.2",
))
"""
HEADER = """%%writefile csrc/a.hpp
// (2.3), as in chapter 2
float f = (2.1);
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Four notebooks out of order, two pages, a test that names a chapter."""
    new = nbformat.v4
    chapters = {
        "01_text": [new.new_markdown_cell("# 1. Text\n\n$$ t \\tag{1.1} $$")],
        "01b_counting": [new.new_markdown_cell(COUNTING)],
        "02_gates": [
            new.new_markdown_cell(GATES),
            new.new_code_cell(CODE),
            new.new_code_cell(HEADER),
            new.new_code_cell(CHECKS),
        ],
        "C_corpus": [new.new_markdown_cell("# C. The corpus\n\nNo equation.")],
    }
    (tmp_path / "chapters").mkdir()
    for name, cells in chapters.items():
        for position, cell in enumerate(cells):
            cell.id = f"cell{position}"
        text = nbformat.writes(new.new_notebook(cells=cells)) + "\n"
        (tmp_path / "chapters" / f"{name}.ipynb").write_text(text)
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "README.md").write_text(
        "| 1 | [Text](chapters/01_text.ipynb) | 2 |\n"
        "| | [Counting](chapters/01b_counting.ipynb) | |\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text('STOP = {"02_gates": "x"}\n')
    (tmp_path / "hlstm").mkdir()
    (tmp_path / "hlstm" / "text.py").write_text("# chapter 2\n")
    return tmp_path


def everything(root: Path) -> dict[str, bytes]:
    """Every file of the small book."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def cells(root: Path, name: str) -> list[str]:
    """The sources of a notebook's cells."""
    path = root / "chapters" / f"{name}.ipynb"
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_everything_follows_the_table_of_contents(book: Path) -> None:
    assert main(book) == 0
    assert {path.stem for path in (book / "chapters").iterdir()} == {
        "01_gates",
        "02_text",
        "03_counting",
        "A_corpus",
    }
    head, code, header, checks = cells(book, "01_gates")
    assert head == GATES.replace("# 2.", "# 1.").replace(
        "[chapter 1](01_text.ipynb)", "[chapter 2](02_text.ipynb)"
    ).replace(r"\tag{2.1}", r"\tag{1.1}").replace(r"\tag{2.3", r"\tag{1.2").replace(
        "definition: 2.1, 2.3", "definition: 1.1, 1.2"
    )
    assert code == (
        """#| fig-cap: What chapter 1 draws, in the manner of
# equation (1.2), of chapters 3
# and 1.
def f(x=(2.1)):
    \"\"\"Equation (3.2), then (3.1); chapter 3.\"\"\"
    %time x
    print(f"equations (1.1) and (1.2), {x}", "at (2.1)", (2.1))
    return "chapters/02_text.ipynb"
"""
    )
    assert header == HEADER.replace("(2.3), as in chapter 2", "(1.2), as in chapter 1")
    assert checks == (
        """agree(a, b, 2.1, eq="1.1")
agree("2.1", (2.3), eq=(
    "3.1",
    "3.2",
))
"""
    )
    assert cells(book, "03_counting") == [
        r"""# 3. Counting

$$ n = \sigma(2.1) \tag{3.1} $$ then $$ m \tag{3.2} $$

See equations (1.1), (1.2) and (3.1), the gates of chapters 2 and 1, [chapter
3](03_counting.ipynb), and (1.2a). Half is $f (2.1)$, or `(2.1)`, and a range (0.6).
Chapter 3's table stands in appendix A; chapter 3 of Graves (2012) has more.
"""
    ]
    assert cells(book, "A_corpus")[0].startswith("# A. The corpus")
    assert (book / "README.md").read_text() == (
        "| 2 | [Text](chapters/02_text.ipynb) | 2 |\n"
        "| 3 | [Counting](chapters/03_counting.ipynb) | |\n"
    )
    listed = (book / "_toc.yml").read_text()
    assert "chapters/01_gates\n      - file: chapters/02_text\n" in listed
    assert "chapters/A_corpus" in listed and "file: playground" in listed
    assert (book / "tests/test_a.py").read_text() == 'STOP = {"01_gates": "x"}\n'
    assert (book / "hlstm/text.py").read_text() == "# chapter 2\n", "it is exported"


def test_a_second_run_changes_nothing(book: Path) -> None:
    assert main(book) == 0
    once = everything(book)
    assert main(book) == 0
    assert everything(book) == once


def test_a_dry_run_shows_the_map(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(book)
    assert main(book, "--dry-run") == 0
    said = capsys.readouterr().out
    assert everything(book) == before
    assert "01b_counting            03_counting" in said
    assert "(1B.1) becomes (3.1)" in said and "of another work" in said


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("Equation (7.1) says so.", "no equation has this number: Equation (7.1)"),
        ("As chapters 2 and 9 say.", "no chapter has this number"),
        ("As appendix D says.", "no appendix has this number"),
        ("As the supplement of chapter 1 says.", "a supplement needs words by hand"),
    ],
)
def test_what_cannot_be_resolved_is_left_to_a_hand(
    book: Path, capsys: pytest.CaptureFixture[str], addition: str, complaint: str
) -> None:
    path = book / "chapters" / "01_text.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(addition, id="added"))
    nbformat.write(notebook, path)
    before = everything(book)
    assert main(book) == 1
    assert everything(book) == before
    said = capsys.readouterr().out
    assert "chapters/01_text.ipynb cell added" in said and complaint in said
    assert main(book, "--anyway") == 1
    assert (book / "chapters/02_text.ipynb").exists()


def test_a_check_of_no_equation_is_left_to_a_hand(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = book / "chapters" / "01_text.ipynb"
    notebook = nbformat.read(path, as_version=4)
    new = nbformat.v4
    notebook.cells.append(new.new_code_cell('holds(True, eq="7.1")', id="added"))
    notebook.cells.append(new.new_markdown_cell("<!-- definition: 7.2 -->", id="more"))
    nbformat.write(notebook, path)
    assert main(book) == 1
    said = capsys.readouterr().out
    assert 'cell added: no equation has this number: holds(True, eq="7.1")' in said
    assert "cell more: no equation has this number" in said


def test_the_book_has_each_equation_and_each_notebook_once(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (book / "chapters" / "01_text.ipynb").read_text()
    (book / "chapters" / "01_text.ipynb").write_text(text.replace("{1.1}", "{2.1}"))
    (book / "chapters" / "05_lost.ipynb").write_text(text)
    assert main(book, "--anyway") == 1
    said = capsys.readouterr().out
    assert "equation (2.1) is there twice" in said
    assert "05_lost.ipynb is not in _toc.yml" in said
