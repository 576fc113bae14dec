"""The sources themselves: clean notebooks, one place for names, honest citations."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import NotebookNode
from pybtex.database import parse_file

import hlstm
from book import ROOT, settings
from book.notebooks.exports import exported_modules, init_source
from book.notebooks.reader import (
    code_cells,
    dependencies,
    plain_python,
    read,
    split_directives,
)
from book.notebooks.setup_cell import CELL_ID, install_line, put, setup_source
from tests.conftest import posix

ALLOWED = {
    "torch",
    "numpy",
    "safetensors",
    "tqdm",
    "pooch",
    "platformdirs",
    "tyro",
} | set(sys.stdlib_module_names)
MACHINE_PATH = re.compile(
    r"(?:^|[\s\"'=(])/(?:root|home|tmp|work|Users)/\w", re.MULTILINE
)


def read_text(path: str) -> str:
    """A tracked file as text, or nothing where it is not text."""
    try:
        return (ROOT / path).read_text("utf-8")
    except UnicodeDecodeError:
        return ""


# The notebooks


def test_notebooks_have_no_outputs(notebooks: dict[str, NotebookNode]) -> None:
    for name, notebook in notebooks.items():
        for cell in code_cells(notebook):
            assert not cell.outputs and cell.execution_count is None, (
                f"{name} {cell.id}"
            )


def test_cell_ids_are_unique(notebooks: dict[str, NotebookNode]) -> None:
    for name, notebook in notebooks.items():
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), name
        ids = [cell.get("id") for cell in notebook.cells]
        assert all(ids) and len(ids) == len(set(ids)), name


@posix
def test_nbdev_clean_changes_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "settings.ini", tmp_path)
    copy = shutil.copytree(ROOT / "chapters", tmp_path / "chapters")
    code = "from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    dirty = [p.name for p in copy.glob("*.ipynb") if p.read_bytes() != original(p)]
    assert not dirty, f"run make clean-outputs: {dirty}"


def original(copy: Path) -> bytes:
    return (ROOT / "chapters" / copy.name).read_bytes()


def test_figures_have_a_text_alternative(notebooks: dict[str, NotebookNode]) -> None:
    draws = re.compile(r"plt\.(subplots|subplot_mosaic|figure|plot|show)\(")
    for name, notebook in notebooks.items():
        for cell in code_cells(notebook):
            directives, code = split_directives(cell.source)
            shown = not directives.keys() & {"hide", "export", "exports", "exporti"}
            defines = re.search(r"^def ", code, re.MULTILINE)
            if shown and draws.search(code) and not defines:
                assert directives.get("fig-alt"), f"{name} {cell.id} lacks fig-alt"


def test_each_chapter_has_one_title(notebooks: dict[str, NotebookNode]) -> None:
    for name, notebook in notebooks.items():
        prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        prose = re.sub(r"^```.*?^```", "", prose, flags=re.DOTALL | re.MULTILINE)
        titles = re.findall(r"^# (.*)", prose, flags=re.MULTILINE)
        assert len(titles) == 1, f"{name}: {titles}"


# What the chapters import


def imported(code: str) -> set[str]:
    """The modules that code imports at its top level, with dots."""
    found = set()
    for node in ast.parse(plain_python(code)).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "chapters import by full name"
            found.add(node.module or "")
    return found


def test_exported_code_imports_little(notebooks: dict[str, NotebookNode]) -> None:
    for name, notebook in notebooks.items():
        for cell in code_cells(notebook):
            directives, code = split_directives(cell.source)
            if directives.keys() & {"export", "exports", "exporti"}:
                heads = {module.partition(".")[0] for module in imported(code)}
                assert heads <= ALLOWED | {"hlstm"}, f"{name} {cell.id}"


# The set-up cell


def test_chapters_open_with_the_set_up_cell(
    notebooks: dict[str, NotebookNode],
) -> None:
    source = setup_source()
    assert len(source.splitlines()) <= 8
    for name, notebook in notebooks.items():
        found = [k for k, c in enumerate(notebook.cells) if c.source == source]
        # Under the title, and so before the first import.
        assert found == [1], f"{name}: run make clean-outputs"
        assert notebook.cells[1].id == CELL_ID, name


def test_the_set_up_cell_follows_the_settings(tmp_path: Path) -> None:
    text = read_text("settings.ini")
    text = re.sub(r"(?m)^user = .*", "user = somebody", text)
    text = re.sub(r"(?m)^version = .*", "version = 7.8.9", text)
    (tmp_path / "settings.ini").write_text(text, "utf-8")
    old, new = setup_source(), setup_source(tmp_path)
    assert old != new and "/somebody/" in new and "@v7.8.9 " in new
    title, code = nbformat.v4.new_markdown_cell("# 1."), nbformat.v4.new_code_cell("1")
    notebook = nbformat.v4.new_notebook(cells=[title, code])
    for source in (old, new):
        put(notebook, source)
        assert [c.source for c in notebook.cells] == ["# 1.", source, "1"]


# The package


def test_the_package_names_what_its_modules_export() -> None:
    import hlstm

    package = ROOT / "hlstm"
    source = init_source(package, exported_modules(ROOT), settings()["version"])
    assert (package / "__init__.py").read_text("utf-8") == source
    assert len(hlstm.__all__) == len(set(hlstm.__all__)) > 0
    assert all(hasattr(hlstm, name) for name in hlstm.__all__)


# The cache of executed chapters


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: `b` uses `a`, `c` stands alone and reads a folder of data."""
    package = tmp_path / "hlstm"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("from .a import x\n")
    (package / "a.py").write_text("x = 1\n")
    (package / "b.py").write_text("from .a import x\n")
    (package / "c.py").write_text("path = 'data/plays.txt'\n")
    (package / "data" / "plays.txt").write_text("a play\n")
    (package / "book.mplstyle").write_text("lines.linewidth: 2\n")
    return tmp_path


