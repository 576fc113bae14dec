"""What goes wrong with a run: each a clear message, and the last good file intact."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hlstm
from hlstm import files, runs, snapshot
from hlstm.clipping import NonFiniteGradientError
from hlstm.files import CheckpointError
from hlstm.runs import TrainingInterrupted
from hlstm.training import TrainingError
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    trainer().fit(*texts(), folder=folder)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after step 8."""
    folder = tmp_path_factory.mktemp("half")
    with pytest.raises(TrainingInterrupted):
        at_step(trainer(), 7, interrupt()).fit(*texts(), folder=folder)
    return folder


@pytest.fixture
def stopped(half: Path, tmp_path: Path) -> Path:
    """A copy of that folder: checkpoints after step 8 and step 6, and the best."""
    return Path(shutil.copytree(half, tmp_path / "run"))


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Every file of a run is afterwards what it was before."""
    before = contents(folder)
    yield
    assert contents(folder) == before


# The disk


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_with_the_last_good_file_named(
    stopped: Path, whole: Path
) -> None:
    subject = hlstm.Trainer.resume(stopped, progress=False)
    with unchanged(stopped), small_disk(newest(stopped).stat().st_size // 2):
        with pytest.raises(OSError, match="step 9 could not be saved") as caught:
            subject.fit(*texts(), folder=stopped)
    assert caught.value.errno == errno.EFBIG
    assert f"The newest checkpoint is {newest(stopped)}." in str(caught.value)
    assert len(subject.history.loss) == subject.position.step == 9
    go_on(stopped)
    assert_same(newest(stopped), newest(whole))


def test_a_full_disk_at_the_start_stops_before_the_first_step(tmp_path: Path) -> None:
    subject = trainer()
    with small_disk(100), pytest.raises(OSError, match="There is no checkpoint yet"):
        subject.fit(*texts(), folder=tmp_path)
    assert subject.history.loss == [] and contents(tmp_path) == {}
    assert len(subject.fit(*texts(), folder=tmp_path).loss) == STEPS


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_on_interruption_is_told(
    stopped: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        interrupt()()
        monkeypatch.setattr(os, "fsync", no_space)

    subject = at_step(hlstm.Trainer.resume(stopped, progress=False), 9, act)
    with pytest.raises(OSError, match="step 10 .* No space left") as caught:
        subject.fit(*texts(), folder=stopped)
    assert not isinstance(caught.value, KeyboardInterrupt)
    assert "step-00000009" in str(caught.value)
    monkeypatch.undo()
    go_on(stopped)
    assert_same(newest(stopped), newest(whole))


def test_a_best_network_that_cannot_be_saved_is_told(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = trainer()
    at_step(subject, 4, lambda: monkeypatch.setattr(os, "fsync", no_space), False)
    with pytest.raises(OSError, match="step 4 could not be saved .* No space left"):
        subject.fit(*texts(), folder=tmp_path)
    monkeypatch.undo()
    assert sorted(contents(tmp_path)) == [
        f"step-0000000{k}.safetensors" for k in (0, 3)
    ]
    go_on(tmp_path)
    assert_same(tmp_path / "best.safetensors", whole / "best.safetensors")


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    subject = at_step(trainer(), 5, lambda: shutil.rmtree(tmp_path))
    with pytest.raises(OSError, match="step 6 could not be saved .* no folder"):
        subject.fit(*texts(), folder=tmp_path)


def test_older_files_go_only_when_the_new_one_is_there(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", replace_fails)
    with unchanged(stopped), pytest.raises(OSError, match="Input/output error"):
        go_on(stopped)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_refused(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    subject = hlstm.Trainer.resume(stopped, progress=False)
    monkeypatch.setattr(Path, "touch", read_only)
    with unchanged(stopped), pytest.raises(OSError, match="can be written") as caught:
        subject.fit(*texts(), folder=stopped)
    assert caught.value.errno == code and str(stopped) in str(caught.value)


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_file_in_the_place_of_a_folder_is_refused(
    tmp_path: Path, inside: str
) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(NotADirectoryError, match="no run can be kept in"):
        trainer().fit(*texts(), folder=tmp_path / "file" / inside)
    assert (tmp_path / "file").read_text() == "text"


def test_an_old_file_that_cannot_be_removed_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: Path) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(Path, "unlink", busy)
    trainer().fit(*texts(), folder=tmp_path)
    assert len(contents(tmp_path)) == STEPS // 3 + 3


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    shutil.copy(min(path.parent.glob("step-*")), path)


def model(path: Path) -> None:
    trainer().net.save(path)


DAMAGE = {
    truncate: "cut short|no valid safetensors|damaged",
    flip: "SHA-256",
    swap: "holds step 6",
    model: "a model and no checkpoint of a run",
    lambda path: path.write_bytes(b""): "is empty",
    lambda path: path.write_text("text"): "cut short|no safetensors",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.items())
def test_a_damaged_newest_file_falls_back_to_the_one_before(
    stopped: Path, whole: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    last = newest(stopped)
    damage(last)
    with unchanged(stopped):
        with pytest.warns(RuntimeWarning, match=reason) as warned:
            resumed = hlstm.Trainer.resume(stopped, progress=False)
        assert str(last) in str(warned[0].message)
        assert "Falling back to" in str(warned[0].message)
        assert warned[0].filename == __file__
        with pytest.warns(RuntimeWarning, match=reason):
            hlstm.load_run(stopped)
        info = runs.run_info(stopped)
    assert resumed.position.step == info["step"] == 6
    assert info["files"][last.name] != "valid"
    resumed.fit(*texts(), folder=stopped)
    assert_same(newest(stopped), newest(whole))
    files_now = contents(whole).keys() - {"metrics.jsonl"}
    assert runs.run_info(stopped)["files"].keys() == files_now


def test_a_damaged_file_of_a_later_step_goes_with_the_next_save(stopped: Path) -> None:
    later = stopped / "step-00000099.safetensors"
    later.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="is empty"):
        go_on(stopped)
    assert not later.exists()


def test_where_every_file_is_damaged_each_is_named(stopped: Path) -> None:
    for path in stopped.glob("*.safetensors"):
        truncate(path)
    with unchanged(stopped):
        for load in (hlstm.Trainer.resume, hlstm.load_run, runs.run_info):
            with pytest.raises(CheckpointError, match="no checkpoint in") as caught:
                load(stopped)
            assert "step-00000006" in str(caught.value)
            assert "step-00000008" in str(caught.value)
        with pytest.raises(CheckpointError, match="best.safetensors"):
            hlstm.load_run(stopped, best=True)


def test_a_damaged_best_is_told(stopped: Path) -> None:
    flip(stopped / "best.safetensors")
    assert "SHA-256" in runs.run_info(stopped)["files"]["best.safetensors"]


@pytest.mark.parametrize("load", [hlstm.Trainer.resume, hlstm.load_run, runs.run_info])
def test_no_run_is_told(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: begin a run"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder: begin a run"):
        load(tmp_path / "none")


def test_a_file_that_a_running_process_removes_is_passed_over(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished, found = newest(stopped), runs.checkpoints(stopped)
    vanished.unlink()
    monkeypatch.setattr(runs, "checkpoints", lambda folder: found)
    assert hlstm.Trainer.resume(stopped, progress=False).position.step == 6


FORGED: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "no step": lambda t, d: d.pop("step"),
    "a negative pass": lambda t, d: d.update(epoch=-1),
    "a boolean window": lambda t, d: d.update(window=True),
    "a missing loss": lambda t, d: t.update({"history.loss": torch.zeros(3)}),
    "a held-out loss too many": lambda t, d: t.update(
        {"history.val_loss": torch.zeros(9)}
    ),
    "no history": lambda t, d: t.pop("history.val_loss"),
    "an endless step": lambda t, d: t.update(
        {"history.val_step": torch.tensor([float("inf")])}
    ),
    "another configuration": lambda t, d: d["config"].update(speed=1),
    "a text as configuration": lambda t, d: d.update(config="fast"),
    "a list as configuration": lambda t, d: d.update(config=[1]),
    "an impossible size": lambda t, d: d["config"].update(steps=0),
    "a foreign state": lambda t, d: t.update({"state.h": torch.zeros(2, 2, 4)}),
    "half a state": lambda t, d: t.pop("state.c"),
    "foreign moments": lambda t, d: t.update({"optimizer.0.exp_avg": torch.zeros(3)}),
    "missing moments": lambda t, d: t.pop("optimizer.0.exp_avg"),
    "nameless moments": lambda t, d: t.update({"optimizer.x.exp_avg": torch.zeros(3)}),
    "no random state": lambda t, d: t.pop("rng.cpu"),
    "a foreign random state": lambda t, d: t.update({"rng.cpu": torch.zeros(3)}),
    "a short random state": lambda t, d: t.update(
        {"rng.cpu": torch.zeros(3, dtype=torch.uint8)}
    ),
    "no weights": lambda t, d: [t.pop(k) for k in list(t) if k.startswith("net.")],
    "weights that are no numbers": lambda t, d: t["net.head.bias"].fill_(float("nan")),
    "a huge network": lambda t, d: d.update(hidden_size=10**9),
    "no machine": lambda t, d: d.update(machine=None),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_file_is_refused_whatever_its_checksum(
    stopped: Path, what: str
) -> None:
    last = newest(stopped)
    tensors, description = files.load_tensors(last)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    FORGED[what](tensors, description)
    files.save_tensors(last, tensors, description)
    with pytest.warns(RuntimeWarning, match="step-00000008.* Falling back to"):
        resumed = hlstm.Trainer.resume(stopped, progress=False)
    assert resumed.position.step == 6


# Another text, another configuration, another run


def test_another_text_is_refused_with_both_checksums(stopped: Path) -> None:
    train_ids, val_ids = texts()
    resumed = hlstm.Trainer.resume(stopped, progress=False)
    wrong = train_ids.flip(0)
    sums = [snapshot.text_sha256(ids) for ids in (train_ids, wrong)]
    for folder in (stopped, None):
        with unchanged(stopped), pytest.raises(ValueError, match="train_ids") as caught:
            resumed.fit(wrong, val_ids, folder=folder)
        assert all(str(sha) in str(caught.value) for sha in sums)
        assert "begin another run in another folder" in str(caught.value)
    for other in (train_ids, None):
        with pytest.raises(ValueError, match="SHA-256 of val_ids"):
            resumed.fit(train_ids, other, folder=stopped)
    # After all refusals the right texts are still taken.
    assert len(resumed.fit(train_ids, val_ids, folder=stopped).loss) == STEPS


def test_the_checksum_is_that_of_the_integers() -> None:
    ids = texts()[0]
    assert snapshot.text_sha256(ids) == snapshot.text_sha256(ids.to(torch.uint8))
    assert snapshot.text_sha256(ids.repeat(2)[::1][:65]) == snapshot.text_sha256(ids)
    assert snapshot.text_sha256(
        torch.stack([ids, ids], 1)[:, 0]
    ) == snapshot.text_sha256(ids)
    assert snapshot.text_sha256(ids) != snapshot.text_sha256(ids[:-1])


def test_another_configuration_is_refused(stopped: Path) -> None:
    resumed = hlstm.Trainer.resume(stopped, progress=False)
    assert resumed.config == CONFIG
    resumed.config = replace(CONFIG, steps=36)
    with unchanged(stopped), pytest.raises(ValueError, match="steps was 18, is 36"):
        resumed.fit(*texts(), folder=stopped)


def test_another_vocabulary_is_refused(stopped: Path) -> None:
    resumed = hlstm.Trainer.resume(stopped, progress=False)
    assert resumed.net.vocab == hlstm.Vocabulary("abcde")
    resumed.net.vocab = hlstm.Vocabulary("abcdf")
    with unchanged(stopped), pytest.raises(ValueError, match="vocabulary was"):
        resumed.fit(*texts(), folder=stopped)


@pytest.mark.parametrize("left", ["step-00000008.safetensors", "best.safetensors"])
def test_a_new_run_does_not_write_over_another(stopped: Path, left: str) -> None:
    for path in stopped.glob("*.safetensors"):
        if path.name != left:
            path.unlink()
    with unchanged(stopped), pytest.raises(FileExistsError, match="Trainer.resume"):
        trainer().fit(*texts(), folder=stopped)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    mine = ("model.safetensors", ".model.safetensors.0.tmp", "step-1.safetensors")
    torn = (".best.safetensors.0.tmp", ".step-00000003.safetensors.0.tmp")
    for name in mine + torn:
        (tmp_path / name).write_text("text")
    trainer().fit(*texts(), folder=tmp_path)
    assert all((tmp_path / name).read_text() == "text" for name in mine)
    assert not any((tmp_path / name).exists() for name in torn)


def test_a_trainer_that_fell_behind_is_refused(stopped: Path) -> None:
    behind = hlstm.Trainer.resume(stopped, progress=False)
    go_on(stopped)
    with (
        unchanged(stopped),
        pytest.raises(FileExistsError, match="the run has gone on"),
    ):
        behind.fit(*texts(), folder=stopped)


def test_two_processes_do_not_train_into_one_folder(stopped: Path) -> None:
    pytest.importorskip("fcntl")
    refused = []

    def second() -> None:
        # A lock belongs to the opened file, so another one in here is like a process.
        with pytest.raises(BlockingIOError, match="another process is training into"):
            go_on(stopped)
        refused.append(True)

    subject = at_step(hlstm.Trainer.resume(stopped, progress=False), 9, second)
    subject.fit(*texts(), folder=stopped)
    assert refused == [True]


@pytest.mark.parametrize("where", ["platform", "file system"])
def test_where_there_are_no_locks_training_works(
    stopped: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if where == "platform":
        monkeypatch.setattr(runs, "find_spec", lambda name: None)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    go_on(stopped)
    assert_same(newest(stopped), newest(whole))


def test_another_machine_is_told(stopped: Path, whole: Path) -> None:
    last = newest(stopped)
    tensors, description = files.load_tensors(last)
    description["machine"] |= {"threads": 96, "device": "cuda"}
    files.save_tensors(last, tensors, description)
    with pytest.warns(RuntimeWarning, match="threads 96 then, .*device cuda then, cpu"):
        resumed = hlstm.Trainer.resume(stopped, device="cpu", progress=False)
    resumed.fit(*texts(), folder=stopped)
    assert len(resumed.history.loss) == STEPS


# Numbers that are not finite


def test_a_loss_that_is_not_finite_keeps_the_last_good_file(stopped: Path) -> None:
    subject = hlstm.Trainer.resume(stopped, progress=False)
    bias = subject.net.head.bias
    at_step(subject, 8, lambda: bias.data.fill_(float("nan")))
    subject.net.register_forward_hook(lambda net, args, out: (out[0] * bias, out[1]))
    weights = [p.clone() for p in subject.net.lstm.parameters()]
    with unchanged(stopped), pytest.raises(TrainingError) as caught:
        subject.fit(*texts(), folder=stopped)
    assert str(caught.value).startswith("step 9 of 18: the loss is nan")
    assert f"The newest checkpoint is {newest(stopped)}." in str(caught.value)
    pairs = zip(weights, subject.net.lstm.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert subject.position.step == len(subject.history.loss) == 8


def test_a_gradient_that_is_not_finite_keeps_the_last_good_file(stopped: Path) -> None:
    subject = hlstm.Trainer.resume(stopped, progress=False)
    subject.net.head.bias.register_hook(lambda g: g * float("inf"))
    weights = [p.clone() for p in subject.net.parameters()]
    with unchanged(stopped), pytest.raises(NonFiniteGradientError) as caught:
        subject.fit(*texts(), folder=stopped)
    assert str(caught.value).startswith("step 9 of 18: ")
    assert f"The newest checkpoint is {newest(stopped)}." in str(caught.value)
    pairs = zip(weights, subject.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    subject = trainer(replace(CONFIG, save_every=1, keep_checkpoints=1))
    bias = subject.net.head.bias.data

    def overflow(*_: object) -> None:
        bias.fill_(float("inf"))

    subject.optimizer.register_step_post_hook(overflow)
    with pytest.raises(TrainingError, match="step 1 of 18 left .* not finite"):
        subject.fit(texts()[0], folder=tmp_path)
    assert list(contents(tmp_path)) == ["step-00000000.safetensors"]
    assert hlstm.load_run(tmp_path).head.weight.isfinite().all()


def test_a_held_out_loss_that_is_not_finite_is_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([float("nan"), 2.0, float("inf"), 1.0, float("nan")])
    monkeypatch.setattr(hlstm.trainer, "evaluate", lambda *_: next(losses))
    saved: list[dict[str, bytes]] = []
    subject = at_step(trainer(), 9, lambda: saved.append(contents(tmp_path)))
    at_step(subject, 16, lambda: weights.append(subject.net.head.weight.clone()))
    weights: list[torch.Tensor] = []
    subject.fit(*texts(), folder=tmp_path)
    assert "best.safetensors" in saved[0]
    best = hlstm.load_run(tmp_path, best=True)
    assert torch.equal(best.head.weight, weights[0])
    assert runs.run_info(tmp_path)["best_val_loss"] == 1.0


def test_after_an_error_the_trainer_is_whole(stopped: Path) -> None:
    subject = hlstm.Trainer.resume(stopped, progress=False)
    hook = subject.net.head.bias.register_hook(lambda g: g * float("inf"))
    with pytest.raises(NonFiniteGradientError):
        subject.fit(*texts(), folder=stopped)
    hook.remove()
    assert len(subject.history.grad_norm) == subject.position.step == 8
    assert hlstm.evaluate(subject.net, texts()[1], 2) == subject.history.val_loss[-1]
    assert len(subject.fit(*texts()).loss) == STEPS
    go_on(stopped)
