"""One meaning for each letter: the tables of the notation appendix against every chapter.

A letter that an equation, a figure or a docstring uses has a row in the appendix. A letter of
one chapter stays in that chapter, and no letter has two rows.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book import ROOT
from book.notebooks.reader import code_cells

APPENDIX = "E_notation"
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
MATH = re.compile(
    r"\$\$(.+?)\$\$|(?<![\\$])\$(?![\s$])([^$]+?)(?<![\\\s])\$", re.DOTALL
)
STRING = re.compile(r'"[^"\n]*\$[^"$\n]+\$[^"\n]*"|^#\|.*\$.*\$.*', re.MULTILINE)
WORDS = re.compile(
    r"\\(?:text|mathrm|operatorname\*?|tag|begin|end)\s*\{[^{}]*\}|\\\\\[.*?\]"
)
FONT = re.compile(r"\\(?:mathcal|mathbb|mathbf)\{\w\}")
INDEX = re.compile(r"[_^](?:\{[^{}]*\}|\\[A-Za-z]+|\w)")
ACCENT = re.compile(
    r"\\(bar|hat|tilde|vec|dot|ddot|check|breve|overline|widehat|widetilde)\b"
)
# A prime is a derivative, and stands on a function.
PRIME = re.compile(r"(?<!\\)\b[A-Za-z]'|\^\{?\\prime|\\(?!sigma|tanh)[a-z]+'")
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΦΨℓℒℋ",
        r"\alpha \beta \gamma \delta \varepsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu "
        r"\xi \pi \rho \sigma \tau \upsilon \phi \chi \psi \omega \Gamma \Delta \Theta \Lambda "
        r"\Xi \Phi \Psi \ell \mathcal{L} \mathcal{H}".split(),
        strict=True,
    )
)
COMMANDS = set(GREEK.values()) | {r"\epsilon", r"\varphi", r"\Omega", r"\Pi", r"\Sigma"}


class Row(NamedTuple):
    """What the appendix says of a letter."""

    meaning: str
    code: str
    chapter: str
    alone: bool


def letters(tex: str, indices: bool = True) -> set[str]:
    """The letters of a formula, Latin and Greek, a calligraphic one apart from a plain one."""
    tex = WORDS.sub(" ", tex)
    if not indices:
        while INDEX.search(tex):
            tex = INDEX.sub(" ", tex)
    found = set(FONT.findall(tex))
    for command, letter in re.findall(r"(\\[A-Za-z]+)|([A-Za-z])", FONT.sub(" ", tex)):
        if letter or command in COMMANDS:
            found.add(letter or command)
    return found


def formulas(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """The formulas of a chapter, of its prose and of its figures, each with its cell."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            texts = [CODE.sub(" ", cell.source)]
        else:
            # A name in braces is a part of an f-string.
            texts = [
                re.sub(r"\{[a-z]{2,}\}", "", s) for s in STRING.findall(cell.source)
            ]
        for text in texts:
            for display, inline in MATH.findall(text):
                yield cell.get("id", ""), display or inline


def used(notebook: NotebookNode) -> dict[str, str]:
    """The letters of a chapter, each with a place: in formulas, and Greek ones in code."""
    found: dict[str, str] = {}
    for place, tex in formulas(notebook):
        found |= {letter: f"{place}: {tex.strip()}" for letter in letters(tex)}
    for cell in code_cells(notebook):
        for character in set(cell.source) & set(GREEK):
            found.setdefault(GREEK[character], f"{cell.get('id')}: {character}")
    return found


def rows(notebook: NotebookNode) -> Iterator[tuple[str, Row]]:
    """The letters of the appendix's tables; of signs those that are one letter."""
    for cell in notebook.cells:
        head: list[str] = []
        for line in cell.source.splitlines():
            cells = [part.strip() for part in line.strip("|").split("|")]
            if cell.cell_type != "markdown" or not line.startswith("|"):
                head = []
            elif not head:
                head = cells
            elif head[0] in ("letter", "sign") and not cells[0].startswith("---"):
                row = dict(zip(head, cells, strict=True))
                chapter = row.get("first in") or row.get("only in") or ""
                said = Row(
                    row["meaning"],
                    row.get("in code", ""),
                    chapter.partition("](")[2].removesuffix(".ipynb)"),
                    "only in" in row,
                )
                for tex in re.findall(r"\$([^$]+)\$", cells[0]):
                    named = letters(tex, indices=False)
                    if head[0] == "letter" or len(named) == 1:
                        if not ACCENT.search(tex) and not re.search(r"langle|<|:", tex):
                            yield from ((letter, said) for letter in named)


def faults(stem: str, notebook: NotebookNode, table: dict[str, Row]) -> list[str]:
    """Letters of a chapter that have no row, or whose row keeps them elsewhere."""
    found = []
    for letter, place in used(notebook).items():
        row = table.get(letter)
        if row is None:
            found.append(f"{stem} {place}: {letter} is not in appendix E")
        elif row.alone and row.chapter != stem:
            found.append(f"{stem} {place}: {letter} belongs to {row.chapter}")
    for place, tex in formulas(notebook):
        if mark := PRIME.search(tex):
            found.append(f"{stem} {place}: {mark[0]} has a prime, and time is an index")
    return found


