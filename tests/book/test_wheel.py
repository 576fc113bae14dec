"""What a release publishes, where readers run it: an empty environment, and Colab's.

The wheel goes into an empty environment with what it requires. A second environment holds
what Colab has; there the set-up cell of a chapter fetches the rest, from a repository on
this machine, and each chapter runs alone in an empty folder without a network. `make test`
takes what is required from the environment that runs it, and leaves most chapters to the
build of the site, which runs them with the same packages; `make release-check` fetches
everything.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode

from book import ROOT, settings
from book.notebooks.execute import NO_NETWORK, kernel_manager, link, run, surroundings
from book.notebooks.execute import make_environment as make_lean
from book.notebooks.exports import exported_modules
from book.notebooks.reader import code_cells, download
from book.notebooks.setup_cell import CELL_ID, KEPT, closure, lacking, module_of
from tests.conftest import CHAPTERS, skip_or_fail

OWN = module_of(settings()["pypi_name"])
# Where `make release-check` has put what it has built.
RELEASE = os.environ.get("HLSTM_DIST")
# Colab's Python, and the one before.
PYTHONS = ("3.13", "3.12")
# The book's build runs the whole chapter. From this cell on it trains for minutes.
STOP = {"12_training": "2e958635"}
# The chapter whose set-up cell does its work.
FIRST = "05_cell"
ALONE = "test_chapter_runs_alone"
CONTRACT = """
import sys
import torch
import hlstm

assert hlstm.__version__ == sys.argv[1]
text = hlstm.load_corpus("shakespeare")
assert len(text) > 4_000_000
vocab = hlstm.Vocabulary.from_text(text)
assert vocab.decode(vocab.encode("To be")) == "To be"
ids = vocab.encode(text[:4000])
assert ids.dtype == torch.long
assert hlstm.one_hot(ids[:6].view(2, 3), len(vocab)).shape == (2, 3, len(vocab))

cell = hlstm.LSTMCell(3, 4, bias=True, device=None, dtype=torch.float64)
torch.nn.LSTMCell(3, 4, dtype=torch.float64).load_state_dict(cell.state_dict())
rnn = hlstm.LSTM(3, 4, num_layers=2, bias=True, batch_first=False, dropout=0.0)
torch.nn.LSTM(3, 4, num_layers=2).load_state_dict(rnn.state_dict())

net = hlstm.DeepRNN(vocab, hidden_size=16, num_layers=2, dropout=0.0)
logits, (h, c) = net(ids[:6].view(2, 3), state=None)
assert logits.shape == (2, 3, len(vocab)) and h.shape == c.shape == (2, 2, 16)
sample = net.generate_text(
    "ROMEO:", length=20, temperature=0.8, top_k=None, top_p=None, seed=0
)
assert sample.startswith("ROMEO:") and len(sample) == 26
assert abs(float(hlstm.boltzmann(logits[0, 0], 0.5).sum()) - 1) < 1e-6

logits.sum().backward()
assert float(hlstm.clip_grad_norm_(net.parameters(), max_norm=1.0)) > 0
config = hlstm.TrainConfig(steps=3, batch_size=4, sequence_length=8)
before = hlstm.evaluate(net, ids)
hlstm.Trainer(net, config).fit(ids, ids[:1000])
assert hlstm.evaluate(net, ids) < before

