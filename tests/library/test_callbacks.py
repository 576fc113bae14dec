"""What watches a run: told in order, deriving what it remembers from the run's history."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hlstm
from hlstm import callbacks, runs
from hlstm.callbacks import (
    EarlyStopping,
    KeepBest,
    KeepCheckpoints,
    LogFile,
    SampleText,
    TensorBoard,
    TimeLimit,
    is_best,
    metrics,
)
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.runs import TrainingInterrupted
from hlstm.training import History
from tests.library.test_trainer_resume import (
    CONFIG,
    STEPS,
    Clock,
    Option,
    assert_same,
    assert_same_run,
    at_step,
    clock,
    contents,
    crash,
    go_on,
    interrupt,
    log,
    newest,
    signals,
    texts,
    trainer,
)

assert signals and clock  # fixtures of this module too


def told(*callbacks: object, **config: Any) -> hlstm.Trainer:
    """A trainer with callbacks."""
    return Option(config=config, given=lambda: {"callbacks": callbacks}).begin()


# The protocol


class Recorder:
    """Notes every event, and the step it came after."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Callable[[hlstm.Trainer], None]:
        if name not in callbacks.EVENTS:
            raise AttributeError(name)
        return lambda trainer: self.seen.append((name, trainer.position.step))


def test_events_come_in_order() -> None:
    recorder = Recorder()
    told(recorder, steps=4, eval_every=2).fit(*texts())
    assert recorder.seen == [
        ("on_fit_start", 0),
        ("on_step_end", 1),
        ("on_evaluation", 2),
        ("on_step_end", 2),
        ("on_step_end", 3),
        ("on_evaluation", 4),
        ("on_step_end", 4),
        ("on_fit_end", 4),
    ]


def test_a_resumed_run_tells_only_what_is_new(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 15, interrupt()).fit(*texts(), folder=tmp_path)
    recorder = Recorder()
    resumed = hlstm.Trainer.resume(tmp_path, callbacks=[recorder], progress=False)
    resumed.fit(*texts(), folder=tmp_path)
    assert recorder.seen == [
        ("on_fit_start", 16),
        ("on_step_end", 17),
        ("on_evaluation", 18),
        ("on_step_end", 18),
        ("on_fit_end", 18),
    ]


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (TimeLimit, r"TimeLimit is a class: write TimeLimit\(\)"),
        (print, "on_evaluation, on_fit_end, and a builtin.* has none"),
        (object(), "a object has none"),
    ],
)
def test_what_is_no_callback_is_refused(callback: object, words: str) -> None:
    with pytest.raises(InvalidTypeError, match=words):
        hlstm.Trainer(trainer().net, callbacks=[callback])


@pytest.mark.parametrize("event", callbacks.EVENTS)
def test_a_callback_that_draws_numbers_does_not_change_the_run(event: str) -> None:
    class Drawing:
        def draw(self, trainer: hlstm.Trainer) -> None:
            torch.manual_seed(5)

    setattr(Drawing, event, Drawing.draw)
    history = told(Drawing()).fit(*texts())
    assert history.loss == trainer().fit(*texts()).loss


def test_callbacks_are_told_of_the_numbers_of_now(clock: Clock) -> None:
    seen: list[tuple[float, int, float]] = []

    class Watch:
        def on_step_end(self, trainer: hlstm.Trainer) -> None:
            history = trainer.history
            seen.append((history.seconds, len(history.loss), history.loss[-1]))
            clock.now += 2

    subject = told(Watch())
    history = subject.fit(*texts())
    assert seen == [(2 * k, k + 1, history.loss[k]) for k in range(STEPS)]
    assert history.seconds == 2 * STEPS


