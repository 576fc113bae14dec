"""What can be kept can be resumed, and nothing is written where another run may be."""

import builtins
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hlstm
from hlstm import files, runs, snapshot
from hlstm.checks import HlstmError, InvalidValueError
from hlstm.dropout import InvertedDropout
from hlstm.runs import FolderInUseError, TrainingInterrupted, locked
from tests.library.test_trainer_resume import (
    CONFIG,
    STEPS,
    assert_same,
    at_step,
    contents,
    go_on,
    interrupt,
    newest,
    signals,
    texts,
    trainer,
)

assert signals  # a fixture of this module too


def kept(change: Callable[[hlstm.DeepRNN], Any]) -> hlstm.Trainer:
    """A new trainer of a network that is changed before."""
    torch.manual_seed(0)
    net = hlstm.DeepRNN(hlstm.Vocabulary("abcde"), 3, 2, dropout=0.3)
    change(net)
    torch.manual_seed(1)
    return hlstm.Trainer(net, CONFIG, progress=False)


def assert_survives(change: Callable[[hlstm.DeepRNN], Any], folder: Path) -> None:
    """A changed network trains, stopped and resumed, to the bits of one that was not."""
    whole = kept(change)
    whole.fit(*texts(), folder=folder / "whole")
    with pytest.raises(TrainingInterrupted):
        at_step(kept(change), 7, interrupt()).fit(*texts(), folder=folder / "run")
    resumed = go_on(folder / "run")
    assert resumed.history.loss == whole.history.loss
    assert_same(newest(folder / "run"), newest(folder / "whole"))
    for ours, theirs in zip(
        resumed.net.parameters(), whole.net.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs) and ours.requires_grad == theirs.requires_grad


# What shapes training belongs to the checkpoint


