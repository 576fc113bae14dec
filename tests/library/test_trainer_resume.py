"""A run that is stopped at any moment goes on as if it had never stopped.

`python -m tests.library.test_trainer_resume` is the program that trains here and is killed: it takes
jobs, one JSON list a line, and forks for each, so that torch is imported once.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hlstm
from book import ROOT
from hlstm import callbacks, files, runs, training
from hlstm.callbacks import EarlyStopping, SampleText
from hlstm.runs import TrainingInterrupted

STEPS = 18
# 65 characters in 2 streams give passes of 6 windows, the last of them short.
CONFIG = hlstm.TrainConfig(
    2, 6, STEPS, warmup_steps=4, eval_every=4, save_every=3, keep_checkpoints=2
)


@cache
def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, (95,), generator=generator)
    return ids[:65], ids[65:]


def trainer(config: hlstm.TrainConfig = CONFIG) -> hlstm.Trainer:
    """A new trainer of a small network with dropout, and the seed of its masks."""
    torch.manual_seed(0)
    net = hlstm.DeepRNN(hlstm.Vocabulary("abcde"), 3, 2, dropout=0.3)
    torch.manual_seed(1)
    return hlstm.Trainer(net, config, progress=False)


@dataclass(frozen=True)
class Option:
    """What a run is made with, beside the usual."""

    network: dict[str, Any] = field(default_factory=dict)
    """Of the network."""
    config: dict[str, Any] = field(default_factory=dict)
    """Of `TrainConfig`."""
    given: Callable[[], dict[str, Any]] = dict
    """What no file holds, made anew for each process: optimizer, schedule, callbacks."""

    def begin(self) -> hlstm.Trainer:
        """A new trainer, and the seed of its masks."""
        torch.manual_seed(0)
        shape: dict[str, Any] = {"dropout": 0.3, **self.network}
        net = hlstm.DeepRNN(hlstm.Vocabulary("abcde"), 3, 2, **shape)
        torch.manual_seed(1)
        config = replace(CONFIG, **self.config)
        return hlstm.Trainer(net, config, **self.given(), progress=False)

    def resume(self, folder: Path | str) -> hlstm.Trainer:
        """The trainer that goes on in another process, which has drawn other numbers."""
        torch.manual_seed(99)
        return hlstm.Trainer.resume(folder, **self.given(), progress=False)


class Plain(torch.optim.Optimizer):
    """Gradient descent that remembers plain numbers, None, and tensors of no shape."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(
            parameters, {"lr": 0.1, "how": "by hand", "bounds": (0.5, 2.0)}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if p.grad is not None:
                    count = state.get("count", 0) + 1
                    low, high = group["bounds"]
                    rate = min(max(state.get("rate", 1.0) * 0.9, low), high)
                    state |= {"count": count, "rate": rate, "nothing": None}
                    state["seen"] = torch.tensor(float(count), dtype=torch.float64)
                    p.sub_(group["lr"] * rate / state["seen"].item() * p.grad)


def with_optimizer(name: str, **settings: Any) -> Option:
    """Another of PyTorch's optimisers."""
    kind = getattr(torch.optim, name)
    return Option(
        given=lambda: {"optimizer": lambda net: kind(net.parameters(), **settings)}
    )


class Drawing:
    """Draws random numbers that are the run's, were they not given back."""

    def __init__(self, event: str) -> None:
        setattr(self, event, lambda trainer: torch.rand(trainer.position.step % 3 + 1))


def drawing(event: str) -> dict[str, Any]:
    return {"callbacks": [Drawing(event)]}


class Shrinking:
    """Changes the weights, after some steps."""

    def on_step_end(self, trainer: hlstm.Trainer) -> None:
        if trainer.position.step % 3 == 0:
            with torch.no_grad():
                trainer.net.head.weight.mul_(0.5)


def steps_of(step: int, config: hlstm.TrainConfig) -> float:
    """A schedule that is not the usual one."""
    return config.learning_rate / (1 + step)