@pytest.mark.parametrize("event", callbacks.EVENTS)
def test_an_error_in_a_callback_loses_no_step(tmp_path: Path, event: str) -> None:
    class Failing:
        def fail(self, trainer: hlstm.Trainer) -> None:
            if event in ("on_fit_start", "on_fit_end") or trainer.position.step == 8:
                raise RuntimeError("failed")

    setattr(Failing, event, Failing.fail)
    trainer().fit(*texts(), folder=tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="failed") as caught:
        told(Failing(), save_every=CONFIG.save_every).fit(*texts(), folder=folder)
    step = {"on_fit_start": 0, "on_fit_end": STEPS}.get(event, 8)
    assert newest(folder).name == runs.checkpoint_name(step)
    assert f"The newest checkpoint is {newest(folder)}." in caught.value.__notes__[0]
    go_on(folder)
    assert_same_run(folder, tmp_path / "whole")


def test_what_a_callback_changes_is_in_the_checkpoint(tmp_path: Path) -> None:
    class Zeroing:
        def on_step_end(self, trainer: hlstm.Trainer) -> None:
            trainer.net.head.bias.data.zero_()

    told(Zeroing()).fit(*texts(), folder=tmp_path)
    assert not hlstm.load_run(tmp_path).head.bias.any()


# Stopping


class Stopping:
    """Stops a run, at an event after a step, for two reasons."""

    def __init__(self, event: str, step: int) -> None:
        def stop(trainer: hlstm.Trainer) -> None:
            if trainer.position.step == step:
                trainer.stop("enough")
                trainer.stop("too much")

        setattr(self, event, stop)


@pytest.mark.parametrize(
    ("event", "step"),
    [
        ("on_fit_start", 0),
        ("on_step_end", 5),
        ("on_step_end", 8),
        ("on_evaluation", 8),
        ("on_step_end", STEPS),
    ],
)
def test_a_stopped_run_is_evaluated_and_saved(
    tmp_path: Path, event: str, step: int
) -> None:
    subject = told(Stopping(event, step))
    history = subject.fit(*texts(), folder=tmp_path)
    assert subject.stopped == "enough"
    assert subject.position.step == len(history.loss) == step
    assert history.val_step == [*range(4, step, 4), step]
    assert log(tmp_path)[-1]["step"] == step
    assert newest(tmp_path).name == runs.checkpoint_name(step)
    resumed = hlstm.Trainer.resume(tmp_path, progress=False)
    assert resumed.history.val_loss == history.val_loss
    # Nothing stops the run any more.
    resumed.fit(*texts(), folder=tmp_path)
    assert resumed.stopped is None and resumed.position.step == STEPS
    plain = trainer().fit(*texts())
    assert resumed.history.loss == plain.loss
    assert resumed.history.val_loss[-1] == plain.val_loss[-1]


def test_the_next_fit_forgets_that_it_was_stopped() -> None:
    subject = told(Stopping("on_step_end", 5))
    subject.fit(*texts())
    subject.callbacks.clear()
    assert len(subject.fit(*texts()).loss) == STEPS and subject.stopped is None


LOSSES: dict[str, tuple[list[float], bool]] = {
    "none yet": ([], False),
    "falling": ([3, 2, 1], False),
    "one above": ([3, 2, 2.5], False),
    "two above": ([3, 2, 2.5, 2.4], True),
    "two the same": ([3, 2, 2, 2], True),
    "falling again": ([3, 2, 2.5, 1.9], False),
    "far below once": ([1, 3, 2.9], True),
    "nan is no fall": ([3, 2, math.nan, math.nan], True),
    "nan at first": ([math.nan, 2, 3], False),
    "nan alone": ([math.nan, math.nan], True),
    "one nan alone": ([math.nan], False),
}


@pytest.mark.parametrize("name", LOSSES)
def test_early_stopping_waits_for_a_lower_loss(name: str) -> None:
    losses, stops = LOSSES[name]
    subject = trainer()
    subject.history = History(val_step=[*range(len(losses))], val_loss=losses)
    EarlyStopping(2).on_evaluation(subject)
    assert (subject.stopped is not None) == stops
    if stops:
        assert (
            str(subject.stopped) == "the held-out loss has not fallen for 2 evaluations"
        )


def test_early_stopping_needs_held_out_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="give fit val_ids"):
        told(EarlyStopping()).fit(texts()[0])
    for wrong in (0, -1):
        with pytest.raises(InvalidValueError, match="patience is an integer, 1 or"):
            EarlyStopping(wrong)


