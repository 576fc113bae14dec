"""The contract of equations: what each stands on, read from the chapters as they are.

A check names the equations it holds, ``agree(…, eq="4.3")``, or several of them,
``holds(…, eq=("4.3", "4.4"))``. An equation that only names something has a mark in its
cell of words, ``<!-- definition: 4.1 -->``, and a comment or docstring with its number
beside the code that types it. Nothing is executed here.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.notebooks.reader import split_directives
from book.notebooks.renumber import CHECK, DOTTED, MARK, STEM, entries, prose, remarks

# Chapters that are not bound yet, by the name of their file without its number.
PENDING: set[str] = {
    "text", "counting", "truncation", "depth", "network", "dropout", "clipping",
    "training", "sampling", "results", "runs", "recipes", "quantise", "speed",
    "compression", "command_line",
}  # fmt: skip
TAG = re.compile(rf"\\tag\{{({DOTTED})\}}")
FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
MENTION = re.compile(rf"\(({DOTTED})\)(?:\s+to\s+\(({DOTTED})\))?")
# What a check prints.
ONE = rf"\({DOTTED}\)"
RECORD = re.compile(
    rf"^(?P<names>{ONE}(?:, {ONE})*(?: and {ONE})?) holds?"
    r"(?:: largest difference (?P<size>\S+))?$",
    re.MULTILINE,
)


@dataclass
class Equation:
    """One numbered equation, and what the book says and does about it."""

    number: str
    stem: str
    tex: str
    definition: bool = False
    # Stems of chapters, in reading order; the cells have anchors of their own.
    typed: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    cited: list[str] = field(default_factory=list)


@dataclass
class Contract:
    """Every equation by its number, and what is wrong with them."""

    equations: dict[str, Equation] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def name_of(stem: str) -> str:
    """The name of a chapter's file without its number."""
    match = STEM.fullmatch(stem)
    return match["name"] if match else stem


def label_of(stem: str) -> str:
    """A chapter's number, or an appendix's letter."""
    return stem.partition("_")[0].lstrip("0")


def checked(code: str) -> list[str]:
    """The equations that the checks in a code cell name."""
    found = (re.findall(r'"([^"]*)"', check["names"]) for check in CHECK.finditer(code))
    return list(dict.fromkeys(number for names in found for number in names))


def mentioned(text: str, known: Iterable[str]) -> list[str]:
    """The known equations whose numbers stand in brackets; "to" stands for all between."""
    order = list(known)
    found: list[str] = []
    for match in MENTION.finditer(text):
        first, last = match.groups()
        if first in order and last in order:
            found += order[order.index(first) : order.index(last) + 1]
        else:
            found += [number for number in (first, last) if number in order]
    return list(dict.fromkeys(found))


def typed(code: str, known: Iterable[str]) -> list[str]:
    """The equations whose numbers stand in the comments and strings of a code cell."""
    if not MENTION.search(code):
        return []  # to cut code into tokens takes a while
    if code.startswith("%%"):
        words = re.findall(r"//[^\n]*|/\*.*?\*/", code, re.DOTALL)
    else:
        words = [code[start:end] for start, end, _ in remarks(code)]
    return mentioned("\n".join(words), known)


def recorded(printed: str) -> Iterator[tuple[str, float | None]]:
    """The equations that hold by what a cell printed, with the largest difference."""
    for record in RECORD.finditer(printed):
        size = float(record["size"]) if record["size"] else None
        for number in re.findall(DOTTED, record["names"]):
            yield number, size


def _markdown(cell: NotebookNode, stem: str, contract: Contract) -> None:
    """Enter the equations of a cell of words, and its marks of definitions."""
    for formula in FORMULA.finditer(cell.source):
        for number in TAG.findall(formula[1]):
            if number in contract.equations:
                contract.faults.append(f"{stem}: ({number}) is numbered twice")
            tex = " ".join(TAG.sub("", formula[1]).split())
            tex = re.sub(r"(?<!\\)[.,;]$", "", tex).strip()
            contract.equations[number] = Equation(number, stem, tex)
    for mark in MARK.finditer(cell.source):
        for number in mark["names"].split(", "):
            equation = contract.equations.get(number)
            if not equation or f"\\tag{{{number}}}" not in cell.source:
                contract.faults.append(
                    f"{stem}: ({number}) is marked as a definition, and not in this cell"
                )
            else:
                equation.definition = True


def _code(cell: NotebookNode, stem: str, contract: Contract) -> None:
    """Enter the checks of a code cell, and the equations that it types."""
    directives, code = split_directives(cell.source)
    known = contract.equations
    for number in checked(code):
        if number not in known:
            contract.faults.append(
                f"{stem}: a check names ({number}), which is nowhere"
            )
        elif "hide" in directives:
            contract.faults.append(f"{stem}: the check of ({number}) does not show")
        else:
            known[number].checks.append(stem)
    if "hide" not in directives:
        for number in typed(code, known):
            known[number].typed.append(stem)


def read_contract(root: Path, pending: Iterable[str] | None = None) -> Contract:
    """Read all chapters.

    Parameters
    ----------
    root
        The repository.
    pending
        The chapters that may lack checks; none means the list of the book.
    """
    pending = set(PENDING if pending is None else pending)
    contract, cells = Contract(), []
    for stem, _ in entries(root):
        path = root / "chapters" / f"{stem}.ipynb"
        cells += [(stem, cell) for cell in nbformat.read(path, as_version=4).cells]
    for stem, cell in cells:
        if cell.cell_type == "markdown":
            _markdown(cell, stem, contract)
    seen: set[str] = set()
    for stem, cell in cells:
        if cell.cell_type == "code":
            _code(cell, stem, contract)
            continue
        words = "\n".join(cell.source[a:b] for a, b in prose(cell.source))
        for number in mentioned(words, contract.equations):
            if number in seen:
                contract.equations[number].cited.append(stem)
        seen |= set(TAG.findall(cell.source))
    contract.faults += _missing(contract, pending)
    return contract


def _missing(contract: Contract, pending: set[str]) -> Iterator[str]:
    """What an equation must have, and lacks."""
    bound: dict[str, int] = defaultdict(int)
    for equation in contract.equations.values():
        place = f"{equation.stem}: ({equation.number})"
        good = bool(equation.checks)
        if equation.definition:
            good = bool(equation.typed or equation.checks)
        bound[name_of(equation.stem)] += not good
        if good or name_of(equation.stem) in pending:
            continue
        if equation.definition:
            yield f"{place} is a definition, and no comment of code names it"
        else:
            yield f"{place} has neither a check nor a mark as a definition"
    for name in sorted(pending):
        if not bound[name]:
            yield f"{name} is done: take it out of PENDING"