EVERYTHING = Option(
    {"dropout_head": 0.5, "weight_drop": 0.4, "locked": True, "tied": True},
    {
        "accumulate": 2,
        "ema": 0.8,
        "precision": "bfloat16",
        "reset": 0.4,
        "learning_rate": 0.1,
    },
    lambda: {
        "optimizer": lambda net: torch.optim.NAdam(net.parameters()),
        "schedule": steps_of,
        "callbacks": [
            EarlyStopping(99),
            SampleText(5, "ab", write=lambda text: None),
            Drawing("on_step_end"),
            Shrinking(),
        ],
    },
)
OPTIONS: dict[str, Option] = {
    "nothing more": Option(),
    "an average": Option(config={"ema": 0.8}),
    "resets": Option(config={"reset": 0.5}),
    "a batch in parts": Option(config={"accumulate": 2}),
    "float32": Option(config={"precision": "float32"}),
    "bfloat16": Option(config={"precision": "bfloat16"}),
    "ten evaluations": Option(config={"eval_every": None}),
    "no dropout": Option({"dropout": 0.0}),
    "dropout before the head": Option({"dropout_head": 0.6}),
    "dropped weights": Option({"weight_drop": 0.4}),
    "masks for a window": Option({"locked": True}),
    "a tied head": Option({"tied": True}),
    "early stopping": Option(
        config={"eval_every": 1, "learning_rate": 0.5, "precision": "float32"},
        given=lambda: {"callbacks": [EarlyStopping(8)]},
    ),
    "samples": Option(
        given=lambda: {"callbacks": [SampleText(9, write=lambda text: None)]}
    ),
    **{
        f"numbers drawn {event}": Option(given=partial(drawing, event))
        for event in callbacks.EVENTS
    },
    "weights changed on the way": Option(given=lambda: {"callbacks": [Shrinking()]}),
    "a schedule": Option(given=lambda: {"schedule": steps_of}),
    "plain numbers": Option(
        given=lambda: {"optimizer": lambda net: Plain(net.parameters())}
    ),
    "SGD": with_optimizer("SGD"),
    "momentum": with_optimizer("SGD", momentum=0.9, nesterov=True),
    "Adagrad": with_optimizer("Adagrad"),
    "Adafactor": with_optimizer("Adafactor"),
    "Adamax": with_optimizer("Adamax", betas=(0.8, 0.9)),
    "amsgrad": with_optimizer("AdamW", amsgrad=True, lr=torch.tensor(0.1)),
    "ASGD": with_optimizer("ASGD"),
    "NAdam": with_optimizer("NAdam"),
    "RMSprop": with_optimizer("RMSprop", centered=True, momentum=0.5),
    "Rprop": with_optimizer("Rprop"),
    "everything": EVERYTHING,
}


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*.safetensors"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, but for the lock, by name."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def assert_same(found: Path, wanted: Path) -> None:
    """Two checkpoints hold the same, to the last bit, but for the time it took.

    These are weights, moments, random states, carried state, place, and every loss.
    """
    (ours, here), (theirs, there) = map(files.load_tensors, (found, wanted))
    assert {**here, "seconds": 0} == {**there, "seconds": 0}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without the time it took."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def assert_same_run(found: Path, wanted: Path) -> None:
    """Two folders hold the same files, and these hold the same."""
    assert contents(found).keys() == contents(wanted).keys()
    for name in contents(wanted).keys() - {"metrics.jsonl"}:
        assert_same(found / name, wanted / name)
    assert log(found) == log(wanted)


