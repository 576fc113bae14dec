"""The contract of equations: one row for each, from the chapters and what they printed.

The page has a directive, ``{contract}``. Cells that type an equation and cells that check
one get anchors, so that the rows lead to them. What is missing is a warning, and a build
of the book takes warnings for errors.
"""

from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book import ROOT
from book.notebooks.contract import (
    Contract,
    Equation,
    checked,
    label_of,
    read_contract,
    recorded,
    typed,
)
from book.notebooks.reader import read
from book.notebooks.renumber import entries
from book.site.extension import equation_label, link_to

LOGGER = logging.getLogger(__name__)
PAGE = "appendices/contract"


def contract_of_book() -> Contract:
    """The contract as the chapters stand, read once for each state of their files."""
    paths = (ROOT / "chapters").glob("*.ipynb")
    return _contract(tuple(sorted((str(p), p.stat().st_mtime_ns) for p in paths)))


@cache
def _contract(state: tuple[tuple[str, int], ...]) -> Contract:
    return read_contract(ROOT)


def anchor(kind: str, number: str) -> str:
    """The id of a cell: `typed-4-3` or `check-4-3`."""
    return equation_label(number).replace("equation", kind)


class Anchors(SphinxTransform):
    """The first cell of a page that types an equation, or checks one, can be linked to."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Give the cells their ids, and the book their names."""
        known = contract_of_book().equations
        names = self.env.domaindata["std"]["anonlabels"]
        page = self.env.docname
        seen: set[str] = set()
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") != "cell_code":
                continue
            code = "\n".join(
                block.astext()
                for part in cell.children[:1]
                for block in part.findall(nodes.literal_block)
            )
            labels = [anchor("check", number) for number in checked(code)]
            labels += [anchor("typed", number) for number in typed(code, known)]
            for label in labels:
                if label not in seen:
                    seen.add(label)
                    cell["ids"].append(f"{label}")
                    names[f"{page}#{label}"] = page, label


def records(stems: list[str], root: Path = ROOT) -> dict[str, dict[str, float | None]]:
    """What each executed chapter says of each equation: its largest difference, if any."""
    cache = get_cache(str(root / "_build" / ".jupyter_cache"))
    found: dict[str, dict[str, float | None]] = {}
    for stem in stems:
        text = (root / "chapters" / f"{stem}.ipynb").read_text("utf-8")
        _, notebook = cache.merge_match_into_notebook(read(text, root))
        said = found.setdefault(stem, {})
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                for number, size in recorded(output.get("text", "")):
                    sizes = [s for s in (said.get(number), size) if s is not None]
                    said[number] = max(sizes, default=None)
    return found


class ContractTable(SphinxDirective):
    """Write a section for each chapter, and in it a row for each equation."""

    def run(self) -> list[nodes.Node]:
        """Build the rows, and say what is missing."""
        self.contract = contract_of_book()
        for fault in self.contract.faults:
            LOGGER.warning("contract of equations: %s", fault)
        self.records = records([stem for stem, _ in entries(ROOT)])
        sections: dict[str, nodes.section] = {}
        for equation in self.contract.equations.values():
            if equation.stem not in sections:
                sections[equation.stem] = self.section(equation.stem)
            sections[equation.stem] += self.row(equation)
        return [self.summary(), *sections.values()]

    def section(self, stem: str) -> nodes.section:
        """An empty section with the name of a chapter."""
        title = nodes.title("", "", self.chapter(stem, begins=True))
        return nodes.section("", title, ids=[f"contract-{label_of(stem).lower()}"])

    def summary(self) -> nodes.paragraph:
        """How many equations there are, and of what kinds."""
        equations = self.contract.equations.values()
        named = sum(equation.definition for equation in equations)
        checks = sum(bool(equation.checks) for equation in equations)
        exact = sum(self.difference(equation) == 0 for equation in equations)
        return nodes.paragraph(
            "",
            f"{len(equations)} equations: {checks} are held by checks, {exact} of them "
            f"to the last bit, and {named} are definitions.",
        )

    def difference(self, equation: Equation) -> float | None:
        """The largest difference that the checks of an equation printed."""
        sizes = [self.records[stem].get(equation.number) for stem in equation.checks]
        return max((size for size in sizes if size is not None), default=None)

    def row(self, equation: Equation) -> nodes.container:
        """Number, formula, and what stands behind it."""
        number = link_to("std", "ref", equation_label(equation.number), PAGE)
        number += nodes.inline("", f"({equation.number})")
        formula = nodes.math_block(equation.tex, equation.tex, nowrap=False)
        formula.update_basic_atts({"label": None, "number": None, "docname": PAGE})
        formula["label"] = formula["number"] = None
        words = nodes.paragraph(classes=["contract-words"])
        if equation.definition:
            words += nodes.Text("A definition. ")
        typed_in = list(dict.fromkeys(equation.typed))[:1]
        if typed_in:
            words += nodes.Text("Typed in ")
            words += self.cell("typed", equation.number, typed_in[0])
            words += nodes.Text(". ")
        for position, stem in enumerate(dict.fromkeys(equation.checks)):
            if equation.number not in self.records[stem]:
                LOGGER.warning(
                    "contract of equations: no check of (%s) printed in %s",
                    equation.number,
                    stem,
                )
            words += nodes.Text(" and " if position else "Held by ")
            words += self.cell("check", equation.number, stem)
        if equation.checks:
            size = self.difference(equation)
            said = "" if size is None else f"; largest difference {size:.1e}"
            words += nodes.Text(f"{said if size != 0 else '; no difference'}. ")
        cited = list(dict.fromkeys(equation.cited))
        for position, stem in enumerate(cited):
            words += nodes.Text(", " if position else "Cited in ")
            words += self.chapter(stem)
        if cited:
            words += nodes.Text(".")
        return nodes.container(
            "", nodes.paragraph("", "", number), formula, words, classes=["contract"]
        )

    def cell(self, kind: str, number: str, stem: str) -> nodes.Element:
        """A link to a cell of a chapter."""
        label = f"chapters/{stem}#{anchor(kind, number)}"
        what = "a check in " if kind == "check" else ""
        link = link_to("std", "ref", label, PAGE)
        link += nodes.inline("", f"{what}{place(stem)}")
        return link

    def chapter(self, stem: str, begins: bool = False) -> nodes.Element:
        """A link to a chapter."""
        link = link_to("std", "doc", f"/chapters/{stem}", PAGE)
        words = place(stem)
        link += nodes.inline("", words.capitalize() if begins else words)
        return link


def place(stem: str) -> str:
    """A chapter as a sentence names it."""
    label = label_of(stem)
    return f"{'chapter' if label.isdigit() else 'appendix'} {label}"


def outdated(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> set[str]:
    """The page itself: it depends on every chapter, and on what they printed."""
    return {PAGE} & env.found_docs


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.add_directive("contract", ContractTable)
    app.add_transform(Anchors)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
