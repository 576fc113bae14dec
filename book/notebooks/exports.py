"""Exports the chapters to hlstm/, and writes hlstm/__init__.py and __main__.py.

    python -m book.notebooks.exports            write what has changed
    python -m book.notebooks.exports --check    write nothing; fail where something would change

nbdev works on a copy, so that a file whose text stays the same keeps its time stamp.
"""

import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from book import ROOT, settings
from book.notebooks.reader import code_cells, modules, split_directives

PACKAGE = "hlstm"


def exported_modules(root: Path) -> list[str]:
    """The modules in the order of the chapters that own them."""
    found: list[str] = []
    for path in sorted((root / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        owned = {
            directives["default_exp"]
            for directives, _ in (
                split_directives(c.source) for c in code_cells(notebook)
            )
            if "default_exp" in directives
        }
        for name in modules(notebook):
            if name not in owned:
                # nbdev would append to it at each export, and never start it anew.
                raise SystemExit(
                    f"{path.name} exports to {name!r}, which is not its default_exp; "
                    f"give {name!r} a notebook of its own"
                )
            found.append(name)
    return found


def public_names(module: Path) -> list[str]:
    """What a module lists in its __all__."""
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


LAZY = '''
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what is asked for now: PyTorch takes seconds, and may not be needed."""
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
'''


def init_source(package: Path, names: list[str], version: str) -> str:
    """The text of hlstm/__init__.py: each module's public names, in chapter order."""
    public = {name: public_names(package / f"{name}.py") for name in names}
    lines = [
        '"""A deep LSTM from raw tensor operations, exported from the chapters."""'
    ]
    lines += ["", "from importlib import import_module"]
    lines += ["from typing import TYPE_CHECKING, Any"]
    lines += ["", f'__version__ = "{version}"', "", "if TYPE_CHECKING:"]
    for name, found in public.items():
        if found:
            lines.append(f"    from .{name} import (")
            lines += [f"        {item}," for item in found]
            lines.append("    )")
    lines += ["", f"_MODULES = {tuple(names)!r}", "_HOMES = {"]
    for name, found in public.items():
        lines += [f'    "{item}": "{name}",' for item in found]
    lines += ["}", "__all__ = ["]
    lines += [f'    "{item}",' for found in public.values() for item in found]
    return "\n".join([*lines, "]", LAZY])


MAIN = '''\
"""Starts the command line: hlstm, or python -m hlstm."""

import os
import signal
import sys


def start() -> int:
    """Import `hlstm.cli` and run its `main`; return the exit code."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        # While PyTorch loads, Ctrl-C as an exception would be swallowed, or crash.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from hlstm.cli import main

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(start())
'''


def export(root: Path, target: Path) -> Path:
    """Export the chapters of `root` afresh into the folder `target`."""
    shutil.copy(root / "settings.ini", target)
    shutil.copytree(root / "chapters", target / "chapters")
    package = target / PACKAGE
    package.mkdir()
    names = exported_modules(root)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    subprocess.run([sys.executable, "-c", code], cwd=target, check=True)
    (package / "_modidx.py").unlink(missing_ok=True)
    init = package / "__init__.py"
    init.write_text(init_source(package, names, settings(root)["version"]), "utf-8")
    (package / "__main__.py").write_text(MAIN, "utf-8")
    return package


def main(check: bool = False) -> None:
    """Bring hlstm/ in step with the chapters, or say where it is not."""
    with tempfile.TemporaryDirectory() as folder:
        fresh_folder = export(ROOT, Path(folder))
        fresh = {path.name: path.read_bytes() for path in fresh_folder.glob("*.py")}
    package = ROOT / PACKAGE
    old = {path.name: path.read_bytes() for path in package.glob("*.py")}
    old.pop("_modidx.py", None)
    changed = sorted(name for name in fresh | old if fresh.get(name) != old.get(name))
    if check and changed:
        raise SystemExit(
            f"hlstm/ is behind the chapters: {', '.join(changed)}; run make export"
        )
    for name in changed:
        if name in fresh:
            (package / name).write_bytes(fresh[name])
        else:
            (package / name).unlink()
        print(f"exported {PACKAGE}/{name}")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