@pytest.fixture(scope="module")
def table(notebooks: dict[str, NotebookNode]) -> dict[str, Row]:
    """What the appendix says."""
    return dict(rows(notebooks[APPENDIX]))


@pytest.fixture(scope="module")
def order() -> list[str]:
    """The stems of the chapters in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [name.removeprefix("chapters/") for name in files if "chapters/" in name]


# The rule sees a breach


@pytest.mark.parametrize(
    ("tex", "found"),
    [
        (r"h_t = \tanh(W_{hh} h_{t-1})", {"h", "t", "W"}),
        (
            r"\mathcal{H}(p) = -\sum_v p_v \ln p_v \tag{13.1}",
            {r"\mathcal{H}", "p", "v"},
        ),
        (r"\frac{dU}{d\tau}", {"d", "U", r"\tau"}),
        (r"\text{ratio} = \mathrm{diag}(f) \\[2ex] \operatorname{Var}(z)", {"f", "z"}),
    ],
)
def test_letters_of_a_formula(tex: str, found: set[str]) -> None:
    assert letters(tex) == found


def test_letters_outside_of_indices() -> None:
    assert letters(r"W_{ih}\, x_t + b_{\text{a}} + h_t^{(\ell)}", indices=False) == {
        "W",
        "x",
        "b",
        "h",
    }


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (new_markdown_cell(r"Text and $\psi$."), "not in"),
        (new_markdown_cell("$$ h_t = Y h_{t-1} $$"), "not in"),
        (new_markdown_cell("The energy $E$."), "belongs to"),
        (new_markdown_cell("$h' = h$"), "prime"),
        (new_code_cell('ax.set(xlabel="$Y$ of the text")'), "not in"),
        (new_code_cell("#| fig-cap: At $Y = 1$ it turns."), "not in"),
        (new_code_cell('print("ψ =", 1)'), "not in"),
    ],
)
def test_a_breach_is_seen(
    cell: NotebookNode, fault: str, table: dict[str, Row]
) -> None:
    found = faults("01_text", new_notebook(cells=[cell]), table)
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
    "cell",
    [
        new_markdown_cell("`$Y$` and\n\n```sh\necho $Y$\n```\n\nfor $5."),
        new_markdown_cell(r"$\sigma'(a)$ at $h_t$ costs \$Y\$"),
        new_code_cell('label = {"$": r"\\$"}.get(symbol)'),
    ],
)
def test_what_is_no_breach(cell: NotebookNode, table: dict[str, Row]) -> None:
    assert faults("01_text", new_notebook(cells=[cell]), table) == []


# The appendix


def test_no_letter_has_two_rows(notebooks: dict[str, NotebookNode]) -> None:
    named = [letter for letter, _ in rows(notebooks[APPENDIX])]
    assert len(named) > 50
    assert sorted(named) == sorted(set(named))


def test_every_letter_is_in_the_appendix(
    notebooks: dict[str, NotebookNode], table: dict[str, Row]
) -> None:
    found = [
        fault
        for stem, notebook in notebooks.items()
        if stem != APPENDIX
        for fault in faults(stem, notebook, table)
    ]
    assert not found, "\n".join(found)


def test_letters_are_used_where_the_appendix_says(
    notebooks: dict[str, NotebookNode], table: dict[str, Row], order: list[str]
) -> None:
    """In the chapter that introduces them, and in none before it but as an index."""
    for letter, row in table.items():
        if not row.chapter:
            continue
        assert letter in used(notebooks[row.chapter]), (
            f"{letter} is not in {row.chapter}"
        )
        for stem in order[: order.index(row.chapter)]:
            for place, tex in formulas(notebooks[stem]):
                assert letter not in letters(tex, indices=False), (
                    f"{letter} comes before {row.chapter}: {stem} {place}"
                )


def test_chapters_are_called_by_their_numbers(
    notebooks: dict[str, NotebookNode],
) -> None:
    prose = "\n".join(cell.source for cell in notebooks[APPENDIX].cells)
    links = re.findall(r"\[chapter (\d+)\]\((\d+)_\w+\.ipynb\)", prose)
    assert len(links) > 50
    assert all(int(said) == int(number) for said, number in links)


def test_names_in_code_exist(
    notebooks: dict[str, NotebookNode], table: dict[str, Row]
) -> None:
    others = (notebook for stem, notebook in notebooks.items() if stem != APPENDIX)
    code = "\n".join(
        cell.source for notebook in others for cell in code_cells(notebook)
    )
    words = set(re.findall(r"\w+", code))
    for letter, row in table.items():
        for name in re.findall(r"`([^`]+)`", row.code):
            assert set(re.findall(r"\w+", name)) <= words, f"{letter}: {name}"


def test_accents_are_in_the_appendix(notebooks: dict[str, NotebookNode]) -> None:
    known = {
        accent
        for _, tex in formulas(notebooks[APPENDIX])
        for accent in ACCENT.findall(tex)
    }
    assert known
    for stem, notebook in notebooks.items():
        for place, tex in formulas(notebook):
            assert set(ACCENT.findall(tex)) <= known, f"{stem} {place}: {tex}"