def signature(code: str, root: Path) -> str:
    cell = {
        "id": "a",
        "cell_type": "code",
        "source": code,
        "metadata": {},
        "outputs": [],
    }
    text = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    notebook = NotebookNode(text, cells=[NotebookNode(cell, execution_count=None)])
    return str(read(nbformat.writes(notebook), root).metadata["kernelspec"]["hlstm"])


@pytest.mark.parametrize(
    ("code", "stems"),
    [
        ("import torch", set()),
        ("from hlstm.a import x", {"a"}),
        ("from hlstm.b import x", {"a", "b"}),
        ("from hlstm import b", {"a", "b"}),
        ("%matplotlib inline\nimport hlstm.c as c", {"c", "plays"}),
        ("import hlstm", {"a", "b", "c", "plays"}),
        ("plt.style.use('hlstm.book')", {"book"}),
        ("from hlstm import x", {"a", "b", "c", "plays"}),
        ("def f():\n    from hlstm.a import x", {"a"}),
    ],
)
def test_dependencies_of_a_chapter(project: Path, code: str, stems: set[str]) -> None:
    found = dependencies(code, project / "hlstm")
    assert {path.stem for path in found} == stems


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ("hlstm/a.py", {"a", "b"}),
        ("hlstm/b.py", {"b"}),
        ("hlstm/c.py", {"c"}),
        ("hlstm/data/plays.txt", {"c"}),
        ("hlstm/__init__.py", set()),
        ("constraints.txt", {"a", "b", "c"}),
    ],
)
def test_a_change_reaches_the_chapters_that_use_it(
    project: Path, changed: str, affected: set[str]
) -> None:
    before = {name: signature(f"import hlstm.{name}", project) for name in "abc"}
    with (project / changed).open("a") as file:
        file.write("# changed\n")
    after = {name: signature(f"import hlstm.{name}", project) for name in "abc"}
    assert {name for name in "abc" if before[name] != after[name]} == affected


def test_directives_become_tags() -> None:
    assert split_directives("# | hide\n#|fig-alt: a: b\nx = 1\n#| not\n") == (
        {"hide": "", "fig-alt": "a: b"},
        "x = 1\n#| not\n",
    )


# Names, versions and paths