@pytest.fixture(scope="module", autouse=True)
def signals() -> Iterator[None]:
    """SIGINT acts as in a terminal, and a SIGTERM that nobody takes ends no pytest."""

    def fail(*_: object) -> None:
        raise AssertionError("nobody took SIGTERM")

    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of runs that nothing has stopped, by how often they save."""
    folders = {often: tmp_path_factory.mktemp("whole") for often in (0, 1, 3, 7)}
    for often, folder in folders.items():
        trainer(replace(CONFIG, save_every=often)).fit(*texts(), folder=folder)
    return folders


@pytest.fixture
def whole(wholes: dict[int, Path]) -> Path:
    """The folder of a run of CONFIG that nothing has stopped."""
    return wholes[CONFIG.save_every]


def at_step(
    subject: hlstm.Trainer, step: int, act: Callable[[], Any], training: bool = True
) -> hlstm.Trainer:
    """Act in the middle of a forward pass after `step` steps."""

    def hook(net: torch.nn.Module, *_: object) -> None:
        if subject.position.step == step and net.training == training:
            act()

    subject.net.register_forward_hook(hook)
    return subject


def interrupt(number: int = signal.SIGINT) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


def go_on(folder: Path) -> hlstm.Trainer:
    """Resume a run and finish it; what is drawn in between does not matter."""
    torch.manual_seed(99)
    resumed = hlstm.Trainer.resume(folder, progress=False)
    resumed.fit(*texts(), folder=folder)
    return resumed


# What a run is made of, and where it stands


def test_saving_does_not_change_the_run(whole: Path) -> None:
    apart = trainer()
    history = apart.fit(*texts())
    kept = hlstm.Trainer.resume(whole, progress=False)
    for name in ("loss", "grad_norm", "learning_rate", "val_step", "val_loss"):
        assert getattr(kept.history, name) == getattr(history, name)
    assert history.val_step == [4, 8, 12, 16, 18]
    pairs = zip(kept.net.parameters(), apart.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert kept.position.epoch == apart.position.epoch == 2


@given(
    length=st.integers(8, 60),
    batch_size=st.integers(1, 4),
    sequence_length=st.integers(1, 9),
    seed=st.integers(0, 3),
    skipped=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_supply_of_windows_begins_anywhere(
    length: int, batch_size: int, sequence_length: int, seed: int, skipped: int
) -> None:
    config = hlstm.TrainConfig(batch_size, sequence_length, seed=seed)
    ids = torch.arange(length)
    walk = list(islice(training.training_windows(ids, config), skipped + 6))
    *_, epoch, window = walk[skipped]
    later = training.training_windows(ids, config, epoch, window + 1)
    for ours, theirs in zip(islice(later, 5), walk[skipped + 1 :], strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
        assert ours[2:] == theirs[2:]


@given(
    first=st.integers(0, STEPS - 1),
    second=st.integers(0, STEPS - 1),
    save_every=st.sampled_from([0, 1, 3, 7]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_stopped_run_equals_the_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory,
    wholes: dict[int, Path],
    first: int,
    second: int,
    save_every: int,
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    subject = trainer(replace(CONFIG, save_every=save_every))
    with pytest.raises(TrainingInterrupted):
        at_step(subject, first, interrupt()).fit(*texts(), folder=folder)
    again = hlstm.Trainer.resume(folder, progress=False)
    assert again.position.step == first + 1
    torch.manual_seed(99)
    try:
        at_step(again, second, interrupt()).fit(*texts(), folder=folder)
        assert second <= first
    except TrainingInterrupted:
        go_on(folder)
    assert_same(newest(folder), newest(wholes[save_every]))
    assert_same(folder / "best.safetensors", wholes[save_every] / "best.safetensors")


def test_a_resumed_trainer_needs_no_folder(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path)
    before = contents(tmp_path)
    resumed = hlstm.Trainer.resume(tmp_path, progress=False)
    history = resumed.fit(*texts())
    assert contents(tmp_path) == before
    assert history.loss == hlstm.Trainer.resume(whole).history.loss
    # As with any trainer, the next call runs the schedule once more.
    assert len(resumed.fit(*texts()).loss) == STEPS
    assert resumed.history.loss != history.loss


def test_a_subclass_resumes_as_itself(whole: Path) -> None:
    class Mine(hlstm.Trainer):
        pass

    assert type(Mine.resume(whole, progress=False)) is Mine
    assert type(hlstm.Trainer.resume(whole)) is hlstm.Trainer


def test_a_run_branches_into_another_folder(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path / "one")
    before = contents(tmp_path / "one")
    resumed = hlstm.Trainer.resume(tmp_path / "one", progress=False)
    resumed.fit(*texts(), folder=tmp_path / "two")
    assert contents(tmp_path / "one") == before
    assert_same(newest(tmp_path / "two"), newest(whole))


def test_a_run_is_in_its_folder_from_the_start(tmp_path: Path) -> None:
    def crash() -> None:
        raise SystemError("a crash")

    subject = at_step(trainer(replace(CONFIG, save_every=0)), 1, crash)
    with pytest.raises(SystemError):
        subject.fit(*texts(), folder=tmp_path)
    resumed = hlstm.Trainer.resume(tmp_path, progress=False)
    assert resumed.position == training.Position()
    with pytest.raises(SystemError):
        at_step(resumed, 1, crash).fit(*texts(), folder=tmp_path)
    assert go_on(tmp_path).position.step == STEPS


def test_a_moved_run_goes_on(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    go_on(tmp_path / "two")
    assert_same_run(tmp_path / "two", whole)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    history = trainer().fit(*texts(), folder=tmp_path)
    before = contents(tmp_path)
    resumed = go_on(tmp_path)
    assert resumed.history.loss == history.loss
    assert resumed.position.step == STEPS
    assert contents(tmp_path) == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_and_an_infinite_limit_come_back(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    losses = []
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        subject = trainer(replace(CONFIG, max_norm=float("inf")))
        subject.net.to(dtype)
        if folder.name == "stopped":
            with pytest.raises(TrainingInterrupted):
                at_step(subject, 5, interrupt()).fit(texts()[0], folder=folder)
            subject = hlstm.Trainer.resume(folder, progress=False)
        losses.append(subject.fit(texts()[0], folder=folder).loss)
        assert subject.net.head.weight.dtype == dtype
        assert subject.config.max_norm == float("inf")
    assert losses[0] == losses[1]


def test_the_newest_stay_and_the_best(tmp_path: Path) -> None:
    subject = trainer(replace(CONFIG, eval_every=1, learning_rate=0.3))
    history = subject.fit(*texts(), folder=tmp_path)
    assert sorted(contents(tmp_path)) == [
        "best.safetensors",
        "metrics.jsonl",
        "step-00000015.safetensors",
        "step-00000018.safetensors",
    ]
    best = hlstm.load_run(tmp_path, best=True)
    assert min(history.val_loss) < history.val_loss[-1]
    assert hlstm.evaluate(best, texts()[1], 2) == min(history.val_loss)
    last = hlstm.load_run(tmp_path)
    assert hlstm.evaluate(last, texts()[1], 2) == history.val_loss[-1]
    assert not best.training and not last.training


def test_what_is_told_about_a_run(tmp_path: Path) -> None:
    history = trainer().fit(*texts(), folder=tmp_path)
    info = json.loads(json.dumps(runs.run_info(tmp_path)))
    best = min(history.val_loss)
    assert info["config"]["steps"] == info["step"] == STEPS
    assert info["loss"] == history.loss[-1]
    assert info["val_loss"] == history.val_loss[-1]
    assert info["best_val_loss"] == best
    assert info["best_step"] == history.val_step[history.val_loss.index(best)]
    assert "".join(info["vocabulary"]) == "abcde"
    assert info["hidden_size"] == 3 and info["num_layers"] == 2
    assert info["parameters"] == sum(
        p.numel() for p in hlstm.load_run(tmp_path).parameters()
    )
    assert info["versions"]["torch"] == torch.__version__
    assert set(info["files"].values()) == {"valid"} and len(info["files"]) == 3


def test_a_run_without_held_out_text_has_no_best(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 0, interrupt()).fit(texts()[0], folder=tmp_path)
    assert runs.run_info(tmp_path)["best_val_loss"] is None
    with pytest.raises(FileNotFoundError, match="where fit is given val_ids"):
        hlstm.load_run(tmp_path, best=True)


# Every option


def crash() -> None:
    """Stands for what ends a process in the middle of a step: nothing is saved."""
    raise SystemError("a crash")


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_survives_two_crashes(tmp_path: Path, name: str) -> None:
    option = OPTIONS[name]
    uninterrupted = option.begin()
    uninterrupted.fit(*texts(), folder=tmp_path / "whole")
    subject, folder = option.begin(), tmp_path / "run"
    for step in (5, 10):
        with pytest.raises(SystemError):
            at_step(subject, step, crash).fit(*texts(), folder=folder)
        assert newest(folder).name == runs.checkpoint_name(step // 3 * 3)
        subject = option.resume(folder)
    subject.fit(*texts(), folder=folder)
    assert_same_run(folder, tmp_path / "whole")
    for ours, theirs in zip(
        subject.net.parameters(), uninterrupted.net.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    histories = [replace(t.history, seconds=0) for t in (subject, uninterrupted)]
    assert histories[0] == histories[1]
    assert subject.stopped == uninterrupted.stopped
    early = name == "early stopping"
    assert (subject.stopped is not None) == (subject.position.step < STEPS) == early


# Signals


SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_says_how_to_resume(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    folder = tmp_path / "my run"
    with pytest.raises(TrainingInterrupted) as caught:
        at_step(trainer(), 7, interrupt(number)).fit(*texts(), folder=folder)
    message = str(caught.value)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.signal == number
    assert message.startswith(f"stopped by {signal.Signals(number).name} after step 8")
    assert str(newest(folder)) in message
    assert f"Trainer.resume({str(folder)!r}).fit(train_ids, val_ids, " in message
    assert message.endswith(f"hlstm train --resume --out '{folder}'")
    assert signal.getsignal(number) is before
    assert newest(folder).name == "step-00000008.safetensors"


class Clock:
    """Stands for the module time: it shows what a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hlstm.trainer, "time", clock)
    return clock


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.9])
def test_a_second_signal_right_after_the_first_is_the_same_wish(
    tmp_path: Path, whole: Path, clock: Clock, second: int, pause: float
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        clock.now += pause
        signal.raise_signal(second)

    with pytest.raises(TrainingInterrupted, match="by SIGINT after step 8") as caught:
        at_step(trainer(), 7, twice).fit(*texts(), folder=tmp_path)
    assert caught.value.signal == signal.SIGINT
    assert newest(tmp_path).name == "step-00000008.safetensors"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    go_on(tmp_path)
    assert_same(newest(tmp_path), newest(whole))


def test_a_second_signal_does_not_tear_the_save(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def again(number: int) -> None:
        clock.now += 0.05
        signal.raise_signal(signal.SIGINT)
        sync(number)

    def first() -> None:
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(os, "fsync", again)

    with pytest.raises(TrainingInterrupted, match="after step 8"):
        at_step(trainer(), 7, first).fit(*texts(), folder=tmp_path)
    assert newest(tmp_path).name == "step-00000008.safetensors"


def test_a_later_second_signal_interrupts_at_once(tmp_path: Path, clock: Clock) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        clock.now += 1.1
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        at_step(trainer(), 7, twice).fit(*texts(), folder=tmp_path)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert newest(tmp_path).name == "step-00000006.safetensors"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_leaves_an_evaluation_at_once(tmp_path: Path, whole: Path) -> None:
    subject = at_step(trainer(), 8, interrupt(), training=False)
    with pytest.raises(TrainingInterrupted, match="after step 8"):
        subject.fit(*texts(), folder=tmp_path)
    assert subject.history.val_step == [4] and len(subject.history.val_loss) == 1
    assert subject.net.training
    # The evaluation that was cut off comes first, and may be cut off again.
    again = hlstm.Trainer.resume(tmp_path, progress=False)
    again = at_step(again, 8, interrupt(), training=False)
    with pytest.raises(TrainingInterrupted, match="after step 8"):
        again.fit(*texts(), folder=tmp_path)
    go_on(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_signal_in_the_last_evaluation_is_made_up_for(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(TrainingInterrupted, match=f"after step {STEPS}"):
        at_step(trainer(), STEPS, interrupt(), training=False).fit(
            *texts(), folder=tmp_path
        )
    assert len(go_on(tmp_path).history.val_loss) == 5
    assert_same_run(tmp_path, whole)


def test_a_signal_after_the_last_step_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        """A bar that is closed as a signal comes."""

        def __init__(self, total: int, shown: bool, done: int) -> None:
            self.steps = range(done, total)

        def __enter__(self) -> "Late":
            return self

        def __iter__(self) -> Iterator[int]:
            return iter(self.steps)

        def __exit__(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

        def set_postfix(self, **_: object) -> None:
            pass

    monkeypatch.setattr(hlstm.trainer, "progress_bar", Late)
    with pytest.raises(TrainingInterrupted, match=f"step {STEPS} of {STEPS}"):
        trainer().fit(*texts(), folder=tmp_path)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        subject = at_step(trainer(), 7, interrupt())
        assert len(subject.fit(*texts(), folder=tmp_path).loss) == STEPS
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    except KeyboardInterrupt as stop:
        raise AssertionError("the signal was not ignored") from stop
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_trains_without_handlers(tmp_path: Path, whole: Path) -> None:
    handlers: list[object] = []
    subject = at_step(
        trainer(), 7, lambda: handlers.append(signal.getsignal(signal.SIGINT))
    )
    thread = threading.Thread(
        target=subject.fit, args=texts(), kwargs={"folder": tmp_path}
    )
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
    assert_same_run(tmp_path, whole)


def test_without_a_folder_ctrl_c_is_ctrl_c() -> None:
    subject = at_step(trainer(), 7, interrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        subject.fit(*texts())
    assert not isinstance(caught.value, TrainingInterrupted)
    assert len(subject.history.loss) == len(subject.history.grad_norm) == 7
    assert subject.net.generate_text("abc", 5, seed=0).startswith("abc")
    assert len(trainer().fit(*texts()).loss) == STEPS


# SIGKILL


class Bomb:
    """Kills the process at the n-th line of hlstm that runs; counts them all."""

    files = {
        str(ROOT / "hlstm" / f"{m}.py")
        for m in ("training", "runs", "trainer", "files", "callbacks", "snapshot")
    }

    def __init__(self, moment: int) -> None:
        self.moment, self.count = moment, 0
        self.saving: list[int] = []
        self.torn: list[int] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)
            name = frame.f_code.co_name
            if name in ("save_tensors", "replace_file", "_prune", "on_evaluation"):
                self.saving.append(self.count)
            if name == "replace_file" and "file" in frame.f_locals:
                self.torn.append(self.count)
        return self


def job(folder: str, moment: int, name: str) -> dict[str, Any]:
    """Train in a folder, from where it stands, to the end or until the bomb goes off."""
    try:
        subject = OPTIONS[name].resume(folder)
    except FileNotFoundError:
        subject = OPTIONS[name].begin()
    bomb = Bomb(moment)
    sys.settrace(bomb)
    subject.fit(*texts(), folder=folder)
    sys.settrace(None)
    return {"count": bomb.count, "saving": bomb.saving, "torn": bomb.torn}


def serve() -> None:
    """Fork for each job that comes in, and answer how it ended."""
    trainer().fit(*texts())  # imports what torch imports late
    for line in sys.stdin:
        ends, starts = os.pipe()
        if (child := os.fork()) == 0:
            os.write(starts, json.dumps(job(*json.loads(line))).encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os.close(starts)
        with os.fdopen(ends) as pipe:
            answer = json.loads(pipe.read() or "null")
        print(json.dumps([os.waitstatus_to_exitcode(status), answer]), flush=True)


Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a job in a process of its own; gives its exit code and its answer."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.library.test_trainer_resume"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin and process.stdout
        feed, answers = process.stdin, process.stdout

        def ask(
            folder: Path, moment: int = 0, name: str = "nothing more"
        ) -> tuple[int, Any]:
            print(json.dumps([str(folder), moment, name]), file=feed, flush=True)
            code, answer = json.loads(answers.readline())
            return code, answer

        yield ask
        feed.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_20_moments_a_run_goes_on_bit_by_bit(
    tmp_path: Path, run: Run
) -> None:
    code, lines = run(tmp_path / "whole", 0)
    assert code == 0
    choose = random.Random(0)
    moments = [choose.randrange(1, lines["count"]) for _ in range(10)]
    moments += choose.sample(lines["saving"], 5) + choose.sample(lines["torn"], 5)
    torn = 0
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        code, _ = run(folder, moment)
        assert code == -signal.SIGKILL
        torn += any(folder.glob(".*.tmp"))
        code, _ = run(folder, 0)
        assert code == 0
        assert_same_run(folder, tmp_path / "whole")
    assert torn >= 3  # some were killed between the two names of a file


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_a_run_ends_bit_by_bit(tmp_path: Path, run: Run) -> None:
    code, lines = run(tmp_path / "whole", 0)
    choose, kills = random.Random(1), 0
    while code := run(tmp_path / "run", choose.randrange(1, lines["count"] // 2))[0]:
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_with_everything_on_a_run_goes_on_bit_by_bit(
    tmp_path: Path, run: Run
) -> None:
    code, lines = run(tmp_path / "whole", 0, "everything")
    assert code == 0
    choose = random.Random(2)
    moments = [choose.randrange(1, lines["count"]) for _ in range(2)]
    moments += choose.sample(lines["saving"], 1) + choose.sample(lines["torn"], 1)
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        code, _ = run(folder, moment, "everything")
        assert code == -signal.SIGKILL
        code, _ = run(folder, 0, "everything")
        assert code == 0
        assert_same_run(folder, tmp_path / "whole")


if __name__ == "__main__":
    serve()
