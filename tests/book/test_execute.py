"""Chapters are executed where readers run them, and Sphinx finds the results."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_cache import get_cache

from book import ROOT
from book.notebooks.execute import Chapter, execute
from book.notebooks.reader import read
from book.site.extension import duration
from tests.conftest import posix

GOOD = [
    "#| hide\nimport os, sys, torch, hlstm.one",
    "print(os.listdir(), hlstm.one.x, os.environ['OMP_NUM_THREADS'])",
]
ALONE = ["import os\nprint(os.environ.get('OMP_NUM_THREADS'))"]
MISSING = ["import nbdev"]
ONLINE = ["import socket\nsocket.create_connection(('192.0.2.1', 9), 1)"]
pytestmark = posix


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of four small chapters; two of them want what readers do not have."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "settings.ini", root)
    (root / "hlstm").mkdir()
    (root / "hlstm" / "__init__.py").touch()
    (root / "hlstm" / "one.py").write_text("x = 1\n")
    (root / "chapters").mkdir()
    new = nbformat.v4
    for name, sources in {
        "01_speed": ALONE,
        "02_good": GOOD,
        "03_missing": MISSING,
        "04_online": ONLINE,
    }.items():
        cells = [new.new_markdown_cell(f"# {int(name[:2])}. Title", id="title")]
        cells += [new.new_code_cell(s, id=f"c{i}") for i, s in enumerate(sources)]
        text = nbformat.writes(new.new_notebook(cells=cells)) + "\n"
        (root / "chapters" / f"{name}.ipynb").write_text(text)
    return root


@pytest.fixture(scope="module")
def done(project: Path) -> Iterator[dict[str, Chapter]]:
    """What a first build executes."""
    paths = sorted((project / "chapters").glob("*.ipynb"))
    yield {chapter.path.stem: chapter for chapter in execute(paths, root=project)}


def outputs(project: Path, name: str) -> str:
    """What a chapter printed, as Sphinx takes it out of the cache."""
    text = (project / "chapters" / f"{name}.ipynb").read_text()
    cache = get_cache(str(project / "_build" / ".jupyter_cache"))
    _, notebook = cache.merge_match_into_notebook(read(text, project))
    return str(notebook.cells[-1].outputs[0].text)


def test_a_chapter_runs_in_an_empty_folder_with_one_thread(
    project: Path, done: dict[str, Chapter]
) -> None:
    assert not done["02_good"].error
    assert outputs(project, "02_good") == "[] 1 1\n"


def test_what_measures_threads_runs_last(
    project: Path, done: dict[str, Chapter]
) -> None:
    assert list(done)[-1] == "01_speed"
    assert outputs(project, "01_speed") == "None\n"


def test_errors_show_their_cells_and_are_not_kept(
    project: Path, done: dict[str, Chapter]
) -> None:
    """Neither the book's own tools nor a network is there."""
    assert "import nbdev" in done["03_missing"].error
    assert "ModuleNotFoundError" in done["03_missing"].error
    assert "192.0.2.1 was asked for" in done["04_online"].error
    for name in ("03_missing", "04_online"):
        with pytest.raises(KeyError):
            outputs(project, name)


def test_a_second_build_executes_what_changed(
    project: Path, done: dict[str, Chapter], capfd: pytest.CaptureFixture[str]
) -> None:
    path = project / "chapters" / "02_good.ipynb"
    assert execute([path], root=project) == []
    path.write_text(path.read_text().replace("Title", "Another title"))
    assert execute([path], root=project) == [], "a sentence is no code"
    (project / "hlstm" / "one.py").write_text("x = 2\n")
    assert [chapter.path for chapter in execute([path], root=project)] == [path]
    assert outputs(project, "02_good") == "[] 2 1\n"
    assert "02_good" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (12.4, "12 s"), (99, "99 s"), (125, "2 minutes")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