CHANGES: dict[str, Callable[[hlstm.DeepRNN], Any]] = {
    "a frozen stack": lambda net: net.lstm.requires_grad_(False),
    "a frozen head": lambda net: net.head.requires_grad_(False),
    "one frozen matrix": lambda net: net.lstm.weight_hh_l1.requires_grad_(False),
    "another dropout": lambda net: setattr(net.dropout, "p", 0.6),
    "a whole dropout": lambda net: setattr(net.dropout, "p", 0),
    "another dropout between layers": lambda net: setattr(net.lstm, "dropout", 0.6),
    "a shared mask": lambda net: setattr(net.dropout, "shared_dim", 1),
    "a shared mask, counted from behind": lambda net: setattr(
        net, "dropout", InvertedDropout(0.3, shared_dim=-2)
    ),
    "the readable engine": lambda net: setattr(net.lstm, "engine", "reference"),
    "PyTorch's engine": lambda net: setattr(net.lstm, "engine", "torch"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_shapes_training_survives(tmp_path: Path, what: str) -> None:
    assert_survives(CHANGES[what], tmp_path)


def test_freezing_on_the_way_survives(tmp_path: Path) -> None:
    class Freezing:
        def on_evaluation(self, trainer: hlstm.Trainer) -> None:
            trainer.net.lstm.requires_grad_(trainer.position.step % 8 == 0)

    def freezing(subject: hlstm.Trainer) -> hlstm.Trainer:
        subject.callbacks.append(Freezing())
        return subject

    whole = freezing(trainer())
    whole.fit(*texts(), folder=tmp_path / "whole")
    for step in (5, 9):
        with pytest.raises(TrainingInterrupted):
            folder = tmp_path / str(step)
            at_step(freezing(trainer()), step, interrupt()).fit(*texts(), folder=folder)
        resumed = freezing(hlstm.Trainer.resume(folder, progress=False))
        assert resumed.net.lstm.weight_ih_l0.requires_grad == (step == 9)
        resumed.fit(*texts(), folder=folder)
        assert_same(newest(folder), newest(tmp_path / "whole"))


def test_settings_of_the_optimizer_survive(tmp_path: Path) -> None:
    def slower(subject: hlstm.Trainer) -> hlstm.Trainer:
        subject.optimizer.param_groups[0] |= {"betas": (0.8, 0.9), "eps": 1e-3}
        return subject

    slower(trainer()).fit(*texts(), folder=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        at_step(slower(trainer()), 7, interrupt()).fit(
            *texts(), folder=tmp_path / "run"
        )
    go_on(tmp_path / "run")
    assert_same(newest(tmp_path / "run"), newest(tmp_path / "whole"))


def test_another_engine_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path)
    machine = snapshot.describe_machine(trainer().run)
    other = machine | {"compiled engine": not machine["compiled engine"]}
    monkeypatch.setattr(runs, "describe_machine", lambda run: other)
    with pytest.warns(RuntimeWarning, match="compiled engine .* then, .* last bits"):
        hlstm.Trainer.resume(tmp_path, progress=False)


@pytest.mark.parametrize("change", ["p", "shared_dim", "engine", "frozen"])
def test_a_network_that_was_changed_since_is_told(tmp_path: Path, change: str) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path)
    resumed = hlstm.Trainer.resume(tmp_path, progress=False)
    net = resumed.net
    if change == "frozen":
        net.head.requires_grad_(False)
    elif change == "engine":
        net.lstm.engine = "reference"
    else:
        setattr(net.dropout, change, 1 if change == "shared_dim" else 0.1)
    name = "dropout" if change == "p" else change
    before = contents(tmp_path)
    with pytest.raises(InvalidValueError, match=f"not the run .*: {name} was "):
        resumed.fit(*texts(), folder=tmp_path)
    assert contents(tmp_path) == before


# What can be saved can be loaded, or saving refuses


class Mine(hlstm.DeepRNN):
    """A network that no file describes."""


class Smooth(nn.Linear):
    """A head that no file describes."""


def subclass(net: hlstm.DeepRNN) -> None:
    net.__class__ = Mine


ODD: dict[str, Callable[[hlstm.DeepRNN], Any]] = {
    "a head without bias": lambda net: setattr(
        net, "head", nn.Linear(3, 5, bias=False)
    ),
    "a stack without bias": lambda net: setattr(
        net,
        "lstm",
        hlstm.LSTM(5, 3, 2, bias=False, batch_first=True, dropout=0.3),
    ),
    "no bias at all": lambda net: (
        ODD["a head without bias"](net),
        ODD["a stack without bias"](net),
    ),
    "another head": lambda net: setattr(net, "head", Smooth(3, 5)),
    "a head of two layers": lambda net: setattr(
        net, "head", nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5))
    ),
    "PyTorch's dropout": lambda net: setattr(net, "dropout", nn.Dropout(0.3)),
    "no dropout": lambda net: setattr(net, "dropout", nn.Identity()),
    "a class of its own": subclass,
    "a part too many": lambda net: net.add_module("more", nn.Linear(2, 2)),
    "weight norm": lambda net: nn.utils.parametrizations.weight_norm(net.head),
    "PyTorch's stack": lambda net: setattr(
        net, "lstm", nn.LSTM(5, 3, 2, batch_first=True)
    ),
    "tied weights": lambda net: setattr(
        net.lstm, "weight_hh_l1", net.lstm.weight_hh_l0
    ),
    "two precisions": lambda net: net.head.double(),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_saved_can_be_loaded_or_saving_refuses(
    tmp_path: Path, what: str
) -> None:
    subject = kept(ODD[what])
    try:
        subject.fit(*texts(), folder=tmp_path / "one")
    except HlstmError as error:
        assert "can be resumed" in str(error) or "share memory" in str(error)
        assert subject.history.loss == [] and contents(tmp_path / "one") == {}
    except (TypeError, IndexError, RuntimeError, ValueError):
        with suppress(FileNotFoundError):  # this network cannot even run
            assert sorted(contents(tmp_path / "one")) == ["step-00000000.safetensors"]
    else:
        assert_survives(ODD[what], tmp_path / "two")


MAKERS: dict[str, Callable[[hlstm.DeepRNN], torch.optim.Optimizer]] = {
    "another class": lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
    "one group": lambda net: torch.optim.AdamW(net.parameters()),
    "another order": lambda net: torch.optim.AdamW([*net.parameters()][::-1]),
    "the head alone": lambda net: torch.optim.AdamW(
        (net.lstm.requires_grad_(False), net.head)[1].parameters()
    ),
}