def test_a_run_that_stopped_early_takes_no_further_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(hlstm.trainer, "evaluate", lambda *_: next(losses))
    told(EarlyStopping(2)).fit(*texts(), folder=tmp_path)
    before = contents(tmp_path)
    again = [EarlyStopping(2)]
    resumed = hlstm.Trainer.resume(tmp_path, callbacks=again, progress=False)
    resumed.fit(*texts(), folder=tmp_path)
    assert resumed.position.step == 16 and resumed.stopped
    assert contents(tmp_path) == before


def test_a_time_limit_counts_the_whole_run(tmp_path: Path, clock: Clock) -> None:
    def slow(subject: hlstm.Trainer) -> hlstm.Trainer:
        def tick(*_: object) -> None:
            clock.now += 15 if subject.net.training else 0

        subject.net.register_forward_hook(tick)
        return subject

    first = slow(told(TimeLimit(1.5)))
    first.fit(*texts(), folder=tmp_path)
    assert first.position.step == 6 and first.stopped == "1.5 minutes are over"
    assert first.history.val_step == [4, 6]
    for minutes, step in ((1.5, 6), (1.75, 7)):
        given = [TimeLimit(minutes)]
        resumed = hlstm.Trainer.resume(tmp_path, callbacks=given, progress=False)
        slow(resumed).fit(*texts(), folder=tmp_path)
        assert resumed.position.step == step
        assert resumed.history.seconds == 15 * step
    with pytest.raises(InvalidValueError, match="minutes is a number above 0"):
        TimeLimit(0)


# The log


def test_a_line_says_what_was_measured(tmp_path: Path, clock: Clock) -> None:
    read: list[int] = []

    class Counting:
        def on_step_end(self, trainer: hlstm.Trainer) -> None:
            clock.now += 1

    subject = told(Counting())
    subject.net.register_forward_hook(
        lambda net, given, out: read.append(given[0].numel()) if net.training else None
    )
    history = subject.fit(*texts(), folder=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12, 16, 18]
    values = json.loads(lines[3])
    assert values == {
        "step": 16,
        "epoch": 2,
        "characters": sum(read[:16]),
        "seconds": 15,
        "learning_rate": history.learning_rate[15],
        "loss": pytest.approx(sum(history.loss[12:16]) / 4, rel=1e-12),
        "grad_norm": pytest.approx(sum(history.grad_norm[12:16]) / 4, rel=1e-12),
        "val_loss": history.val_loss[3],
        "val_bits": pytest.approx(history.val_loss[3] / math.log(2), rel=1e-12),
        "val_perplexity": pytest.approx(math.exp(history.val_loss[3]), rel=1e-12),
    }
    # A table that pandas reads: the same columns in each line, numbers or null.
    assert {tuple(json.loads(line)) for line in lines} == {tuple(values)}


def test_the_step_after_a_pass_counts_from_the_next(tmp_path: Path) -> None:
    """65 characters in 2 streams: passes of 31 a stream, in windows of 6, 6, 6, 6, 6, 1."""
    found = []

    class Watch:
        def on_step_end(self, trainer: hlstm.Trainer) -> None:
            values = metrics(trainer)
            found.append((values["epoch"], values["characters"]))

    told(Watch(), steps=8).fit(texts()[0])
    assert found == [
        (0, 12),
        (0, 24),
        (0, 36),
        (0, 48),
        (0, 60),
        (0, 62),
        (1, 74),
        (1, 86),
    ]


def test_what_was_not_measured_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, math.inf, 800.0])
    monkeypatch.setattr(hlstm.trainer, "evaluate", lambda *_: next(losses))
    told(steps=9).fit(*texts(), folder=tmp_path)
    lines = log(tmp_path)
    assert [line["val_loss"] for line in lines] == [None, None, 800.0]
    assert [line["val_perplexity"] for line in lines] == [None] * 3
    assert lines[2]["val_bits"] == pytest.approx(800 / math.log(2))