net.save("model.safetensors")
again = hlstm.load_model("model.safetensors")
assert torch.equal(again(ids[None, :9])[0], net.eval()(ids[None, :9])[0])
assert hlstm.load_pretrained("shakespeare").generate_text("A", length=5)
star = {}
exec("from hlstm import *", star)
assert set(hlstm.__all__) <= star.keys()
print("contract holds")
"""


def command(
    *words: str | Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it prints."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def must(run: subprocess.CompletedProcess[str]) -> str:
    """What a program printed that has to succeed; without a network, skip."""
    if run.returncode and re.search(
        "NewConnection|NameResolution|Timeout|Proxy", run.stderr
    ):
        skip_or_fail("no network to install packages from")
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


def pip(python: Path, *words: str | Path) -> None:
    """Install with the versions that the book is built with."""
    pins = f"--no-compile --retries 1 --constraint {ROOT / 'constraints.txt'}".split()
    here = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    must(command(*here, *pins, *words))


def colab_python() -> str:
    """Colab's Python, where this machine has it, or else the one that runs the tests.

    PyTorch for another Python may be a download of gigabytes. So only the check of a
    release looks for one.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in PYTHONS if RELEASE else ():
        found = [shutil.which(f"python{version}")]
        found += [str(path / "bin/python") for path in pyenv.glob(f"{version}.*")]
        for python in filter(None, found):
            if command(python, "-c", "import ensurepip").returncode == 0:
                return python
    return sys.executable


def make_environment(target: Path, python: str, *words: str) -> Path:
    """A virtual environment, by the path of its Python."""
    must(command(python, "-m", "venv", *words, target))
    return target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def packages(python: Path) -> Path:
    """The folder where an environment keeps its packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(must(command(python, "-c", code)).strip())


def versions(python: Path) -> dict[str, str]:
    """The packages of an environment, by the names of their modules."""
    found = distributions(path=[str(packages(python))])
    return {module_of(dist.name): dist.version for dist in found}


Runs = Callable[[str], Future[None]]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for gigabytes; those of pytest stay for three runs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """The tracked files in a repository of their own, with the tag of a release."""
    copy = folder / "source"
    names = must(command("git", "ls-files", "-z")).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    me = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    must(command("git", "init", "--quiet", copy))
    must(command("git", "add", "--all", cwd=copy))
    must(command("git", *me, "commit", "--quiet", "--message", "tree", cwd=copy))
    must(command("git", "tag", f"v{settings()['version']}", cwd=copy))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, folder: Path) -> Path:
    """The wheel of a release, or one built by way of the source archive."""
    target = Path(RELEASE or folder / "dist")
    if not RELEASE:
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
        must(command(*build, target, cwd=source))
    assert [path.suffix for path in sorted(target.iterdir())] == [".whl", ".gz"]
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def empty(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel and what it requires, and nothing else."""
    python = make_environment(folder / "empty", colab_python(), "--without-pip")
    if RELEASE:
        pip(python, wheel)
        return python
    needed = closure(settings()["requirements"].split(), colab=False)
    link(needed, packages(python))
    # It may fetch nothing, and finds that nothing is missing.
    pip(python, "--no-index", wheel)
    assert versions(python).keys() == needed | {OWN}
    return python


def chapter(name: str) -> NotebookNode:
    """A chapter as the site's button gives it, up to the training that takes minutes."""
    text = (ROOT / "chapters" / f"{name}.ipynb").read_text("utf-8")
    notebook = nbformat.reads(download(text), as_version=4)
    if name in STOP:
        ids = [cell.id for cell in notebook.cells]
        notebook.cells = notebook.cells[: ids.index(STOP[name])]
    return notebook


def run_chapter(name: str, python: Path, folder: Path, **environment: str) -> None:
    """Run a chapter alone in an empty folder; it writes nothing to the error stream."""
    empty = folder / "empty"
    empty.mkdir(parents=True)
    notebook = chapter(name)
    manager = kernel_manager(python, folder / "kernels")
    run(notebook, manager, empty, surroundings(python, folder) | environment)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"{cell.id}: {output.text}"
        if cell.id == CELL_ID and "PYTHONPATH" in environment:
            assert not cell.outputs, "the set-up cell did something"


