"""Executes chapters as readers do, two at a time, into the cache that the book reads.

A chapter runs alone, in an empty folder, in an environment that holds what Colab has and
what hlstm requires, and nothing else that the book is built with; it finds no network.
Sphinx then takes the results out of the cache. An error ends the build and shows its cell.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from book import ROOT, settings
from book.notebooks.reader import read
from book.notebooks.setup_cell import closure, module_of

# What a reader has: Colab's packages as far as chapters use them.
GIVEN = ("torch", "numpy", "matplotlib", "ipykernel")
# These measure what several threads can do: they run last, alone, on all processors.
ALONE = {"speed"}
# Seconds that a cell may take.
LIMIT = 900
COLOUR = re.compile(r"\x1b\[[\d;]*m")
NO_NETWORK = """
import sys


def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo"}:
        host = arguments[1] if event == "socket.connect" else arguments[0]
        host = host[0] if isinstance(host, tuple) else host
        if host not in {None, "", "localhost", "127.0.0.1", "::1"}:
            raise OSError(f"no network here, and {host} was asked for")


sys.addaudithook(refuse)
"""


def make_environment(target: Path, root: Path = ROOT) -> Path:
    """A fresh environment of links to what chapters may use; return its Python.

    Parameters
    ----------
    target
        The folder; what it held goes.
    root
        The repository, whose package the environment has.
    """
    shutil.rmtree(target, ignore_errors=True)
    # A clean Python: neither this environment's packages nor pip.
    words = ["-m", "venv", "--without-pip", "--symlinks", str(target)]
    subprocess.run([sys.executable, *words], check=True)
    python = target / "bin" / "python"
    folder = Path(
        sysconfig.get_path("purelib", vars={"base": str(target)}, scheme="venv")
    )
    wanted = closure([*GIVEN, *settings(root)["requirements"].split()], colab=False)
    link(wanted, folder)
    (folder / "hlstm").symlink_to(root / "hlstm")
    (folder / "no_network.py").write_text(NO_NETWORK)
    (folder / "no_network.pth").write_text("import no_network\n")
    return python


def link(wanted: set[str], folder: Path, path: list[str] | None = None) -> None:
    """Link packages into the folder of an environment, as far as it lacks them.

    Parameters
    ----------
    wanted
        The packages, as module names.
    folder
        Where the environment keeps its packages.
    path
        The folders that hold them; none means those of this environment.
    """
    for dist in distributions(path=path or sys.path):
        if module_of(dist.name) in wanted:
            tops = {file.parts[0] for file in dist.files or []}
            for top in tops - {"..", "__pycache__"}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(Path(str(dist.locate_file(top))))


def kernel_manager(python: Path, folder: Path) -> AsyncKernelManager:
    """What starts kernels of a Python; its description stands in a folder."""
    description = folder / "reader" / "kernel.json"
    description.parent.mkdir(parents=True, exist_ok=True)
    words = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    # Kernels warn at each start where others could listen in.
    curve = {"supported_encryption": ["curve"]}
    text = {"argv": words, "display_name": "", "language": "", "metadata": curve}
    description.write_text(json.dumps(text))
    return AsyncKernelManager(
        kernel_name="reader",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder)]),
        transport_encryption="auto",
    )


def run(
    notebook: NotebookNode,
    manager: AsyncKernelManager,
    folder: Path,
    variables: dict[str, str],
) -> None:
    """Run a notebook in place, in a folder; raise what nbclient raises."""
    client = NotebookClient(
        notebook,
        km=manager,
        resources={"metadata": {"path": str(folder)}},
        timeout=LIMIT,
        startup_timeout=300,
        # Times in a cell's metadata would hide the results from Sphinx.
        record_timing=False,
    )
    client.execute(cleanup_kc=True, env=variables)


def surroundings(python: Path, home: Path, threads: int | None = 1) -> dict[str, str]:
    """The variables that a kernel sees, with a home of its own."""
    gone = {"PYTHONPATH", "PYTHONHOME", "MPLBACKEND", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    kept.pop("OMP_NUM_THREADS", None)
    kept |= {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # tqdm would rather have ipywidgets, which fetch their scripts elsewhere.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    return kept | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


@dataclass
class Chapter:
    """A chapter to execute, and what came of it."""

    path: Path
    notebook: NotebookNode
    seconds: float = 0.0
    error: str = ""

    @property
    def alone(self) -> bool:
        """Whether nothing may run beside it."""
        return self.path.stem.partition("_")[2] in ALONE


@dataclass
class Kitchen:
    """The environment of a build's kernels, and those that are running."""

    python: Path
    home: Path
    running: set[AsyncKernelManager] = field(default_factory=set)

    def execute(self, chapter: Chapter) -> Chapter:
        """Run a chapter alone in an empty folder."""
        manager = kernel_manager(self.python, self.python.parents[1] / "kernels")
        self.running.add(manager)
        threads = None if chapter.alone else 1
        variables = surroundings(self.python, self.home, threads)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
            began = time.perf_counter()
            try:
                run(chapter.notebook, manager, Path(empty).resolve(), variables)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                chapter.error = COLOUR.sub("", str(error))
            chapter.seconds = time.perf_counter() - began
        self.running.discard(manager)
        return chapter

    def stop(self) -> None:
        """End every kernel now."""
        for manager in list(self.running):
            process = getattr(manager.provisioner, "process", None)
            if process is not None:
                process.kill()


