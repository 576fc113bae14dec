"""Exercises that check themselves: each with its stub, its solution and its mistakes."""

import re
from pathlib import Path

import nbformat
import pytest

import hlstm
from book import ROOT
from book.notebooks.reader import code_cells
from book.site.exercises import EXERCISE, GRADES, listed, overview
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.exercises import (
    CHAPTERS,
    check,
    find,
    hint,
    judge,
    load,
    progress_path,
    solution,
    solution_source,
    status,
)

NAMES = [name for chapter in CHAPTERS for name in load(chapter)]
STEMS = {
    path.stem.partition("_")[2]: path for path in (ROOT / "chapters").glob("*.ipynb")
}


@pytest.fixture(autouse=True)
def progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of this test's own."""
    monkeypatch.setenv("HLSTM_PROGRESS", str(tmp_path / "own" / "progress.json"))
    return tmp_path / "own" / "progress.json"


def defined(code: str) -> object:
    """What the last definition in some lines of Python defines."""
    space: dict[str, object] = {}
    exec("import math, torch\nfrom torch import nn\n" + code, space)
    return space[re.findall(r"(?m)^(?:def|class) (\w+)", code)[-1]]


def stub(name: str) -> object:
    """The function of the cell above the one that checks it."""
    notebook = nbformat.read(STEMS[name.partition(".")[0]], as_version=4)
    sources = [cell.source for cell in code_cells(notebook)]
    at = next(k for k, s in enumerate(sources) if s.startswith(f'check("{name}", '))
    answer = re.fullmatch(rf'check\("{name}", (\w+)\)', sources[at])
    assert answer and re.search(rf"(def|class) {answer[1]}\b", sources[at - 1])
    return defined(sources[at - 1])


@pytest.mark.parametrize("name", NAMES)
def test_exercise(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The stub fails, the solution passes, and each mistake gets its own hint."""
    exercise = find(name)
    assert exercise.name == name and exercise.title and exercise.hint
    check(name, stub(name))
    assert capsys.readouterr().out.startswith(f"{name}: not yet; ")
    assert judge(exercise, exercise.reference) == ("", "")
    hints = [hint for hint, _ in exercise.mistakes]
    assert len(hints) == len(set(hints)) >= 2
    for own, mistake in exercise.mistakes:
        fault, said = judge(exercise, mistake)
        assert fault and said == own, mistake.__name__
    solution(name)
    printed = capsys.readouterr().out
    assert printed == solution_source(name) and printed.startswith(("def ", "class "))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_and_its_exercises_agree(chapter: str) -> None:
    """What is checked on the page is in the file, in order, and the other way round."""
    notebook = nbformat.read(STEMS[chapter], as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    code = "\n".join(cell.source for cell in code_cells(notebook))
    assert re.findall(r'(?m)^check\("(.+)", \w+\)$', code) == list(load(chapter))
    titles = {m["label"]: m["title"] for m in EXERCISE.finditer(prose)}
    for name, exercise in load(chapter).items():
        assert titles[name.replace(".", "-")] == exercise.title


def test_every_exercise_is_listed_with_its_solution() -> None:
    every = listed(ROOT)
    begun = ended = 0
    for path in STEMS.values():
        prose = path.read_text("utf-8")
        begun += prose.count(":::{exercise}")
        ended += prose.count(":::{solution}")
    assert len(every) == begun == ended >= 65
    numbers: dict[str, list[str]] = {}
    for exercise in every:
        chapter = exercise.label.rpartition("-")[0]
        assert STEMS[chapter].stem == exercise.stem
        numbers.setdefault(chapter, []).append(exercise.number)
    for found in numbers.values():
        assert found == [str(k + 1) for k in range(len(found))]
    page = overview(ROOT)
    assert page.startswith(f"There are {len(every)} exercises. {len(NAMES)} are ")
    for exercise in every:
        assert page.count(f"(#{exercise.label})") == 2
    assert all(f"### {grade}\n" in page for grade in GRADES)


def test_the_chapters_are_those_of_the_book() -> None:
    order = list(dict.fromkeys(e.label.rpartition("-")[0] for e in listed(ROOT)))
    assert list(CHAPTERS) == [name for name in order if name in CHAPTERS]
    files = {path.stem for path in (ROOT / "hlstm" / "answers").glob("*.txt")}
    assert files <= set(CHAPTERS)


def test_an_unknown_exercise_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="gates.5, gates.6, gates.7"):
        hlstm.check("gates.99", len)
    with pytest.raises(InvalidValueError, match="the chapters are text, counting"):
        hint("gate.5")
    with pytest.raises(InvalidTypeError, match='like "gates.5", not 5'):
        check(5, len)  # type: ignore[arg-type]
    assert issubclass(InvalidValueError, HlstmError)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3, "not yet. The answer is a function, and got 3"),
        (lambda: 1, "it stops with TypeError"),
        (lambda half_life: half_life / dict(y=1)["x"], "it stops with KeyError: 'x'"),
        (lambda half_life: None, "for half_life 1, nothing is returned"),
        (
            lambda half_life: (half_life, 1),
            "it returns 2 values (1; 1), and should return 0",
        ),
        (lambda half_life: half_life[None], r"has the shape (1,), and should have ()"),
        (lambda half_life: "a", "the result is 'a', and should be 0"),
        (lambda half_life: half_life.detach().numpy(), "the result is array(1"),
        (lambda half_life: half_life + 0j, "the result is complex, and should be"),
        (lambda half_life: half_life.add_(1), "it stops with RuntimeError: a leaf"),
        (lambda half_life: [[]] * 2, "it returns 0 values (), and should return 0"),
        (
            lambda half_life: find("gates.5").reference(half_life.detach()),
            "the values are right, but the gradient by half_life is not (it is zero",
        ),
    ],
)
def test_whatever_the_answer_does_is_said(
    answer: object, said: str, capsys: pytest.CaptureFixture[str], progress: Path
) -> None:
    check("gates.5", answer)
    assert said in capsys.readouterr().out
    assert not progress.exists()


def test_progress(progress: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one small file; a damaged one is put aside."""
    right = find("gates.5").reference
    status()
    assert f"0 of {len(NAMES)} solved; kept in {progress}" in capsys.readouterr().out
    check("gates.5", right)
    check("gates.5", right)
    status()
    assert re.search(r"gates +■ □ □ +next: gates.6", capsys.readouterr().out)
    assert [p.name for p in progress.parent.iterdir()] == ["progress.json"]
    for damaged in (b"", b"{", b"[1]", b'{"solved": 3}', b'{"solved": [3]}', b"\xff"):
        progress.write_bytes(damaged)
        status()
        assert "That file is damaged; the next" in capsys.readouterr().out
        assert progress.read_bytes() == damaged
        check("gates.5", right)
        assert "put aside and begun anew" in capsys.readouterr().out
        assert progress.with_name("progress.json.damaged").read_bytes() == damaged
        status()
        assert f"1 of {len(NAMES)} solved" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HLSTM_PROGRESS", str(tmp_path / "file" / "progress.json"))
    check("gates.5", find("gates.5").reference)
    assert "gates.5: right." in (out := capsys.readouterr().out)
    assert "This could not be noted" in out
    status()
    monkeypatch.delenv("HLSTM_PROGRESS")
    assert progress_path().name == "progress.json"


def test_solutions_are_not_in_plain_view() -> None:
    shown = dir(hlstm.exercises) + dir(hlstm)
    for name in NAMES:
        assert find(name).reference.__name__ not in shown
    assert "answers" not in shown
