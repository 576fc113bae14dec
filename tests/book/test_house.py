"""The house rules, as tests: what stands on what, and what a chapter may hold.

Each rule about modules is a function from a package to its breaches, and is shown a package
that breaks it before it is asked about hlstm.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from nbformat import NotebookNode

from book import ROOT
from book.notebooks.exports import PACKAGE
from book.notebooks.reader import (
    HEADER,
    code_cells,
    modules,
    plain_python,
    split_directives,
)
from book.notebooks.setup_cell import CELL_ID

# What a library owes its users and a course need not teach.
PLUMBING = {"checks", "corpus", "files", "runs"}
LONGEST = 700
Trees = dict[str, ast.Module]


def trees(package: Path) -> Trees:
    """The modules of a package, parsed, by name."""
    return {
        path.stem: ast.parse(path.read_text("utf-8"))
        for path in sorted(package.glob("*.py"))
        if path.stem not in ("_modidx", "__init__", "__main__")
    }


def imports(
    node: ast.AST, inside: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import but those for types alone, and whether it stands in a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        yield from imports(child, inside or isinstance(child, function))


def taken(
    node: ast.Import | ast.ImportFrom, known: Trees
) -> Iterator[tuple[str, str | None]]:
    """The modules of the package that an import takes, each with a name from it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            head, _, rest = alias.name.partition(".")
            if head == PACKAGE and rest.split(".")[0] in known:
                yield rest.split(".")[0], None
        return
    base = node.module or ""
    if not node.level and base.split(".")[0] != PACKAGE:
        return
    rest = base if node.level else base.partition(".")[2]
    for alias in node.names:
        if rest:
            yield rest.split(".")[0], alias.name
        elif alias.name in known:
            yield alias.name, None