@pytest.mark.parametrize("what", MAKERS)
def test_another_optimizer_comes_back_where_its_function_is_given(
    tmp_path: Path, what: str
) -> None:
    def new() -> hlstm.Trainer:
        net = trainer().net
        torch.manual_seed(1)
        return hlstm.Trainer(net, CONFIG, optimizer=MAKERS[what], progress=False)

    new().fit(*texts(), folder=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        at_step(new(), 7, interrupt()).fit(*texts(), folder=tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(
        InvalidValueError, match="the run has another optimizer: .* opt"
    ):
        hlstm.Trainer.resume(tmp_path / "run", progress=False)
    assert contents(tmp_path / "run") == before
    # Whoever only looks needs no optimiser.
    assert runs.run_info(tmp_path / "run")["files"].keys() == before.keys() - {
        "metrics.jsonl"
    }
    assert not hlstm.load_run(tmp_path / "run").training
    torch.manual_seed(99)
    resumed = hlstm.Trainer.resume(
        tmp_path / "run", optimizer=MAKERS[what], progress=False
    )
    resumed.fit(*texts(), folder=tmp_path / "run")
    assert_same(newest(tmp_path / "run"), newest(tmp_path / "whole"))


def head_replaced(subject: hlstm.Trainer) -> None:
    subject.net.head = nn.Linear(3, 5)


def of_another_network(subject: hlstm.Trainer) -> None:
    subject.optimizer = torch.optim.AdamW(trainer().net.parameters())


def half_left_out(subject: hlstm.Trainer) -> None:
    subject.optimizer = torch.optim.AdamW(subject.net.head.parameters())


ACTS = {
    head_replaced: "no longer, one of the network",
    of_another_network: "no longer, one of the network",
    half_left_out: "leaves out lstm.weight_ih_l0, which learns: freeze",
}


@pytest.mark.parametrize(("act", "words"), ACTS.items())
def test_an_optimizer_that_cannot_come_back_is_refused(
    tmp_path: Path, act: Callable[[hlstm.Trainer], None], words: str
) -> None:
    subject = trainer()
    act(subject)
    with pytest.raises(InvalidValueError, match=words):
        subject.fit(*texts(), folder=tmp_path)
    assert contents(tmp_path) == {} and subject.history.loss == []
    assert len(trainer().fit(*texts(), folder=tmp_path).loss) == STEPS


# A reader that has gone


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError, KeyboardInterrupt])
def test_an_error_between_two_steps_loses_no_work(
    tmp_path: Path, error: type[BaseException]
) -> None:
    class Gone:
        def on_evaluation(self, trainer: hlstm.Trainer) -> None:
            if trainer.position.step == 8:
                raise error("gone")

    trainer().fit(*texts(), folder=tmp_path / "whole")
    subject, folder = trainer(replace(CONFIG, save_every=0)), tmp_path / "run"
    subject.callbacks.append(Gone())
    with pytest.raises(error, match="gone") as caught:
        subject.fit(*texts(), folder=folder)
    assert newest(folder).name == "step-00000008.safetensors"
    (note,) = caught.value.__notes__
    assert str(newest(folder)) in note and "hlstm train --resume --out " in note
    resumed = go_on(folder)
    kept_ = hlstm.Trainer.resume(tmp_path / "whole", progress=False)
    assert resumed.history.loss == kept_.history.loss
    assert resumed.history.val_loss == kept_.history.val_loss


def test_a_bar_that_cannot_be_drawn_loses_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar:
        def __init__(self, total: int, shown: bool, done: int) -> None:
            self.steps = range(done, total)

        def __enter__(self) -> "Bar":
            return self

        def __iter__(self) -> Iterator[int]:
            return iter(self.steps)

        def __exit__(self, *_: object) -> None:
            raise OSError(errno.EIO, "the terminal is closed")

        def set_postfix(self, **_: object) -> None:
            if subject.position.step == 7:
                raise OSError(errno.EIO, "the terminal is closed")

    subject = trainer(replace(CONFIG, save_every=0))
    monkeypatch.setattr(hlstm.trainer, "progress_bar", Bar)
    with pytest.raises(OSError, match="the terminal is closed"):
        subject.fit(*texts(), folder=tmp_path)
    assert newest(tmp_path).name == "step-00000007.safetensors"