def test_without_held_out_text_there_is_no_log(tmp_path: Path) -> None:
    trainer().fit(texts()[0], folder=tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "more",
    [
        b'{"step": 12, "loss": 1.0}\n',
        b'{"step": 8, "loss"',
        b'{"step": 8',
        b"\xff\xfe\n",
        b'[1]\n"step"\nnull\n',
        b'{"step": [4]}\n{"loss": 4}\n',
    ],
)
def test_lines_of_steps_that_come_again_are_cut(tmp_path: Path, more: bytes) -> None:
    trainer().fit(*texts(), folder=tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(SystemError):
        at_step(trainer(), 7, crash).fit(*texts(), folder=folder)
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + more)
    go_on(folder)
    assert_same_run(folder, tmp_path / "whole")


def test_a_line_that_was_written_before_the_crash_is_not_there_twice(
    tmp_path: Path,
) -> None:
    trainer().fit(*texts(), folder=tmp_path / "whole")
    folder = tmp_path / "run"
    with pytest.raises(SystemError):
        at_step(trainer(), 8, crash).fit(*texts(), folder=folder)
    assert [line["step"] for line in log(folder)] == [4, 8]
    assert newest(folder).name == runs.checkpoint_name(6)
    go_on(folder)
    assert_same_run(folder, tmp_path / "whole")


def test_a_log_that_cannot_be_written_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: LogFile, trainer: hlstm.Trainer) -> None:
        if trainer.position.step == 8:
            path = self.path
            self.path = path / "none"
            try:
                write(self, trainer)
            finally:
                self.path = path
        write(self, trainer)

    write = LogFile.on_evaluation
    trainer().fit(*texts(), folder=tmp_path / "whole")
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "on_evaluation", failing)
        with pytest.raises(OSError, match="step 8 could not be saved in .*Not a dir"):
            trainer().fit(*texts(), folder=folder)
    # The evaluation is not in the newest checkpoint, so that it comes again.
    assert newest(folder).name == runs.checkpoint_name(6)
    go_on(folder)
    assert_same_run(folder, tmp_path / "whole")


# The best, and checkpoints without a trainer's folder


def test_the_best_is_the_lowest_and_the_first_of_it() -> None:
    measured = History(val_step=[10, 20, 30], val_loss=[2.0, 1.5, 1.5])
    assert is_best(History(val_step=[10], val_loss=[2.0]), 10)
    assert is_best(History(val_step=[10, 20], val_loss=[2.0, 1.5]), 20)
    assert not is_best(measured, 30) and not is_best(History(), 0)
    assert not is_best(History(val_step=[10], val_loss=[2.0]), 11)
    assert not is_best(History(val_step=[10], val_loss=[math.nan]), 10)
    assert is_best(History(val_step=[1, 2], val_loss=[math.nan, 3.0]), 2)


def test_each_callback_works_by_itself(tmp_path: Path) -> None:
    trainer().fit(*texts(), folder=tmp_path / "whole")
    folders = {kind: tmp_path / kind.__name__ for kind in (KeepBest, LogFile)}
    keep = KeepCheckpoints(tmp_path / "kept")
    for folder in (*folders.values(), tmp_path / "kept"):
        folder.mkdir()
    subject = told(keep, *(kind(folder) for kind, folder in folders.items()))
    with pytest.raises(SystemError):
        at_step(subject, 10, crash).fit(*texts())
    again: list[object] = [KeepCheckpoints(tmp_path / "kept")]
    again += [kind(folder) for kind, folder in folders.items()]
    torch.manual_seed(99)
    hlstm.Trainer.resume(tmp_path / "kept", callbacks=again, progress=False).fit(
        *texts()
    )
    assert_same(newest(tmp_path / "kept"), newest(tmp_path / "whole"))
    name = "best.safetensors"
    assert_same(folders[KeepBest] / name, tmp_path / "whole" / name)
    assert log(folders[LogFile]) == log(tmp_path / "whole")


# Samples


