"""What the tests of the command line share: a place to work in, and words to type."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

import hlstm
from hlstm import cli, cli_train, recipes

LINE = "To be, or not to be, that is the question:\n"
SMALL = "--hidden-size 8 --num-layers 1 --batch-size 4 --sequence-length 16".split()
SCHEDULE = "--steps 30 --eval-every 10 --save-every 10 --keep-checkpoints 2".split()
SPEED = 64_000.0  # characters a second, in place of what would be measured
Said = Callable[[], tuple[str, str]]


def speed(net: nn.Module, config: hlstm.TrainConfig) -> float:
    """Stands for `measure_speed`, which takes half a second."""
    return SPEED


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What has been printed since the last call, on stdout and on stderr."""

    def read() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, err

    return read


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a text, and signals as in a terminal, also where there is none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "text.txt").write_text(LINE * 40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("HLSTM_DEBUG", raising=False)
    monkeypatch.setattr(cli_train, "measure_speed", speed)
    monkeypatch.setattr(recipes, "relative_speed", lambda: 1.0)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its text, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(LINE * 40)
    words = ["train", str(folder / "text.txt"), "--out", str(folder / "run"), "--json"]
    with patch.object(cli_train, "measure_speed", speed):
        assert cli.main([*words, *SMALL, *SCHEDULE]) == 0
    return folder


@pytest.fixture
def trained(made: Path, place: Path, said: Said) -> Path:
    """The folder `run`, a copy of a finished run."""
    shutil.copytree(made / "run", place / "run")
    said()
    return Path("run")


def run(line: str, *more: str) -> int:
    return cli.main([*shlex.split(line), *more])


def train(*more: str, out: str = "run") -> int:
    return run(f"train text.txt --out {out} --json", *SMALL, *SCHEDULE, *more)


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return hlstm.load_run(folder).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def start(*words: str, **how: Any) -> subprocess.Popen[str]:
    """A process of its own, with signals and threads like ours."""

    def plain_signals() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "hlstm", *words],
        env=os.environ
        | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        | how.pop("more", {}),
        text=True,
        preexec_fn=plain_signals,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how),
    )


def read_until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout
    for line in process.stdout:
        if json.loads(line)["step"] >= step:
            return