def test_only_settings_name_the_owner(
    tracked: list[str], notebooks: dict[str, NotebookNode]
) -> None:
    """And the set-up cells and a line of the README, generated from settings.ini."""
    owner = settings()["user"]
    named = {path for path in tracked if owner in read_text(path)}
    chapters = {f"chapters/{name}.ipynb" for name in notebooks}
    assert named - chapters == {"settings.ini", "README.md"}
    lines = [line for line in read_text("README.md").splitlines() if owner in line]
    assert lines == [install_line()]
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            assert cell.id == CELL_ID or owner not in cell.source, f"{name} {cell.id}"


def test_versions_agree() -> None:
    import hlstm

    version = settings()["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == version == hlstm.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_path_of_a_machine(tracked: list[str]) -> None:
    named = [path for path in tracked if MACHINE_PATH.search(read_text(path))]
    assert not named


def test_constraints_hold_the_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower() for line in lines}
    known = settings()
    wanted = (known["requirements"] + " " + known["dev_requirements"]).split()
    assert {re.split(r"[<>=]", word)[0].lower() for word in wanted} <= pinned


# Citations


def test_works_that_are_cited_are_in_the_bibliography(tracked: list[str]) -> None:
    known = set()
    for entry in parse_file(ROOT / "book/site/references.bib").entries.values():
        known.add(entry.fields.get("url", ""))
        known.add("https://doi.org/" + entry.fields.get("doi", ""))
    pages = [path for path in tracked if path.endswith((".ipynb", ".md"))]
    link = re.compile(r"https?://(?:doi\.org|arxiv\.org/abs)/[^\s)\"\\>]+")
    cited = {(path, url) for path in pages for url in link.findall(read_text(path))}
    assert cited
    missing = sorted((path, url) for path, url in cited if url not in known)
    assert not missing


def test_every_work_in_the_bibliography_is_cited(tracked: list[str]) -> None:
    pages = "".join(read_text(p) for p in tracked if p.endswith((".ipynb", ".md")))
    for key, entry in parse_file(ROOT / "book/site/references.bib").entries.items():
        author = str(entry.persons["author"][0].last_names[0]).strip("{}")
        links = [entry.fields.get("url"), entry.fields.get("doi")]
        named = [author] if not any(links) else [link for link in links if link]
        assert any(name in pages for name in named), f"{key} is cited nowhere"


def test_bibliography_entries_are_complete() -> None:
    entries = parse_file(ROOT / "book/site/references.bib").entries
    unlinked = {"hochreiter1991", "mikolov2012"}
    for key, entry in entries.items():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z]*", key), key
        assert entry.persons.get("author") and entry.fields.get("title"), key
        assert entry.fields["year"] in key, key
        assert key in unlinked or {"doi", "url"} & entry.fields.keys(), key


# The front page


def test_the_front_page_shows_what_the_network_writes() -> None:
    page = read_text("README.md")
    shown = page.split("```text\n")[1].split("```")[0]
    prompt, rest = shown.split("\n", 1)
    net = hlstm.load_pretrained("shakespeare")
    written = net.generate_text(f"{prompt}\n", len(rest), temperature=0.6, seed=2)
    assert written == shown
    assert len(shown.splitlines()) == 8


def test_the_hours_of_the_course_are_those_of_its_exercises(
    notebooks: dict[str, NotebookNode],
) -> None:
    """The front page adds up what the exercises of part I say, with four hours an afternoon."""
    words, times = 0, []
    for name, notebook in notebooks.items():
        if not (name[:2].isdigit() and int(name[:2]) <= 15):
            continue
        text = "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        words += len(text.split())
        grade = r"^\*(A line|Ten minutes|An hour|An afternoon), "
        times += re.findall(grade, text, re.MULTILINE)
    short = (2 * times.count("A line") + 10 * times.count("Ten minutes")) / 60
    hours, afternoons = times.count("An hour"), times.count("An afternoon")
    said = read_text("README.md")
    assert 52_500 < words < 57_500 and "some 55,000 words" in said
    assert round(short) == 11 and "some eleven hours" in said
    assert hours + afternoons == 12 and "the twelve long ones" in said
    assert hours + 4 * afternoons == 18 and "some eighteen more" in said
