"""The questions at the chapters' ends: their files, before Sphinx reads them."""

import copy
import json
import re
from typing import Any

import nbformat
import pytest
import yaml
from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser

from book import ROOT
from book.notebooks.renumber import entries
from book.site.formulas import typeset
from book.site.selftests import EXERCISES, FOLDER, insert, load

FILES = sorted(FOLDER.glob("*.yaml"))
QUESTIONS = {path.stem: load(path) for path in FILES}
APP: Any = None  # what puts the questions into a page asks nothing of Sphinx
FORMULA = re.compile(r"\$([^$]+)\$")
# The numbers of chapters and equations change; the questions are not renumbered.
NUMBERED = re.compile(
    r"\b([Cc]hapters?|[Ee]quations?|[Aa]ppendix) \(?(\d|[A-E]\b)|\]\("
)


def texts(questions: list[dict[str, Any]]) -> list[str]:
    """Every paragraph of a file."""
    return [
        text
        for question in questions
        for text in (
            question["ask"],
            *(
                choice[key]
                for choice in question["choices"]
                for key in ("answer", "why")
            ),
        )
    ]


def test_every_chapter_of_both_parts_asks() -> None:
    names = {stem.partition("_")[2] for stem, appendix in entries(ROOT) if not appendix}
    assert len(names) > 20 and names <= QUESTIONS.keys()


def test_the_right_answer_shows_by_nothing() -> None:
    """It has no place of its own, and is neither the longest nor the shortest too often."""
    places, longest, shortest = [], 0, 0
    for name, questions in QUESTIONS.items():
        found = []
        for question in questions:
            lengths = [len(choice["answer"]) for choice in question["choices"]]
            right = ["right" in choice for choice in question["choices"]].index(True)
            found.append(right)
            longest += lengths[right] == max(lengths)
            shortest += lengths[right] == min(lengths)
        assert len(set(found)) > 1, f"{name}: always choice {found[0] + 1}"
        places += found
    for place in range(3):
        assert 0.2 <= places.count(place) / len(places) <= 0.45, place
    assert 0.1 <= longest / len(places) <= 0.45
    assert 0.1 <= shortest / len(places) <= 0.45


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_choice_is_explained_in_a_sentence_or_two(name: str) -> None:
    for question in QUESTIONS[name]:
        assert question["ask"].rstrip().endswith("?"), question["ask"]
        for choice in question["choices"]:
            words = FORMULA.sub("x", choice["why"]).strip()
            assert words[-1] in ".?", words
            assert 1 <= len(re.findall(r"[.?;:](?=\s|$)", words)) <= 3, words
            assert len(words.split()) >= 6, words


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_outlive_new_numbers(name: str) -> None:
    assert [text for text in texts(QUESTIONS[name]) if NUMBERED.search(text)] == []


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_text_is_a_paragraph(name: str) -> None:
    """Of words, formulas and code: a label cannot hold more, and no link."""
    asked = {"myst_enable_extensions": ["dollarmath"], "report_level": 5}
    source = "\n\n".join(text.strip() for text in texts(QUESTIONS[name]))
    tree = publish_doctree(source, parser=Parser(), settings_overrides=asked)
    assert len(tree) == len(texts(QUESTIONS[name]))
    assert all(isinstance(part, nodes.paragraph) for part in tree)
    kinds = (nodes.Text, nodes.math, nodes.literal, nodes.emphasis)
    inside = [node for part in tree for node in part.children]
    assert [node.astext() for node in inside if not isinstance(node, kinds)] == []


def test_formulas_can_be_set() -> None:
    written = [text for questions in QUESTIONS.values() for text in texts(questions)]
    assert all(text.count("$") % 2 == 0 and "$$" not in text for text in written)
    formulas = [tex for text in written for tex in FORMULA.findall(text)]
    html, _ = typeset([(tex, False) for tex in formulas])
    wrong = [
        tex
        for tex, text in zip(formulas, html, strict=True)
        if "<mjx-merror" in text or "<mjx-utext" in text
    ]
    assert len(formulas) > 5 and wrong == []


def damage(questions: list[dict[str, Any]], kind: str) -> None:
    """Break a file of questions in one way."""
    choices = questions[0]["choices"]
    right = next(choice for choice in choices if "right" in choice)
    wrong = next(choice for choice in choices if "right" not in choice)
    if kind == "two right":
        wrong["right"] = True
    elif kind == "none right":
        del right["right"]
    elif kind == "right: false":
        wrong["right"] = False
    elif kind == "unexplained":
        del wrong["why"]
    elif kind == "empty":
        wrong["why"] = ""
    elif kind == "misspelt":
        wrong["reason"] = wrong.pop("why")
    elif kind == "two choices":
        questions[0]["choices"] = [right, wrong]
    elif kind == "twice":
        wrong["answer"] = right["answer"]
    elif kind == "few":
        del questions[2:]
    elif kind == "number":
        wrong["answer"] = 4


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("two right", "Too many items match"),
        ("none right", "does not contain items"),
        ("right: false", r"\$\[0\].choices\[\d\].right: True was expected"),
        ("unexplained", "'why' is a required property"),
        ("empty", "non-empty|too short"),
        ("misspelt", "'reason' was unexpected"),
        ("two choices", r"\$\[0\].choices: .* is too short"),
        ("twice", "two choices are one"),
        ("few", "is too short"),
        ("number", "4 is not of type 'string'"),
    ],
)
def test_the_schema_refuses(tmp_path: Any, kind: str, said: str) -> None:
    """The message names the file, the place and what is wrong there."""
    questions = copy.deepcopy(QUESTIONS["gates"])
    damage(questions, kind)
    path = tmp_path / "gates.yaml"
    path.write_text(yaml.safe_dump(questions), "utf-8")
    with pytest.raises(ValueError, match=f"gates.yaml: .*({said})"):
        load(path)


def test_the_section_stands_before_the_exercises() -> None:
    """The notebook gets a section in its text, and is as it was otherwise."""
    text = (ROOT / "chapters" / "04_gates.ipynb").read_text("utf-8")
    source = [text]
    insert(APP, "chapters/04_gates", source)
    before, after = (nbformat.reads(t, as_version=4).cells for t in (text, source[0]))
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1 and changed[0][0].cell_type == "markdown"
    assert "## Questions\n" in changed[0][1].source
    head, tail = changed[0][1].source.split("## Questions\n")
    assert head + tail.partition("```\n\n")[2] == changed[0][0].source
    assert EXERCISES.match(tail.partition("```\n\n")[2])


def test_a_page_without_questions_stays_as_it_is() -> None:
    for page in ("README", "appendices/04_gates", "chapters/A_none"):
        source = [json.dumps({"cells": []})]
        insert(APP, page, source)
        assert source == [json.dumps({"cells": []})]
