"""The questions at a chapter's end, from book/selftests/NAME.yaml into its page.

They stand in a section of their own before the exercises. Without JavaScript a page has
the choices and a folded answer that speaks of each; selftest.js shows the part of it that
belongs to what a reader has chosen. Libraries for this, as jupyterquiz, write questions
and formulas with a script alone, and from a cell of the notebook.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import jsonschema
import nbformat
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

from book import ROOT

FOLDER = ROOT / "book" / "selftests"
LETTERS = "ABCD"
EXERCISES = re.compile(r"^## Exercises$", re.MULTILINE)
SECTION = """## Questions

Each question has one right answer, and every choice is explained.

```{{selftest}} {name}
```

## Exercises"""


@cache
def validator() -> jsonschema.protocols.Validator:
    """What a file of questions must be."""
    schema = json.loads((FOLDER / "schema.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator(schema)


def load(path: Path) -> list[dict[str, Any]]:
    """The questions of one file.

    Raises
    ------
    ValueError
        The file breaks the schema, or answers a question twice with the same words.
    """
    questions = yaml.safe_load(path.read_text("utf-8"))
    wrong = [f"{e.json_path}: {e.message}" for e in validator().iter_errors(questions)]
    if wrong:
        raise ValueError(f"{path.name}: " + "; ".join(wrong))
    for question in questions:
        answers = [choice["answer"] for choice in question["choices"]]
        if len(set(answers)) < len(answers):
            raise ValueError(f"{path.name}: two choices are one: {question['ask']}")
    return questions


def insert(app: Sphinx, page: str, source: list[str]) -> None:
    """Give a chapter that has questions a section for them."""
    folder, _, stem = page.rpartition("/")
    name = stem.partition("_")[2]
    if folder != "chapters" or not (FOLDER / f"{name}.yaml").exists():
        return
    notebook = nbformat.reads(source[0], as_version=4)
    section = SECTION.format(name=name)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and EXERCISES.search(cell.source):
            cell.source = EXERCISES.sub(lambda _: section, cell.source, count=1)
            source[0] = nbformat.writes(notebook)
            return
    raise ExtensionError(f"{page} has questions, and no section Exercises")


class Tag(nodes.General, nodes.Element):
    """An element of HTML, with its name and its attributes."""


def tag(element: str, /, *children: nodes.Node, **attributes: str) -> Tag:
    """Make one."""
    return Tag("", *children, element=element, html=attributes)


def visit(self: HTML5Translator, node: Tag) -> None:
    """Open the element."""
    self.body.append(self.starttag(node, node["element"], "", **node["html"]))


def depart(self: HTML5Translator, node: Tag) -> None:
    """Close it, unless it is one that has no end."""
    if node["element"] != "input":
        self.body.append(f"</{node['element']}>")


class SelfTest(SphinxDirective):
    """Writes the questions of one file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The questions, one after the other."""
        path = FOLDER / f"{self.arguments[0]}.yaml"
        for read in (path, FOLDER / "schema.json"):
            self.env.note_dependency(str(read))
        try:
            questions = load(path)
        except (ValueError, yaml.YAMLError) as error:
            raise self.error(str(error)) from error
        return [self.question(k, q) for k, q in enumerate(questions, 1)]

    def question(self, number: int, question: dict[str, Any]) -> nodes.Node:
        """One question: its choices in a field set, and the folded answer."""
        name = f"question-{number}"
        legend = nodes.inline("", f"{number}. ", *self.inline(question["ask"]))
        field = tag("fieldset", tag("legend", legend))
        answer = tag("details")
        answer += tag("summary", nodes.inline("", f"Answer to question {number}"))
        for letter, choice in zip(LETTERS, question["choices"], strict=False):
            words = nodes.inline("", f"{letter}. ", *self.inline(choice["answer"]))
            button = tag("input", type="radio", name=name, value=letter)
            field += tag("label", button, words)
            verdict = "right" if choice.get("right") else "wrong"
            said = nodes.strong("", f"{letter} is {verdict}.")
            why = self.inline(choice["why"])
            answer += nodes.paragraph("", "", said, nodes.Text(" "), *why)
            answer[-1]["classes"].append(verdict)
        field += tag("button", nodes.inline("", "Check"), type="button")
        field += tag("div", role="status")
        box = tag("div", field, answer)
        box["classes"].append("selftest")
        box["ids"].append(name)
        return box

    def inline(self, text: str) -> list[nodes.Node]:
        """What one paragraph of MyST holds."""
        box = nodes.Element()
        lines = StringList(text.strip().splitlines(), self.arguments[0])
        self.state.nested_parse(lines, 0, box)
        if len(box) != 1 or not isinstance(box[0], nodes.paragraph):
            raise self.error(f"{self.arguments[0]}: not one paragraph: {text}")
        return list(box[0].children)


def load_script(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the script to the pages that have questions."""
    if 'class="selftest' in context.get("body", ""):
        app.add_js_file("selftest.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, int]:
    """Connect the extension; pages are read anew when it changes or a file is new."""
    app.add_directive("selftest", SelfTest)
    app.add_node(Tag, html=(visit, depart))
    app.connect("source-read", insert)
    app.connect("html-page-context", load_script)
    names = " ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
    return {
        "env_version": crc32(Path(__file__).read_bytes() + names.encode()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