def test_samples_are_those_of_the_judged_network(tmp_path: Path) -> None:
    written: list[str] = []
    wanted: list[str] = []

    class Writing:
        def on_evaluation(self, trainer: hlstm.Trainer) -> None:
            assert trainer.average is not None and trainer.judged is trainer.average
            text = trainer.average.generate_text(
                "ab", 7, 0.5, seed=trainer.position.step
            )
            wanted.append(text)

    given = SampleText(7, "ab", 0.5, write=written.append), Writing()
    history = told(*given, ema=0.9).fit(*texts())
    assert history.loss == told(ema=0.9).fit(*texts()).loss
    assert written == wanted and len(written) == 5
    assert all(text.startswith("ab") and len(text) == 9 for text in written)


def test_a_resumed_run_writes_the_same_samples(tmp_path: Path) -> None:
    whole: list[str] = []
    told(SampleText(20, write=whole.append)).fit(*texts())
    parts: list[str] = []
    with pytest.raises(SystemError):
        at_step(told(SampleText(20, write=parts.append)), 9, crash).fit(
            *texts(), folder=tmp_path
        )
    given = [SampleText(20, write=parts.append)]
    torch.manual_seed(99)
    resumed = hlstm.Trainer.resume(tmp_path, callbacks=given, progress=False)
    resumed.fit(*texts(), folder=tmp_path)
    assert parts == whole


def test_samples_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    told(SampleText(5), eval_every=0).fit(*texts())
    assert len(capsys.readouterr().out) == 6


@pytest.mark.parametrize(
    "wrong", [{"prompt": "z"}, {"temperature": -1.0}, {"length": -1}, {"prompt": ""}]
)
def test_a_sample_that_cannot_be_written_is_refused_before_the_first_step(
    wrong: dict[str, Any],
) -> None:
    subject = told(SampleText(**wrong))
    with pytest.raises(HlstmError):
        subject.fit(*texts())
    assert subject.history.loss == []


# TensorBoard


class Writer:
    """Stands for TensorBoard's."""

    made: list["Writer"] = []

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.points: list[tuple[str, float, int]] = []
        self.flushed, self.closed = 0, False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.points.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """A module that stands for torch.utils.tensorboard; the writers made."""
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def test_tensorboard_gets_every_number_of_an_evaluation(
    tmp_path: Path, tensorboard: list[Writer]
) -> None:
    subject = told(TensorBoard(tmp_path / "board"))
    subject.fit(*texts(), folder=tmp_path / "run")
    (writer,) = tensorboard
    assert writer.folder == str(tmp_path / "board") and writer.purge_step is None
    wanted = [
        (name, value, line["step"])
        for line in log(tmp_path / "run")
        for name, value in line.items()
        if name not in ("step", "seconds")
    ]
    assert [p for p in writer.points if p[0] != "seconds"] == wanted
    assert writer.flushed == 5 and writer.closed


def test_tensorboard_gets_no_point_twice(
    tmp_path: Path, tensorboard: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0] + [math.nan] * 9)
    monkeypatch.setattr(hlstm.trainer, "evaluate", lambda *_: next(losses))
    subject = told(TensorBoard(tmp_path / "board"))
    with pytest.raises(SystemError):
        at_step(subject, 9, crash).fit(*texts(), folder=tmp_path / "run")
    again = [TensorBoard(tmp_path / "board")]
    hlstm.Trainer.resume(tmp_path / "run", callbacks=again, progress=False).fit(
        *texts(), folder=tmp_path / "run"
    )
    first, second = tensorboard
    assert {step for *_, step in first.points} == {4, 8}
    # After step 9 the checkpoint knows of both; what comes later is written over.
    assert second.purge_step == 9
    assert {step for *_, step in second.points} == {12, 16, 18}
    # What is not finite is no point.
    assert [p for p in first.points if p[0] == "val_loss"] == [("val_loss", 1.0, 4)]


def test_without_tensorboard_it_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        InvalidValueError, match="pip install tensorboard.*metrics.jsonl"
    ):
        TensorBoard(tmp_path)