def test_an_error_within_a_step_saves_nothing_torn(tmp_path: Path) -> None:
    def crash() -> None:
        raise KeyboardInterrupt

    subject = at_step(trainer(replace(CONFIG, save_every=0)), 7, crash)
    with pytest.raises(KeyboardInterrupt):
        subject.fit(*texts(), folder=tmp_path)
    assert newest(tmp_path).name == "step-00000000.safetensors"


# Locks


def refused(folder: Path) -> None:
    """Another trainer, as another process would, tries to train into a folder."""
    before = contents(folder)
    with pytest.raises(FolderInUseError) as caught:
        trainer().fit(*texts(), folder=folder)
    message = str(caught.value)
    assert message.startswith("another process is training into ")
    assert str(folder) in message and "Errno" not in message
    assert isinstance(caught.value, BlockingIOError)
    assert isinstance(caught.value, HlstmError)
    assert contents(folder) == before


def test_nothing_is_written_before_the_lock_is_held(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    with locked(folder):
        refused(folder)
        assert os.listdir(folder) == [".lock"]
        trainer().net.save(folder / "best.safetensors")
        refused(folder)
    with pytest.raises(FileExistsError, match="holds a run already"):
        trainer().fit(*texts(), folder=folder)
    assert sorted(os.listdir(folder)) == [".lock", "best.safetensors"]


def test_a_locked_folder_is_handed_on(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path / "run") as folder:
        runs.check_new(folder)
        Path(folder, "corpus.json").write_text("{}")
        subject = at_step(trainer(), 7, lambda: refused(tmp_path / "run"))
        subject.fit(*texts(), folder=folder)
        refused(tmp_path / "run")
        with pytest.raises(FileExistsError, match="Trainer.resume"):
            runs.check_new(folder)
        resumed = hlstm.Trainer.resume(folder, progress=False)
        assert len(resumed.fit(*texts(), folder=folder).loss) == STEPS
    assert str(folder) == os.fspath(folder) == str(tmp_path / "run")
    # What is no longer held is a path like any other.
    with locked(tmp_path / "run"):
        with pytest.raises(FolderInUseError):
            hlstm.Trainer.resume(tmp_path / "run").fit(*texts(), folder=folder)


@pytest.mark.parametrize("left", ["best.safetensors", "metrics.jsonl"])
def test_a_folder_with_the_rest_of_a_run_is_not_new(tmp_path: Path, left: str) -> None:
    (tmp_path / left).touch()
    with pytest.raises(FileExistsError, match="holds a run already"):
        runs.check_new(tmp_path)


def test_two_threads_do_not_train_into_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    subject = trainer()

    def second() -> None:
        thread = threading.Thread(target=refused, args=(tmp_path,))
        thread.start()
        thread.join()
        done.append(True)

    done: list[bool] = []
    at_step(subject, 5, second).fit(*texts(), folder=tmp_path)
    assert done == [True]


# The disk


def test_a_full_disk_at_the_start_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, name in ((os, "fsync"), (Path, "touch"), (Path, "mkdir")):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="No space left") as caught:
                trainer().fit(*texts(), folder=folder)
        assert str(folder) in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
        assert not str(caught.value).startswith("[")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_newest_checkpoint_that_cannot_be_opened_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path)
    closed, opened, before = newest(tmp_path), builtins.open, contents(tmp_path)
    earlier = hlstm.Trainer.resume(tmp_path, progress=False)

    def refusing(path: Any, *rest: Any, **more: Any) -> Any:
        if path == closed:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refusing)
        calls: list[Callable[[], Any]] = [
            lambda: hlstm.Trainer.resume(tmp_path, progress=False),
            lambda: earlier.fit(*texts(), folder=tmp_path),
        ]
        for call in calls:
            with pytest.raises(OSError, match="may be the newest checkpoint") as caught:
                call()
            assert str(closed) in str(caught.value) and caught.value.errno == code
            assert type(caught.value) is type(OSError(code, ""))
        # Whoever only looks gets the one before, and is told.
        with pytest.warns(RuntimeWarning, match="Falling back to .*step-00000006"):
            hlstm.load_run(tmp_path)
        assert runs.run_info(tmp_path)["step"] == 6
    assert contents(tmp_path) == before
    assert hlstm.Trainer.resume(tmp_path, progress=False).position.step == 8


