"""Exports the chapters to hlstm/, and writes hlstm/__init__.py and __main__.py.

    python -m book.notebooks.exports            write what has changed
    python -m book.notebooks.exports --check    write nothing; fail where something would change

A notebook may fill several modules: a cell `#| export name` goes to hlstm/name.py, and one
that begins with `%%writefile csrc/NAME.hpp` to hlstm/csrc/NAME.hpp, byte for byte. The
exercises in code, book/exercises/NAME.py, become hlstm/answers/NAME.txt.
nbdev works on a copy, so that a file whose text stays the same keeps its time stamp.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from book import ROOT, settings
from book.notebooks.reader import HEADER, code_cells, modules

PACKAGE = "hlstm"
WRITTEN = "*.py", "csrc/*", "answers/*"
# What is importable from hlstm itself; all else stays in its module.
TOP_LEVEL = (
    "load_corpus Vocabulary one_hot train_val_split LSTMCell LSTM DeepRNN set_forget_bias_ "
    "InvertedDropout clip_grad_norm_ boltzmann TrainConfig Trainer evaluate load_model "
    "load_pretrained load_run suggest save_int8 load_int8 compress decompress check"
).split()


def chapter_paths(root: Path) -> list[Path]:
    """The notebooks: the numbered chapters first, then the lettered appendices."""
    return sorted((root / "chapters").glob("*.ipynb"))


def exported_modules(root: Path) -> list[str]:
    """The modules in the order of the chapters that own them."""
    owners: dict[str, str] = {}
    for path in chapter_paths(root):
        for name in modules(nbformat.read(path, as_version=4)):
            if name in owners:
                raise SystemExit(
                    f"{path.name} exports to {name!r}, which {owners[name]} fills; "
                    "a module has one notebook"
                )
            owners[name] = path.name
    return list(owners)


def headers(root: Path) -> dict[str, str]:
    """The C++ headers that the chapters write, by file name."""
    found: dict[str, str] = {}
    for path in chapter_paths(root):
        for cell in code_cells(nbformat.read(path, as_version=4)):
            if match := HEADER.match(cell.source):
                if match["name"] in found:
                    raise SystemExit(f"{path.name} writes {match['name']} twice")
                found[match["name"]] = cell.source[match.end() :].rstrip("\n") + "\n"
    return found


def public_names(module: Path) -> list[str]:
    """What a module lists in its __all__."""
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


LAZY = '''

_MODULES = {modules!r}
_HOMES = {{
{homes}
}}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what is asked for now: PyTorch takes seconds, and may not be needed."""
        if name in _MODULES:
            return import_module(f".{{name}}", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
        value = getattr(import_module(f".{{_HOMES[name]}}", __name__), name)
        globals()[name] = value
        return value


__all__ = [
{names}
]


def __dir__() -> list[str]:
    return sorted({{*globals(), *_MODULES, *__all__}})
'''


def homes(package: Path, modules: list[str]) -> dict[str, str]:
    """Each name of `TOP_LEVEL` that a module lists, with that module."""
    public = {module: public_names(package / f"{module}.py") for module in modules}
    return {
        name: module
        for name in TOP_LEVEL
        for module, listed in public.items()
        if name in listed
    }


def init_source(package: Path, names: list[str], version: str) -> str:
    """The text of hlstm/__init__.py."""
    found = homes(package, names)
    lines = [
        '"""A deep LSTM from raw tensor operations, exported from the chapters."""'
    ]
    lines += ["", "from importlib import import_module"]
    lines += ["from typing import TYPE_CHECKING, Any"]
    lines += ["", f'__version__ = "{version}"', "", "if TYPE_CHECKING:"]
    lines += [f"    from .{module} import {name}" for name, module in found.items()]
    return "\n".join(lines) + LAZY.format(
        modules=tuple(names),
        homes="\n".join(f'    "{name}": "{home}",' for name, home in found.items()),
        names="\n".join(f'    "{name}",' for name in found),
    )


MAIN = '''\
"""Starts the command line: hlstm, or python -m hlstm."""

import os
import signal
import sys


def fill_closed_streams() -> bool:
    """Put the null device where a stream is closed, so that no file takes its place.

    Returns whether somebody may read stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    read = sys.stdout is not None
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    return read


def start() -> int:
    """Import `hlstm.cli` and run its `main`; return the exit code."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        # While PyTorch loads, Ctrl-C as an exception would be swallowed, or crash.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    if not fill_closed_streams():
        print("hlstm: stdout is closed, and results go there", file=sys.stderr)
        return 1
    from hlstm.cli import main

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(start())
'''


# Every module is begun anew, also one that is not its notebook's default, and opens with
# the question that the notebook asks.
NBDEV = """
from pathlib import Path
from nbdev.config import add_init, get_config
from nbdev.export import ExportModuleProc, nb_export
from nbdev.maker import ModuleMaker

class Whole(ModuleMaker):
    def __init__(self, *args, is_new, **kwargs):
        super().__init__(*args, is_new=True, **kwargs)

    def make(self, cells, *args, **kwargs):
        titles.extend(c for c in cells if c.cell_type == "markdown")
        code = [c for c in cells if c.cell_type != "markdown"]
        super().make([*titles[:1], *code], *args, **kwargs)

for path in sorted(Path("chapters").glob("*.ipynb")):
    titles = []
    nb_export(path, mod_maker=Whole)
add_init(get_config().lib_path)
"""


def export(root: Path, target: Path) -> Path:
    """Export the chapters of `root` afresh into the folder `target`."""
    shutil.copy(root / "settings.ini", target)
    shutil.copytree(root / "chapters", target / "chapters")
    package = target / PACKAGE
    package.mkdir()
    names = exported_modules(root)
    subprocess.run([sys.executable, "-c", NBDEV], cwd=target, check=True)
    (package / "_modidx.py").unlink(missing_ok=True)
    for path in package.glob("*.py"):  # directives are for the page
        text = re.sub(r"(?m)^#\|.*\n", "", path.read_text("utf-8"))
        path.write_text(text, "utf-8", newline="\n")
    init = package / "__init__.py"
    init.write_text(init_source(package, names, settings(root)["version"]), "utf-8")
    (package / "__main__.py").write_text(MAIN, "utf-8")
    for name, text in headers(root).items():
        (package / "csrc").mkdir(exist_ok=True)
        (package / "csrc" / name).write_text(text, "utf-8", newline="\n")
    for path in sorted((root / "book" / "exercises").glob("[!_]*.py")):
        (package / "answers").mkdir(exist_ok=True)
        text = path.read_text("utf-8")
        answers = package / "answers" / f"{path.stem}.txt"
        answers.write_text(text, "utf-8", newline="\n")
    return package


def written(package: Path) -> dict[str, bytes]:
    """The files of the package that come from the chapters, by their path in it."""
    paths = [path for kind in WRITTEN for path in package.glob(kind)]
    return {
        path.relative_to(package).as_posix(): path.read_bytes()
        for path in paths
        if path.name != "_modidx.py"
    }


def main(check: bool = False) -> None:
    """Bring hlstm/ in step with the chapters, or say where it is not."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = written(export(ROOT, Path(folder)))
    package = ROOT / PACKAGE
    old = written(package)
    changed = sorted(name for name in fresh | old if fresh.get(name) != old.get(name))
    if check and changed:
        raise SystemExit(
            f"hlstm/ is behind the chapters: {', '.join(changed)}; run make export"
        )
    for name in changed:
        if name in fresh:
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).write_bytes(fresh[name])
        else:
            (package / name).unlink()
        print(f"exported {PACKAGE}/{name}")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