def lacking(
    paths: list[Path], cache: JupyterCacheAbstract, root: Path
) -> Iterator[Chapter]:
    """The chapters of which the cache has no results, those that run alone last."""
    found = []
    for path in paths:
        notebook = read(path.read_text("utf-8"), root)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            found.append(Chapter(path, notebook))
    yield from sorted(found, key=lambda chapter: chapter.alone)


def execute(paths: list[Path], at_once: int = 2, root: Path = ROOT) -> list[Chapter]:
    """Execute the chapters that have changed, and keep the results of those that ran.

    Parameters
    ----------
    paths
        The notebooks, in the order in which they are begun.
    at_once
        How many run beside each other.
    root
        The repository.

    Returns
    -------
    list of Chapter
        Those that were executed, each with its seconds and, where it failed, an error.
    """
    cache = get_cache(str(root / "_build" / ".jupyter_cache"))
    missing = list(lacking(paths, cache, root))
    if not missing:
        return []
    home = root / "_build" / "home"
    home.mkdir(parents=True, exist_ok=True)
    kitchen = Kitchen(make_environment(root / "_build" / "kernel", root), home)
    done: list[Chapter] = []
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for alone in (False, True):
                group = [chapter for chapter in missing if chapter.alone == alone]
                waves = [[chapter] for chapter in group] if alone else [group]
                for wave in waves:
                    jobs = {pool.submit(kitchen.execute, chapter) for chapter in wave}
                    for chapter in finished(jobs):
                        done.append(chapter)
                        keep(chapter, cache)
        except BaseException:
            kitchen.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def finished(jobs: set[Future[Chapter]]) -> Iterator[Chapter]:
    """The chapters, each as soon as it is done."""
    while jobs:
        ready, jobs = wait(jobs, return_when=FIRST_COMPLETED)
        yield from (job.result() for job in ready)


def keep(chapter: Chapter, cache: JupyterCacheAbstract) -> None:
    """Say how long a chapter took, and put what it showed into the cache."""
    print(
        f"{chapter.path.stem:<24}{chapter.seconds:6.1f} s", file=sys.stderr, flush=True
    )
    if chapter.error:
        print(f"{chapter.path.name} failed:\n{chapter.error}", file=sys.stderr)
        return
    nbformat.validate(chapter.notebook)
    data = {"execution_seconds": chapter.seconds}
    bundle = CacheBundleIn(chapter.notebook, str(chapter.path), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