# Reading while a run goes on


def test_a_reader_looks_again_where_the_only_file_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keep_checkpoints=1, a run replaces what a reader has just found."""
    trainer(replace(CONFIG, keep_checkpoints=1)).fit(*texts(), folder=tmp_path)
    last = newest(tmp_path)
    data, load, step = last.read_bytes(), files.load_tensors, [STEPS]
    tensors, description = load(last)

    def overtaken(path: Path) -> Any:
        if step[0] < STEPS + 5:
            # The run saves one more step before the file is opened.
            path.unlink()
            step[0] += 1
            more = {
                f"history.{k}": torch.zeros(step[0]).double()
                for k in ("loss", "grad_norm", "learning_rate")
            }
            files.save_tensors(
                tmp_path / runs.checkpoint_name(step[0]),
                tensors | more,
                description | {"step": step[0]},
            )
        return load(path)

    monkeypatch.setattr(runs, "load_tensors", overtaken)
    assert not hlstm.load_run(tmp_path).training
    assert step[0] == STEPS + 5
    last.write_bytes(data)


def test_a_reader_looks_again_where_it_saw_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(replace(CONFIG, keep_checkpoints=1)).fit(*texts(), folder=tmp_path)
    listed = [{}, {}, runs.checkpoints(tmp_path)]
    monkeypatch.setattr(runs, "checkpoints", lambda folder: listed.pop(0))
    assert not hlstm.load_run(tmp_path).training
    assert listed == []


def test_readers_beside_a_run_that_keeps_one_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=120, save_every=1, keep_checkpoints=1, eval_every=2)
    subject, failures, reads = trainer(config), [], []
    started, done = threading.Event(), threading.Event()

    def read() -> None:
        started.wait()
        while not done.is_set():
            try:
                hlstm.load_run(tmp_path)
                if (tmp_path / runs.BEST).exists():
                    hlstm.load_run(tmp_path, best=True)
                json.dumps(runs.run_info(tmp_path), allow_nan=False)
            except Exception as error:
                failures.append(error)
            reads.append(subject.position.step)

    class Starting:
        def on_evaluation(self, trainer: hlstm.Trainer) -> None:
            started.set()

    subject.callbacks.append(Starting())
    thread = threading.Thread(target=read)
    thread.start()
    try:
        subject.fit(*texts(), folder=tmp_path)
    finally:
        started.set()
        done.set()
        thread.join()
    assert failures == [] and reads


# What is told


def test_what_is_told_of_numbers_that_are_not_finite_is_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hlstm.trainer, "evaluate", lambda *_: float("nan"))
    trainer(replace(CONFIG, max_norm=np.inf)).fit(*texts(), folder=tmp_path)
    info = json.loads(json.dumps(runs.run_info(tmp_path), allow_nan=False))
    assert info["val_loss"] is None and info["best_val_loss"] is None
    assert info["config"]["max_norm"] == "inf" and info["epoch"] == 2


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_told(tmp_path: Path, device: str) -> None:
    trainer().fit(*texts(), folder=tmp_path)
    with pytest.raises(InvalidValueError, match=f"^no device '{device}'"):
        hlstm.Trainer.resume(tmp_path, device=device)


def test_the_default_device_does_not_matter(tmp_path: Path) -> None:
    trainer().fit(*texts(), folder=tmp_path / "whole")
    subject, given = trainer(), texts()
    torch.set_default_device("meta")
    try:
        with pytest.raises(TrainingInterrupted):
            at_step(subject, 7, interrupt()).fit(*given, folder=tmp_path / "run")
        resumed = hlstm.Trainer.resume(tmp_path / "run", progress=False)
        resumed.fit(*given, folder=tmp_path / "run")
        assert runs.run_info(tmp_path / "run")["step"] == STEPS
    finally:
        torch.set_default_device(None)
    assert_same(newest(tmp_path / "run"), newest(tmp_path / "whole"))


def test_the_checksum_takes_what_a_text_may_be_in() -> None:
    ids: Tensor = texts()[0]
    for value in (ids.tolist(), ids.numpy().astype(np.uint8), ids.int()):
        assert snapshot.text_sha256(value) == snapshot.text_sha256(ids)
