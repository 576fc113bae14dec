"""What a trainer can be given: an optimiser, a schedule, averaged weights, more steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hlstm
from hlstm import files, runs, training
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.runs import TrainingInterrupted
from tests.library.test_trainer_resume import (
    CONFIG,
    STEPS,
    Option,
    assert_same,
    at_step,
    contents,
    go_on,
    interrupt,
    log,
    newest,
    signals,
    steps_of,
    texts,
    trainer,
)

assert signals  # a fixture of this module too


def sgd(net: hlstm.DeepRNN) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)


def nadam(net: hlstm.DeepRNN) -> torch.optim.Optimizer:
    return torch.optim.NAdam(net.parameters())


def weights(net: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def stopped(folder: Path, option: Option, step: int = 7) -> None:
    """Begin a run, and stop it."""
    with pytest.raises(TrainingInterrupted):
        at_step(option.begin(), step, interrupt()).fit(*texts(), folder=folder)


# The optimiser


def test_a_function_and_an_optimizer_are_the_same() -> None:
    by_function = Option(given=lambda: {"optimizer": sgd}).begin()
    losses = by_function.fit(*texts()).loss
    net = trainer().net
    torch.manual_seed(1)
    by_itself = hlstm.Trainer(net, CONFIG, optimizer=sgd(net), progress=False)
    assert losses == by_itself.fit(*texts()).loss
    assert isinstance(by_function.optimizer, torch.optim.SGD)
    assert by_function.history.loss != trainer().fit(*texts()).loss


def test_an_optimizer_that_was_given_comes_back_by_its_function(tmp_path: Path) -> None:
    def begin() -> hlstm.Trainer:
        net = trainer().net
        torch.manual_seed(1)
        return hlstm.Trainer(net, CONFIG, optimizer=sgd(net), progress=False)

    begin().fit(*texts(), folder=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        at_step(begin(), 7, interrupt()).fit(*texts(), folder=tmp_path / "run")
    with pytest.raises(
        InvalidValueError,
        match=r"another optimizer: torch.optim.sgd.SGD over \[10\] parameters, .*AdamW "
        r".*Trainer.resume\(folder, optimizer=function\)",
    ):
        hlstm.Trainer.resume(tmp_path / "run")
    torch.manual_seed(99)
    resumed = hlstm.Trainer.resume(tmp_path / "run", optimizer=sgd, progress=False)
    resumed.fit(*texts(), folder=tmp_path / "run")
    assert_same(newest(tmp_path / "run"), newest(tmp_path / "whole"))


WRONG: dict[str, tuple[Callable[[hlstm.DeepRNN], Any], type[Exception], str]] = {
    "a class": (
        lambda net: torch.optim.SGD,
        InvalidTypeError,
        "lambda net: torch.optim.SGD.*, and got SGD",
    ),
    "a name": (lambda net: "sgd", InvalidTypeError, "a function of the network.*'sgd'"),
    "a function that returns none": (
        lambda net: lambda net: None,
        InvalidTypeError,
        "returned a NoneType",
    ),
    "a scaler": (
        lambda net: torch.amp.GradScaler("cpu"),
        InvalidTypeError,
        'GradScaler, which scales losses for float16.*precision="bfloat16"',
    ),
    "of another network": (
        lambda net: sgd(trainer().net),
        InvalidValueError,
        "not, or no longer, one of the network",
    ),
    "over half of the network": (
        lambda net: torch.optim.SGD(net.head.parameters()),
        InvalidValueError,
        "leaves out lstm.weight_ih_l0, which learns",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_optimizer_of_the_network_is_refused(what: str) -> None:
    make, kind, words = WRONG[what]
    net = trainer().net
    with pytest.raises(kind, match=words):
        hlstm.Trainer(net, CONFIG, optimizer=make(net))


def test_at_resume_an_optimizer_cannot_be_there_yet(tmp_path: Path) -> None:
    stopped(tmp_path, Option(given=lambda: {"optimizer": sgd}))
    with pytest.raises(InvalidTypeError, match="a function of the network"):
        hlstm.Trainer.resume(tmp_path, optimizer=sgd(trainer().net))  # type: ignore[arg-type]


def test_an_error_in_the_function_is_not_the_fault_of_the_files(tmp_path: Path) -> None:
    def failing(net: hlstm.DeepRNN) -> torch.optim.Optimizer:
        raise ValueError("mine")

    stopped(tmp_path, Option(given=lambda: {"optimizer": sgd}))
    with pytest.raises(ValueError, match="^mine$"):
        hlstm.Trainer.resume(tmp_path, optimizer=failing)


def test_a_memory_that_no_file_holds_is_refused_after_one_step(tmp_path: Path) -> None:
    class Remembering(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["seen"] = [1, 2, 3]
            return super().step(closure)

    option = Option(
        given=lambda: {"optimizer": lambda net: Remembering(net.parameters())}
    )
    subject = option.begin()
    with pytest.raises(InvalidValueError, match="Remembering remembers seen, a list"):
        subject.fit(*texts(), folder=tmp_path)
    assert subject.position.step == 1
    assert len(option.begin().fit(*texts()).loss) == STEPS  # where nothing is kept


def test_settings_that_no_file_holds_are_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    subject = trainer()
    subject.optimizer.param_groups[0]["note"] = object()
    with pytest.raises(InvalidValueError, match="can be resumed.*JSON serializable"):
        subject.fit(*texts(), folder=tmp_path)
    assert subject.history.loss == []


FORGED: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "a part too many": lambda t, d: t.update({"optimizer.0.more": torch.zeros(3)}),
    "a part too few": lambda t, d: t.pop("optimizer.0.exp_avg"),
    "another shape": lambda t, d: t.update({"optimizer.0.exp_avg": torch.zeros(3)}),
    "a parameter too many": lambda t, d: t.update(
        {"optimizer.99.exp_avg": torch.zeros(3)}
    ),
    "one before the first": lambda t, d: t.update(
        {k.replace(".9.", ".-1."): t.pop(k) for k in list(t) if "optimizer.9." in k}
    ),
    "no name": lambda t, d: t.update({"optimizer.x": torch.zeros(3)}),
    "a number for a tensor": lambda t, d: (
        t.pop("optimizer.0.exp_avg"),
        d["optimizer"]["numbers"].update({"0.exp_avg": 1.0}),
    ),
    "no settings": lambda t, d: d["optimizer"].update(groups=["fast"]),
    "a foreign name": lambda t, d: d["optimizer"]["groups"][0]["params"].append("none"),
    "nothing": lambda t, d: d.pop("optimizer"),
    "a list": lambda t, d: d.update(optimizer=[1]),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_memory_is_damage(tmp_path: Path, what: str) -> None:
    stopped(tmp_path, Option(given=lambda: {"optimizer": nadam}))
    last = newest(tmp_path)
    tensors, description = files.load_tensors(last)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    FORGED[what](tensors, description)
    files.save_tensors(last, tensors, description)
    with pytest.warns(RuntimeWarning, match="step-00000008.* Falling back to"):
        resumed = hlstm.Trainer.resume(tmp_path, optimizer=nadam, progress=False)
    assert resumed.position.step == 6


# The schedule


def test_the_schedule_is_followed_and_noted() -> None:
    history = Option(given=lambda: {"schedule": steps_of}).begin().fit(*texts())
    assert history.learning_rate == [
        CONFIG.learning_rate / (1 + k) for k in range(STEPS)
    ]
    usual = trainer().fit(*texts()).learning_rate
    assert usual == [training.learning_rate_at(k, CONFIG) for k in range(STEPS)]


@pytest.mark.parametrize("rate", [np.float32(0.5), torch.tensor(0.5), 1])
def test_a_rate_may_be_any_number(tmp_path: Path, rate: Any) -> None:
    option = Option(given=lambda: {"schedule": lambda step, config: rate})
    option.begin().fit(*texts(), folder=tmp_path)
    assert option.resume(tmp_path).history.learning_rate == [float(rate)] * STEPS


@pytest.mark.parametrize("rate", [-0.1, float("nan"), "fast", None])
def test_what_is_no_rate_is_refused(tmp_path: Path, rate: Any) -> None:
    def odd(step: int, config: hlstm.TrainConfig) -> Any:
        return rate if step == 7 else 0.01

    subject = Option(given=lambda: {"schedule": odd}).begin()
    with pytest.raises(
        (InvalidTypeError, InvalidValueError), match="schedule.step, con"
    ):
        subject.fit(*texts(), folder=tmp_path)
    assert subject.position.step == 7
    assert newest(tmp_path).name == runs.checkpoint_name(6)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="schedule is a function of step and"):
        hlstm.Trainer(trainer().net, CONFIG, schedule=0.1)  # type: ignore[arg-type]


def test_a_run_that_had_a_schedule_is_not_resumed_without_one(tmp_path: Path) -> None:
    option = Option(given=lambda: {"schedule": steps_of})
    stopped(tmp_path, option)
    with pytest.raises(
        InvalidValueError, match="a schedule of its own, .*steps_of: give it"
    ):
        hlstm.Trainer.resume(tmp_path)
    # Who gives another means it.
    given = hlstm.Trainer.resume(tmp_path, schedule=lambda *_: 0.001, progress=False)
    given.fit(*texts(), folder=tmp_path)
    assert given.history.learning_rate[8:] == [0.001] * 10


# Averaged weights


def test_the_trainer_averages_as_training_does(tmp_path: Path) -> None:
    config = replace(CONFIG, ema=0.8, reset=0.3, accumulate=2)
    plain = trainer(config).net
    torch.manual_seed(1)
    wanted = training.train(plain, texts()[0], config, texts()[1], progress=False)
    subject = trainer(config)
    history = subject.fit(*texts())
    assert replace(history, seconds=0) == replace(wanted, seconds=0)
    assert_equal(weights(subject.net), weights(plain))


def test_an_average_is_judged_kept_and_left_in_the_network(tmp_path: Path) -> None:
    raw: list[list[torch.Tensor]] = []

    class Watch:
        def on_fit_end(self, trainer: hlstm.Trainer) -> None:
            raw.append(weights(trainer.net))

    option = Option(
        config={"ema": 0.9, "eval_every": 1}, given=lambda: {"callbacks": [Watch()]}
    )
    subject = option.begin()
    history = subject.fit(*texts(), folder=tmp_path)
    average = weights(subject.net)
    assert not torch.equal(average[0], raw[0][0])
    assert hlstm.evaluate(subject.net, texts()[1], 2) == history.val_loss[-1]
    assert hlstm.evaluate(subject.judged, texts()[1], 2) == history.val_loss[-1]
    assert_equal(weights(hlstm.load_run(tmp_path)), average)
    best = hlstm.load_run(tmp_path, best=True)
    assert hlstm.evaluate(best, texts()[1], 2) == min(history.val_loss)
    resumed = hlstm.Trainer.resume(tmp_path, progress=False)
    assert_equal(weights(resumed.net), raw[0])
    assert_equal(weights(resumed.judged), average)
    before = contents(tmp_path)
    resumed.fit(*texts(), folder=tmp_path)
    assert_equal(weights(resumed.net), average)
    assert contents(tmp_path) == before


def test_without_an_average_the_network_itself_is_judged() -> None:
    subject = trainer()
    assert subject.judged is subject.net and subject.average is None


# More steps, or fewer


def test_a_finished_run_is_extended(tmp_path: Path) -> None:
    first = trainer()
    first.fit(*texts(), folder=tmp_path)
    torch.manual_seed(99)
    longer = hlstm.Trainer.resume(tmp_path, steps=30, progress=False)
    history = longer.fit(*texts(), folder=tmp_path)
    assert longer.config == replace(CONFIG, steps=30) and longer.position.step == 30
    assert history.loss[:STEPS] == first.history.loss
    rates = [training.learning_rate_at(k, longer.config) for k in range(STEPS, 30)]
    assert history.learning_rate[STEPS:] == rates
    assert [line["step"] for line in log(tmp_path)] == [
        4,
        8,
        12,
        16,
        18,
        20,
        24,
        28,
        30,
    ]
    assert runs.run_info(tmp_path)["config"]["steps"] == 30
    # The same steps as those of a run that was planned as long, but for the rates.
    planned = trainer(longer.config).fit(*texts())
    assert planned.loss[:2] == history.loss[:2] and planned.val_step[-1] == 30


def test_an_extended_run_survives_a_crash_and_remembers_its_length(
    tmp_path: Path,
) -> None:
    for folder in (tmp_path / "whole", tmp_path / "run"):
        stopped(folder, Option())
        torch.manual_seed(99)
        longer = hlstm.Trainer.resume(folder, steps=30, progress=False)
        if folder.name == "whole":
            longer.fit(*texts(), folder=folder)
            continue
        # Already before the first step.
        with pytest.raises(KeyboardInterrupt):
            at_step(longer, 8, lambda: (_ for _ in ()).throw(KeyboardInterrupt)).fit(
                *texts(), folder=folder
            )
        assert newest(folder).name == runs.checkpoint_name(8)
        assert go_on(folder).position.step == 30
    assert_same(newest(tmp_path / "run"), newest(tmp_path / "whole"))


def test_a_run_is_shortened(tmp_path: Path) -> None:
    stopped(tmp_path, Option())
    shorter = hlstm.Trainer.resume(tmp_path, steps=8, progress=False)
    history = shorter.fit(*texts(), folder=tmp_path)
    assert len(history.loss) == 8 and history.val_step == [4, 8]
    assert runs.run_info(tmp_path)["config"]["steps"] == 8
    assert go_on(tmp_path).position.step == 8


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(7, InvalidValueError), (0, InvalidValueError), ("9", TypeError)],
)
def test_a_run_cannot_be_shorter_than_it_is(
    tmp_path: Path, steps: Any, kind: type[Exception]
) -> None:
    stopped(tmp_path, Option())
    before = contents(tmp_path)
    with pytest.raises(kind, match="steps is an integer, 8 or larger"):
        hlstm.Trainer.resume(tmp_path, steps=steps)
    assert contents(tmp_path) == before


def test_only_the_steps_that_were_asked_for_may_differ(tmp_path: Path) -> None:
    stopped(tmp_path, Option())
    resumed = hlstm.Trainer.resume(tmp_path, steps=30, progress=False)
    resumed.config = replace(resumed.config, steps=31)
    with pytest.raises(InvalidValueError, match="steps was 30, is 31"):
        resumed.fit(*texts(), folder=tmp_path)
    resumed.config = replace(resumed.config, steps=30, seed=3)
    with pytest.raises(InvalidValueError, match="seed was 0, is 3"):
        resumed.fit(*texts(), folder=tmp_path)


def test_another_precision_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hlstm.snapshot, "pick_precision", lambda name, net: "bfloat16")
    stopped(tmp_path, Option())
    monkeypatch.setattr(hlstm.snapshot, "pick_precision", lambda name, net: "float32")
    with pytest.warns(RuntimeWarning, match="precision bfloat16 then, float32 now"):
        hlstm.Trainer.resume(tmp_path, progress=False)


# What a step costs


def test_between_two_steps_nothing_waits_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read of a number is a wait. The one of a step is within `next_step`."""
    reads: list[str] = []
    counts: list[int] = []

    class Reading(TorchDispatchMode):
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(word in str(call) for word in ("_local_scalar", "nonzero", "equal")):
                reads.append(str(call))
            return call(*args, **kwargs or {})

    class Watch:
        def on_step_end(self, trainer: hlstm.Trainer) -> None:
            counts.append(len(reads))
            reads.clear()

    def step(*given: Any) -> Any:
        counts.append(len(reads))
        try:
            return training.next_step(*given)
        finally:
            reads.clear()

    to_list = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        reads.append("tolist")
        return to_list(tensor)

    monkeypatch.setattr(hlstm.trainer, "next_step", step)
    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    config = {"ema": 0.8, "reset": 0.3, "accumulate": 2, "save_every": 0}
    option = Option(config=config, given=lambda: {"callbacks": [Watch()]})
    with Reading():
        option.begin().fit(texts()[0], folder=tmp_path)
    before, *others = counts
    assert before > 0 and others == [0] * (2 * STEPS - 1)