def circles(package: Path) -> list[str]:
    """Modules that need each other."""
    known = trees(package)
    graph = {
        name: {m for node, _ in imports(tree) for m, _ in taken(node, known)}
        for name, tree in known.items()
    }
    found: list[str] = []
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                follow(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        follow(name, [])
    return found


def doors(package: Path) -> list[str]:
    """Imports of the package's own modules inside functions."""
    known = trees(package)
    return [
        f"{name}.py:{node.lineno} imports {module}"
        for name, tree in known.items()
        for node, inside in imports(tree)
        for module, _ in taken(node, known)
        if inside
    ]


def late(package: Path) -> list[str]:
    """Imports of the package's own modules below the first thing that a module defines."""
    known = trees(package)
    found = []
    for name, tree in known.items():
        begun = False
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if begun and any(taken(node, known)):
                    found.append(f"{name}.py:{node.lineno}")
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                begun = True
    return found


def private(name: str) -> bool:
    """Whether a name is a module's own."""
    return name.startswith("_") and not name.startswith("__")


def borrowed(package: Path) -> list[str]:
    """Private names of one module that another takes, by import or with a dot."""
    known, found = trees(package), []
    for name, tree in known.items():
        local = set()
        for statement, _ in imports(tree):
            for module, what in taken(statement, known):
                if what and private(what):
                    found.append(f"{name}.py:{statement.lineno} takes {module}.{what}")
                for alias in statement.names if what is None else ():
                    local.add(alias.asname or alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and private(node.attr):
                if ast.unparse(node.value) in local:
                    found.append(f"{name}.py:{node.lineno} takes {ast.unparse(node)}")
    return found


def ladders(package: Path) -> list[str]:
    """Classes that stand on more than one class of the package."""
    bases = {
        node.name: [ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases]
        for tree in trees(package).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def below(name: str) -> set[str]:
        own = {base for base in bases.get(name, []) if base in bases and base != name}
        return own.union(*(below(base) for base in own))

    return [f"{n} stands on {sorted(below(n))}" for n in bases if len(below(n)) > 1]


def strings_of_cpp(package: Path) -> list[str]:
    """C++ of more than a few lines in a string of Python."""
    signs = re.compile(r"#include|template <|constexpr|#pragma")
    return [
        f"{name}.py:{node.lineno}"
        for name, tree in trees(package).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.count("\n") > 3 and signs.search(node.value)
    ]


def long_modules(package: Path) -> list[str]:
    """Modules that nobody reads from the first line to the last."""
    return [
        f"{path.name} has {count} lines"
        for path in sorted(package.glob("*.py"))
        if (count := len(path.read_text("utf-8").splitlines())) > LONGEST
    ]


RULES: dict[Callable[[Path], list[str]], dict[str, str]] = {
    circles: {"a": "from .b import x", "b": "from . import c", "c": "import hlstm.a"},
    doors: {"a": "def f():\n    from hlstm.b import x", "b": "x = 1"},
    late: {"a": "def f(): ...\n\nfrom hlstm.b import x", "b": "x = 1"},
    borrowed: {"a": "from hlstm.b import _x", "b": "_x = 1"},
    ladders: {"a": "class A: ...\nclass B(A): ...\nclass C(B, dict): ..."},
    strings_of_cpp: {"a": 'X = """\n#include <a>\nint f() {\n  return 1;\n}\n"""'},
    long_modules: {"a": "x = 1\n" * (LONGEST + 1)},
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_sees_a_breach(
    rule: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    package = tmp_path / PACKAGE
    package.mkdir()
    for name, source in RULES[rule].items():
        (package / f"{name}.py").write_text(source)
    assert len(rule(package)) == 1


def test_a_private_name_is_seen_behind_a_dot(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("_x = 1")
    (tmp_path / "a.py").write_text("from hlstm import b\nprint(b._x, b.__doc__)")
    assert borrowed(tmp_path) == ["a.py:2 takes b._x"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(ROOT / PACKAGE) == []


# The chapters


def parts() -> list[list[str]]:
    """The stems of the notebooks in reading order, part by part."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    return [
        [
            entry["file"].removeprefix("chapters/")
            for entry in part["chapters"]
            if entry["file"].startswith("chapters/")
        ]
        for part in toc["parts"]
    ]


def name_of(stem: str) -> str:
    """What a chapter is called in running text."""
    label = stem.partition("_")[0].lstrip("0")
    return f"appendix {label}" if label.isupper() else f"chapter {label}"


def test_numbers_follow_the_table_of_contents(
    notebooks: dict[str, NotebookNode],
) -> None:
    """1, 2, 3, … and A, B, C, …, in file names and titles; and nothing is left out."""
    stems = [stem for part in parts() for stem in part]
    assert sorted(stems) == sorted(notebooks)
    numbers = [stem.partition("_")[0] for stem in stems]
    letters = [number for number in numbers if number.isalpha()]
    digits = [number for number in numbers if not number.isalpha()]
    assert digits == [f"{k:02}" for k in range(1, len(digits) + 1)]
    assert letters == [chr(ord("A") + k) for k in range(len(letters))]
    for stem, number in zip(stems, numbers, strict=True):
        title = notebooks[stem].cells[0].source
        assert title.startswith(f"# {number.lstrip('0')}. "), f"{stem}: {title[:40]}"


def test_equations_are_numbered_without_gaps(
    notebooks: dict[str, NotebookNode],
) -> None:
    for stem, notebook in notebooks.items():
        prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        tags = re.findall(r"\\tag\{([A-Z\d]+\.\d+)[a-z]?\}", prose)
        label = name_of(stem).split()[1]
        once = list(dict.fromkeys(tags))
        assert once == [f"{label}.{k}" for k in range(1, len(once) + 1)], stem


def test_equations_are_named_in_brackets(tracked: list[str]) -> None:
    """Without them a number is not seen when equations are numbered anew."""
    bare = re.compile(r"\b[Ee]quations?\s+[A-Z\d]+\.\d")
    found = {
        path: bare.findall((ROOT / path).read_text("utf-8"))
        for path in tracked
        if path.endswith((".ipynb", ".md", ".py", ".hpp"))
    }
    assert not {path: places for path, places in found.items() if places}


def test_part_one_has_no_plumbing(notebooks: dict[str, NotebookNode]) -> None:
    """Byte-order marks, guards and locks are exported from elsewhere."""
    for stem in parts()[0]:
        assert not PLUMBING & set(modules(notebooks[stem])), stem


def test_ideas_stand_in_front(notebooks: dict[str, NotebookNode]) -> None:
    """In part I three of four code cells teach: they neither refuse nor only import."""
    for stem in parts()[0]:
        shown = [c for c in code_cells(notebooks[stem]) if c.get("id") != CELL_ID]
        plumbing = 0
        for cell in shown:
            directives, code = split_directives(cell.source)
            folded = directives.get("code-fold") == "true" or "hide" in directives
            drawn = "fig-alt" in directives
            refuses = re.search(r"refuses\(|except \w*Error|^\s*raise ", code, re.M)
            plumbing += bool(refuses) or (folded and not drawn)
        assert 4 * plumbing <= len(shown), f"{stem}: {plumbing} of {len(shown)}"


def test_what_a_later_chapter_builds_is_imported_with_its_name(
    notebooks: dict[str, NotebookNode],
) -> None:
    """At the top of a cell, never in a function, with a comment that names the chapter."""
    stems = [stem for part in parts() for stem in part]
    homes = {name: stem for stem in stems for name in modules(notebooks[stem])}
    known = {name: ast.Module([], []) for name in homes}
    for position, stem in enumerate(stems):
        for cell in code_cells(notebooks[stem]):
            place = f"{stem} {cell.id}"
            if HEADER.match(cell.source):
                continue
            _, code = split_directives(cell.source)
            code = plain_python(code)
            lines = code.splitlines()
            for node, inside in imports(ast.parse(code)):
                heads = [alias.name.partition(".")[0] for alias in node.names]
                heads += [(getattr(node, "module", None) or "").partition(".")[0]]
                assert not {"nbdev", "fastcore"} & set(heads), place
                assert not getattr(node, "level", 0), f"{place}: import by full name"
                for module, _ in taken(node, known):
                    later = homes.get(module)
                    if later is None or stems.index(later) <= position:
                        continue
                    assert not inside, f"{place} imports {module} in a function"
                    near = lines[max(node.lineno - 2, 0) : node.end_lineno]
                    said = " ".join(re.findall(r"#(.*)", "\n".join(near)))
                    assert re.search(rf"\b{name_of(later)}\b", said, re.IGNORECASE), (
                        f"{place} imports {module} and does not say: {name_of(later)}"
                    )


# The tests


def clocks(code: str) -> list[str]:
    """Where a test's Python, or the JavaScript in its strings, asks for the time."""
    names = {"perf_counter", "monotonic", "process_time", "thread_time", "time"}
    script = re.compile(
        r"performance\.(?:now|measure|timing|getEntries)|Date\.now"
        r"|Performance\.getMetrics|longtask|first-input|contentful"
    )
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).removesuffix("_ns")
            module, _, name = called.rpartition(".")
            if name in names and module in ("time", "") or name == "getloadavg":
                found.append(f"{node.lineno}: {called}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [f"{node.lineno}: {m[0]}" for m in script.finditer(node.value)]
    return found


def test_no_test_looks_at_the_clock(tracked: list[str]) -> None:
    """How long something takes says how busy a machine is; `make bench` measures.

    A clock that a test sets itself is none.
    """
    assert clocks("import time\nassert time.perf_counter_ns() < 1") == [
        "2: time.perf_counter"
    ]
    assert clocks("page.evaluate('() => performance.now()')")
    own = Path(__file__).relative_to(ROOT).as_posix()
    found = {
        path: clocks((ROOT / path).read_text("utf-8"))
        for path in tracked
        if path.startswith("tests/") and path.endswith(".py") and path != own
    }
    assert not {path: places for path, places in found.items() if places}


def test_chapters_state_no_running_time(notebooks: dict[str, NotebookNode]) -> None:
    """The page says how long the chapter took when the page was built."""
    for stem, notebook in notebooks.items():
        assert "Running time" not in notebook.cells[0].source, stem