class Colab(NamedTuple):
    """An environment like Colab's, before and after a chapter ran in it."""

    python: Path
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def colab(empty: Path, source: Path, folder: Path) -> Colab:
    """Torch, numpy, matplotlib, a kernel; then a chapter, whose set-up cell is real."""
    if os.name == "nt":
        pytest.skip("Colab is a Linux machine")
    python = make_environment(
        folder / "colab", str(empty), *([] if RELEASE else ["--without-pip"])
    )
    if RELEASE:
        old = [str(packages(empty))]
        link(closure(KEPT, old), packages(python), old)
        pip(python, "matplotlib", "ipykernel")
    else:
        there = closure([*KEPT, "matplotlib", "ipykernel", "pip"], colab=False)
        link(there, packages(python))
    before, known = versions(python), settings()
    run_chapter(
        FIRST,
        python,
        folder / "first",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.{source.as_uri()}.insteadOf",
        GIT_CONFIG_VALUE_0=known["git_url"],
        PIP_CONSTRAINT=str(ROOT / "constraints.txt"),
    )
    return Colab(python, before, versions(python))


@pytest.fixture(scope="module")
def runs(colab: Colab, folder: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """The chapters in that environment, two at a time, without a network."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    cut_off = {"PYTHONPATH": str(folder)}
    code = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    tried = command(colab.python, "-c", code, PYTHONPATH=str(folder))
    assert "no network here" in tried.stderr
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == ALONE
    ]
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            name: pool.submit(run_chapter, name, colab.python, folder / name, **cut_off)
            for name in names
        }
        yield jobs.__getitem__


def test_contents(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        head = next(n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = archive.read(head).decode()
    package = {path for path in tracked if path.startswith("hlstm/")}
    assert names == package - {
        p for p in package if p.endswith((".gitkeep", "_modidx.py"))
    }
    assert {f"hlstm/{name}.py" for name in exported_modules(ROOT)} <= names
    assert "hlstm/py.typed" in names
    needs = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert sorted(needs) == sorted(settings()["requirements"].split())
    # On PyPI a link to a file of the repository needs its whole address.
    links = re.findall(r"\]\((.+?)\)", metadata)
    assert links and all(link.startswith("https://") for link in links)


def test_contract_in_an_empty_environment(empty: Path, tmp_path: Path) -> None:
    """pip installs the wheel and what it requires, and nothing else is there."""
    run = command(empty, "-c", CONTRACT, settings()["version"], cwd=tmp_path)
    assert run.stdout.strip().endswith("contract holds"), run.stderr[-2000:]


def test_the_set_up_cell_fetches_exactly_what_is_missing(colab: Colab) -> None:
    """Nothing that was there has changed, and nothing is missing after."""
    before, after = colab.before, colab.after
    assert {"torch", "numpy", "matplotlib", "ipykernel"} <= before.keys()
    assert not {OWN, "safetensors", "tqdm", "nbdev", "fastcore"} & before.keys()
    assert before == {name: after[name] for name in before}
    assert after.keys() - before.keys() == {OWN, *lacking()} - before.keys()
    assert after[OWN] == settings()["version"]
    must(command(colab.python, "-m", "pip", "check"))


@pytest.mark.skipif(os.name != "posix", reason="the site is built on POSIX")
def test_the_site_is_built_with_what_colab_has(
    colab: Colab, folder: Path, tracked: list[str]
) -> None:
    """And so a chapter that `make book` has executed need not run once more."""
    python = make_lean(folder / "lean")
    there = versions(python)
    assert {"torch", "ipykernel", "safetensors"} <= there.keys()
    assert not {"nbdev", "fastcore", "sphinx", "pytest"} & there.keys()
    markers = {"importlib_metadata", "zipp", "exceptiongroup", "setuptools"}
    for name in there.keys() - markers:
        assert there[name] == colab.after[name], name
    # The site takes the package's folder, a release what git tracks of it.
    files = {path for path in (ROOT / "hlstm").rglob("*") if path.is_file()}
    used = {path.relative_to(ROOT).as_posix() for path in files}
    used = {name for name in used if not re.search(r"__pycache__|_modidx", name)}
    assert used <= set(tracked)


@pytest.mark.parametrize(
    "name",
    [
        # `make test` leaves these to the build of the site, which runs them likewise.
        pytest.param(path.stem, marks=() if path.stem == FIRST else pytest.mark.alone)
        for path in CHAPTERS
    ],
)
def test_chapter_runs_alone(name: str, runs: Runs) -> None:
    runs(name).result()
