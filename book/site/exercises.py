"""Exercises on their pages, and the page that lists them all.

A chapter writes `:::{exercise} Title` and `:::{solution} label`, which sphinx-exercise reads.
Here an exercise gets its number in the chapter and a link to its solution. The solution
becomes a `<details>`, which folds without a script, with a link back; that of an exercise
in code shows the function that `hlstm.exercises.solution` prints.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx_exercise.nodes import exercise_enumerable_node, solution_node

from book import ROOT
from book.notebooks.renumber import entries
from hlstm.exercises import load, solution_source

PAGE = "appendices/exercises"
MARK = "<!-- every exercise: book/site/exercises.py -->"
GRADES = "A line", "Ten minutes", "An hour", "An afternoon"
EXERCISE = re.compile(
    r"^:::\{exercise\} (?P<title>.+)\n:label: (?P<label>\w+-\d+)\n\n"
    rf"\*(?P<grade>{'|'.join(GRADES)}), (?P<place>on paper|in code)\.\* ",
    re.MULTILINE,
)


class Listed(NamedTuple):
    """An exercise as the page of exercises names it."""

    stem: str
    label: str
    title: str
    grade: str
    place: str

    @property
    def name(self) -> str:
        """The name that `check` knows it by, such as gates.5."""
        return self.label.replace("-", ".")

    @property
    def number(self) -> str:
        """Its number in the chapter."""
        return self.label.rpartition("-")[2]

    @property
    def checked(self) -> bool:
        """Whether there is a check for it."""
        return self.name in load(self.label.rpartition("-")[0])


def chapter_title(root: Path, stem: str) -> str:
    """The title of a chapter, with its number."""
    notebook = nbformat.read(root / "chapters" / f"{stem}.ipynb", as_version=4)
    return str(notebook.cells[0].source.partition("\n")[0].removeprefix("# "))


def listed(root: Path) -> list[Listed]:
    """Every exercise of the book, in reading order."""
    found = []
    for stem, _ in entries(root):
        notebook = nbformat.read(root / "chapters" / f"{stem}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                for match in EXERCISE.finditer(cell.source):
                    label, title = match["label"], match["title"]
                    found.append(
                        Listed(stem, label, title, match["grade"], match["place"])
                    )
    return found


def line(exercise: Listed, said: str) -> str:
    """One entry of the list."""
    check = f", checked by `{exercise.name}`" if exercise.checked else ""
    return f"- [{exercise.title}](#{exercise.label}), {said}{check}"


def overview(root: Path) -> str:
    """The lists of the page, by chapter and by the time that an exercise takes."""
    every = listed(root)
    checked = sum(exercise.checked for exercise in every)
    lines = [
        f"There are {len(every)} exercises. {checked} are functions to write, with a check.",
        "\n## By chapter",
    ]
    for stem in dict.fromkeys(exercise.stem for exercise in every):
        lines += [f"\n### {chapter_title(root, stem)}\n"]
        lines += [
            line(e, f"{e.grade.lower()}, {e.place}") for e in every if e.stem == stem
        ]
    lines += ["\n## By time"]
    for grade in GRADES:
        lines += [f"\n### {grade}\n"]
        lines += [
            line(e, f"chapter {chapter_title(root, e.stem).partition('.')[0]}")
            for e in every
            if e.grade == grade
        ]
    return "\n".join(lines) + "\n"


class Exercises(SphinxTransform):
    """Numbers, links and folded solutions."""

    default_priority = 50

    def apply(self, **kwargs: Any) -> None:
        """Change the nodes that sphinx-exercise has made."""
        solved = {n["target_label"] for n in self.document.findall(solution_node)}
        for node in list(self.document.findall(exercise_enumerable_node)):
            self.show(node, node["label"] in solved)
        for node in list(self.document.findall(solution_node)):
            self.fold(node)

    def show(self, node: nodes.Element, solved: bool) -> None:
        """Give an exercise its number, and a link to its solution."""
        title, content = node.children
        text = f"Exercise {number(node['label'])}. {title.children[1].astext()}"
        node.children = []
        node += nodes.title("", text)
        node.extend(content.children)
        if solved:
            node += link("Solution", f"{node['label']}-solution")

    def fold(self, node: nodes.Element) -> None:
        """Put a solution into an element that opens by itself when a link leads into it."""
        label = node["target_label"]
        # The source folds it too, for Colab.
        kept = [n for n in node.children[1].children if not isinstance(n, nodes.raw)]
        inside = nodes.container("", *kept, ids=[f"{label}-solution"])
        chapter, _, count = label.rpartition("-")
        if f"{chapter}.{count}" in load(chapter):
            source = solution_source(f"{chapter}.{count}").rstrip()
            inside += nodes.literal_block(source, source, language="python")
        inside += link(f"Back to exercise {number(label)}", label)
        summary = f"<summary>Solution to exercise {number(label)}</summary>"
        at = node.parent.index(node)
        node.parent[at : at + 1] = [
            nodes.raw("", f'<details class="solution">{summary}', format="html"),
            inside,
            nodes.raw("", "</details>", format="html"),
        ]


def number(label: str) -> str:
    """The number in a label."""
    return label.rpartition("-")[2]


def link(text: str, target: str) -> nodes.paragraph:
    """A line that leads to another place of the page."""
    reference = nodes.reference("", text, refid=target, internal=True)
    return nodes.paragraph("", "", reference, classes=["exercise-link"])


def without_numfig(app: Sphinx, config: Config) -> None:
    """Let figures be without numbers; sphinx-exercise would give them some."""
    config.numfig = False


def write_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Write the lists into the page of exercises."""
    if page == PAGE:
        source[0] = source[0].replace(MARK, overview(ROOT))


def outdated(app: Sphinx, env: BuildEnvironment, *pages: set[str]) -> set[str]:
    """Read the page of exercises anew in each build: any chapter may have changed it."""
    return {PAGE} & env.found_docs


def setup(app: Sphinx) -> dict[str, int]:
    """Connect the extension, after sphinx-exercise."""
    app.setup_extension("sphinx_exercise")
    app.connect("config-inited", without_numfig, priority=900)
    app.connect("source-read", write_page)
    app.connect("env-get-outdated", outdated)
    app.add_transform(Exercises)
    return {
        "env_version": crc32(Path(__file__).read_bytes()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
