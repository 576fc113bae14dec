"""Training on the command line: what it tells, how it stops, goes on and begins anew."""

# ruff: noqa: F401, F811  (fixtures are imported, and then named again)

import hashlib
import io
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import hlstm
from hlstm import cli, cli_texts, cli_train
from hlstm.recipes import PRESETS
from hlstm.runs import run_info
from hlstm.sampling import generate_text
from hlstm.training import measure_speed, pick_precision
from tests.conftest import posix
from tests.library.shell import (
    LINE,
    SCHEDULE,
    SMALL,
    SPEED,
    Said,
    events,
    made,
    place,
    run,
    said,
    same,
    train,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("place")
Told = Callable[..., None]


def at_step(step: int, act: Callable[[], object]) -> Told:
    """A `tell` during which something happens, once the step has been evaluated."""
    tell = cli_train.tell

    def told(options: cli_train.Train, event: str, **values: Any) -> None:
        tell(options, event, **values)
        if (event, values["step"]) == ("evaluation", step):
            act()

    return told


def interrupting(number: int, step: int) -> Told:
    """A `tell` that gets a signal while it tells of a step."""
    return at_step(step, lambda: signal.raise_signal(number))


def give(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a text on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# What it tells


def test_training_tells_what_it_does(said: Said) -> None:
    assert train() == 0
    out, err = said()
    told = events(out)
    assert not err
    assert [e["event"] for e in told] == ["start", *["evaluation"] * 3, "end"]
    assert told[0]["characters"] + told[0]["held_out"] == len(LINE) * 40
    assert told[0]["held_out"] == len(LINE) * 4
    assert (told[0]["step"], told[0]["steps"], told[0]["device"]) == (0, 30, "cpu")
    assert [e["step"] for e in told[1:]] == [10, 20, 30, 30]
    net = hlstm.load_run("run")
    assert told[0]["parameters"] == sum(p.numel() for p in net.parameters())
    assert told[0]["symbols"] == len(set(LINE))
    assert told[0]["precision"] == pick_precision("auto", net)
    ids = net.vocab.encode(LINE * 4)
    assert math.isclose(told[3]["val_loss"], hlstm.evaluate(net, ids, 4))
    assert math.isclose(told[3]["val_bits"], told[3]["val_loss"] / math.log(2))
    history = hlstm.Trainer.resume("run", progress=False).history
    for k in range(3):
        mean = sum(history.loss[10 * k : 10 * k + 10]) / 10
        assert math.isclose(told[k + 1]["loss"], mean)
    assert told[-1] == {"event": "end", "run": "run", "step": 30, "reason": "done"}


def test_the_file_of_metrics_is_what_was_told(said: Said) -> None:
    assert train() == 0
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    told = [e for e in events(said()[0]) if e.pop("event") == "evaluation"]
    assert [json.loads(line) for line in lines] == told


def test_a_run_is_evaluated_ten_times(said: Said) -> None:
    assert run("train text.txt --out run --json --steps 20", *SMALL) == 0
    told = [e["step"] for e in events(said()[0]) if e["event"] == "evaluation"]
    assert told == [*range(2, 21, 2)]
    assert Path("run/best.safetensors").exists()


def test_what_it_will_take_is_told_before(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train() == 0
    told = events(said()[0])[0]
    assert told["characters_per_second"] == SPEED
    assert math.isclose(told["minutes"], 30 * 4 * 16 / SPEED / 60)
    words = "--steps 600 --max-minutes 0.001".split()
    assert run("train --resume --out run --json", *words) == 0
    told = events(said()[0])[0]
    assert math.isclose(told["minutes"], (600 - 30) * 4 * 16 / SPEED / 60)
    assert "--max-minutes allows 0.001" in told["forecast"]
    monkeypatch.setattr(cli_train, "measure_speed", measure_speed)
    assert train(out="measured") == 0
    assert same(weights("measured"), again(30))


def again(steps: int, **how: Any) -> dict[str, torch.Tensor]:
    """The weights that the library finds where `train` trains."""
    vocab = hlstm.Vocabulary.from_text(LINE)
    torch.manual_seed(0)
    net = hlstm.DeepRNN(vocab, hidden_size=8, num_layers=1)
    sizes = {"batch_size": 4, "sequence_length": 16, "eval_every": 10}
    config = hlstm.TrainConfig(**{**sizes, "steps": steps, **how})
    ids, held_out = hlstm.train_val_split(vocab.encode(LINE * 40))
    hlstm.Trainer(net, config, progress=False).fit(ids, held_out)
    return net.state_dict()


def test_sentences_for_people(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train text.txt --out run", *SMALL, *SCHEDULE) == 0
    out, err = said()
    lines = out.splitlines()
    assert not err and len(lines) == 6
    assert "1,548 characters to learn from and 172 held out" in lines[0]
    precision = pick_precision("auto", hlstm.load_run("run"))
    assert f"parameters in {precision} on cpu; step 0 of 30" in lines[0]
    assert lines[1] == "64,000 characters a second; 0 seconds to go"
    assert lines[2].startswith("step 10: loss ") and "nats per character" in lines[2]
    assert lines[-1] == "step 30: done; the run is in run"
    monkeypatch.setattr(cli_train, "tell", interrupting(signal.SIGINT, 10))
    assert run("train text.txt --out other", *SMALL, *SCHEDULE) == 130
    out, err = said()
    assert len(out.splitlines()) == 3 and err.count("\n") == 1


def test_a_long_run_is_told_in_minutes(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(hlstm.Trainer, "fit", fit)
    assert run("train text.txt", *SMALL, "--steps", "1000000") == 1
    assert "64,000 characters a second; 17 minutes to go" in said()[0]


def test_samples_are_read_while_it_trains(said: Said) -> None:
    assert train("--sample-length", "20") == 0
    told = events(said()[0])
    texts = [e["text"] for e in told if e["event"] == "sample"]
    assert [len(text) for text in texts] == [20] * 3
    assert [e["step"] for e in told if e["event"] == "sample"] == [10, 20, 30]
    net = hlstm.load_run("run")
    assert texts[-1] == generate_text(net, length=20, seed=30)
    assert same(weights("run"), again(30))
    assert run("train text.txt --out other --sample-length 9", *SMALL, *SCHEDULE) == 0
    assert generate_text(net, length=9, seed=30) + "\n" in said()[0]


def test_json_is_json_and_ends_with_the_error(said: Said) -> None:
    assert train("--learning-rate", "1e37", "--max-norm", "inf") == 1
    out, err = said()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    told = [json.loads(line, parse_constant=refuse) for line in out.splitlines()]
    assert told[0]["event"] == "start" and told[-1]["event"] == "error"
    assert told[-1]["message"] in err


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 1), (KeyError("x"), 70)])
def test_an_error_of_any_kind_is_an_event(
    error: Exception, code: int, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise error

    monkeypatch.setattr(hlstm.Trainer, "fit", fault)
    assert train() == code
    assert [event["event"] for event in events(said()[0])] == ["start", "error"]


# What it trains


@pytest.mark.parametrize("seed", [10**30, -(10**30), 2**64, -1])
def test_a_seed_is_any_integer(seed: int, said: Said) -> None:
    assert train("--seed", str(seed), "--steps", "1") == 0
    assert run_info("run")["config"]["seed"] == seed


def test_a_run_is_what_a_notebook_would_train(said: Said) -> None:
    assert train("--seed", "5", "--dropout", "0.1", "--num-layers", "2") == 0
    vocab = hlstm.Vocabulary.from_text(LINE)
    torch.manual_seed(5)
    net = hlstm.DeepRNN(vocab, hidden_size=8, num_layers=2, dropout=0.1)
    config = hlstm.TrainConfig(
        batch_size=4, sequence_length=16, steps=30, eval_every=10, seed=5
    )
    ids, held_out = hlstm.train_val_split(vocab.encode(LINE * 40))
    hlstm.Trainer(net, config, progress=False).fit(ids, held_out)
    assert same(net.state_dict(), weights("run"))


def test_files_are_joined_in_order_by_line_ends(said: Said) -> None:
    Path("a.txt").write_text("abc" * 50)
    Path("b.txt").write_text("xyz" * 50)
    assert run("train b.txt a.txt --out run --val-fraction 0", *SMALL, *SCHEDULE) == 0
    ids = hlstm.load_run("run").vocab.encode("xyz" * 50 + "\n" + "abc" * 50)
    texts = run_info("run")["texts"]
    assert texts == {
        "train_ids": hashlib.sha256(ids.numpy().tobytes()).hexdigest(),
        "val_ids": None,
    }
    assert "301 characters to learn from and 0 held out" in said()[0]


def test_a_run_without_a_name_has_that_of_its_text(said: Said) -> None:
    assert run("train text.txt --json", *SMALL, *SCHEDULE) == 0
    assert events(said()[0])[-1]["run"] == "runs/text"
    assert run_info("runs/text")["step"] == 30
    assert run("train text.txt --json", *SMALL, *SCHEDULE) == 1
    assert "runs/text holds a run already: go on with it by --resume" in said()[1]
    assert run("train text.txt --resume --steps 31 --json") == 0
    assert events(said()[0])[-1]["step"] == 31


def test_a_text_of_its_own_is_held_out(place: Path, said: Said) -> None:
    """All of FILE is learnt from; the vocabulary is that of both texts."""
    Path("val.txt").write_text("What? Is it so?\n" * 9)
    assert train("--val-file", "val.txt") == 0
    told = events(said()[0])
    assert (told[0]["characters"], told[0]["held_out"]) == (len(LINE) * 40, 16 * 9)
    net = hlstm.load_run("run")
    assert set(net.vocab.symbols) == set(LINE + "What? Is it so?")
    ids = net.vocab.encode("What? Is it so?\n" * 9)
    assert math.isclose(told[3]["val_loss"], hlstm.evaluate(net, ids, 4))
    record = json.loads(Path("run/corpus.json").read_text())
    assert [text["file"] for text in record["corpus"]] == [
        str(place / "text.txt"),
        str(place / "val.txt"),
    ]
    assert run("train --resume --out run --steps 31") == 0
    Path("val.txt").rename("moved.txt")
    assert run("train --resume --out run --steps 32") == 1
    assert "say where to" in said()[1]
    assert run("train --resume --out run --steps 32 --val-file moved.txt") == 0
    with Path("moved.txt").open("a") as file:
        file.write("!")
    assert run("train --resume --out run --steps 33") == 1
    assert "moved.txt is not the text that the run began with" in said()[1]


def test_a_text_from_stdin_is_kept(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    give("\ufeff" + LINE.replace("\n", "\r\n") * 40, monkeypatch)
    assert run("train - --out run --json", *SMALL, *SCHEDULE, "--steps", "20") == 0
    assert Path("run/stdin.txt").read_text() == LINE * 40
    Path("run").rename("moved")
    assert run("train --resume --out moved --steps 30 --json") == 0
    assert same(weights("moved"), again(30))
    give(LINE * 40, monkeypatch)
    assert run("train - --resume --out moved --steps 31 --json") == 0
    assert Path("moved/stdin.txt").read_text() == LINE * 40
    said()
    give(LINE * 41, monkeypatch)
    assert run("train - --resume --out moved --steps 32") == 1
    assert "- is not the text that the run began with" in said()[1]


@pytest.mark.parametrize(
    ("text", "message"), [("", "stdin is empty"), ("a\0b", "stdin looks binary")]
)
def test_what_is_no_text_on_stdin_is_refused(
    text: str, message: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(text, monkeypatch)
    assert run("train - --out run") == 1
    assert message in said()[1] and not Path("run").exists()


def test_stdin_may_be_closed(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run("train - --out run") == 1
    assert "stdin is empty" in said()[1]


# What it stands on


def test_it_begins_with_the_weights_of_another(trained: Path, said: Said) -> None:
    line = "train text.txt --out new --init-from run --batch-size 4 --json"
    assert run(line, "--steps", "10", "--sequence-length", "16") == 0
    old = hlstm.load_run("run")
    torch.manual_seed(0)
    config = hlstm.TrainConfig(batch_size=4, sequence_length=16, steps=10)
    ids, held_out = hlstm.train_val_split(old.vocab.encode(LINE * 40))
    hlstm.Trainer(old.train(), config, progress=False).fit(ids, held_out)
    assert same(old.state_dict(), weights("new"))


def test_dropped_characters_stay_dropped(trained: Path, said: Said) -> None:
    Path("micro.txt").write_text("µ" + LINE * 40)
    line = (
        "train micro.txt --init-from run --drop-unknown --out new --json --batch-size 4"
    )
    assert run(line, "--steps", "2") == 0
    assert run("train --resume --out new --steps 3 --json") == 0
    assert run(line, "--resume", "--steps", "4") == 0
    told = [e for e in events(said()[0]) if e["event"] == "start"]
    lengths = [e["characters"] + e["held_out"] for e in told]
    assert lengths == [len(LINE) * 40] * 3 and told[-1]["steps"] == 4
    assert run("train --resume --out new --no-drop-unknown") == 2
    assert "--drop-unknown is True in this run, and got False" in said()[1]


def test_what_is_no_size_may_differ(said: Said) -> None:
    """Of another network come its sizes, and its dropout where none is given."""
    vocab = hlstm.Vocabulary.from_text(LINE + "µ")
    how: dict[str, Any] = {"dropout": 0.25, "dropout_head": 0.5, "weight_drop": 0.1}
    how |= {"locked": True}
    old = hlstm.DeepRNN(vocab, 8, 2, tied=True, engine="reference", **how)
    old.save("old.safetensors")
    line = "train text.txt --init-from old.safetensors --batch-size 4 --steps 1 --json"
    assert run(f"{line} --out same") == 0
    assert hlstm.load_run("same").describe() == old.describe()
    words = "--dropout 0.1 --no-locked --weight-drop 0 --engine auto --dropout-head 0"
    assert run(f"{line} --out other {words}") == 0
    again = hlstm.DeepRNN(vocab, 8, 2, 0.1, dropout_head=0.0, tied=True)
    assert hlstm.load_run("other").describe() == again.describe()
    assert run(f"{line} --out preset --preset quick") == 0
    preset = hlstm.DeepRNN(vocab, 8, 2, 0.1, tied=True)
    assert hlstm.load_run("preset").describe() == preset.describe()


def test_a_half_precise_network_learns_in_float32(trained: Path, said: Said) -> None:
    hlstm.load_run("run").half().save("half.safetensors")
    assert train("--init-from", "half.safetensors", out="new") == 0
    assert {t.dtype for t in weights("new").values()} == {torch.float32}


def test_a_network_without_biases_stays_so(said: Said) -> None:
    net = hlstm.DeepRNN(hlstm.Vocabulary.from_text(LINE), 8, 1)
    net.head = torch.nn.Linear(8, len(net.vocab), bias=False)
    net.save("bare.safetensors")
    assert train("--init-from", "bare.safetensors") == 0
    assert "head.bias" not in weights("run")


def test_an_option_overrides_its_preset(said: Said) -> None:
    """Also where it is the default of a run without a preset, as dropout 0 is."""
    words = "train text.txt --preset quick --dropout 0 --steps 1 --column-bound none"
    assert run(words, "--out", "run", "--hidden-size", "9") == 0
    info = run_info("run")
    assert (info["dropout"], info["config"]["steps"], info["hidden_size"]) == (0, 1, 9)
    assert info["config"]["learning_rate"] == 1e-2
    record = json.loads(Path("run/corpus.json").read_text())["options"]
    assert record["network"]["column_bound"] is None and record["preset"] == "quick"
    assert run("train --resume --out run --preset quick --json") == 0
    said()
    assert run("train --resume --out run --preset best") == 2
    assert "--preset is quick in this run, and got best" in said()[1]
    assert run("train --resume --out run --column-bound 1.5") == 2
    assert "--column-bound is None in this run, and got 1.5" in said()[1]


# Folders


def test_a_run_knows_its_files(place: Path, said: Said) -> None:
    assert train("--val-fraction", "0.2") == 0
    record = json.loads(Path("run/corpus.json").read_text())
    digest = hashlib.sha256((LINE * 40).encode()).hexdigest()
    assert record["options"]["val_fraction"] == 0.2
    assert record["corpus"] == [{"file": str(place / "text.txt"), "sha256": digest}]
    cli_texts.remember(Path("run"), ["shakespeare"], ["a"], {})
    assert cli_texts.recall(Path("run"))["corpus"][0]["file"] == "shakespeare"
    assert not list(Path("run").glob(".corpus*"))


def test_a_run_is_not_overwritten(trained: Path, said: Said) -> None:
    before = {p.name: p.read_bytes() for p in Path("run").iterdir()}
    Path("other.txt").write_text(LINE * 50)
    assert run("train other.txt --out run", *SMALL) == 1
    assert "holds a run already" in said()[1]
    assert {p.name: p.read_bytes() for p in Path("run").iterdir()} == before


def test_what_is_left_of_a_run_is_not_overwritten(said: Said) -> None:
    Path("run").mkdir()
    hlstm.load_pretrained("shakespeare").save("run/best.safetensors")
    before = Path("run/best.safetensors").read_bytes()
    assert train() == 1
    assert "holds a run already" in said()[1]
    assert Path("run/best.safetensors").read_bytes() == before
    assert not Path("run/corpus.json").exists()


@posix
def test_two_trainings_into_one_folder(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that comes second writes nothing, and the first can be resumed."""
    Path("other.txt").write_text(LINE * 50)
    codes = []

    def second() -> None:
        kept = Path("run/corpus.json").read_bytes()
        codes.append(run("train other.txt --out run", *SMALL))
        assert Path("run/corpus.json").read_bytes() == kept
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(cli_train, "tell", at_step(20, second))
        assert train() == 130 and codes == [1]
    err = said()[1]
    assert "another process is training" in err or "holds a run already" in err
    assert "Errno" not in err
    assert run("train --resume --out run --json") == 0
    assert same(weights("run"), again(30))


# Interruption and resumption


@posix
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_interrupted_run_goes_on(
    number: signal.Signals,
    code: int,
    made: Path,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cli_train, "tell", interrupting(number, 20))
        assert train(out="'my run'") == code
    first, err = said()
    assert err.startswith(f"hlstm: {number.name} stopped the run after step 20 of 30")
    assert err.count("\n") == 1
    assert events(first)[-1]["event"] == "interrupted"
    assert events(first)[-1]["signal"] == number.name
    # What the message says is what works.
    words = shlex.split(err[err.index("train --resume") :])
    assert words == ["train", "--resume", "--out", "my run"]
    assert cli.main([*words, "--json"]) == 0
    second = events(said()[0])
    assert second[0]["step"] == 20
    assert (second[-1]["event"], second[-1]["step"]) == ("end", 30)
    assert same(weights(str(made / "run")), weights("my run"))
    whole = hlstm.Trainer.resume(made / "run", progress=False).history.val_loss
    told = events(first) + second
    assert whole == [e["val_loss"] for e in told if e["event"] == "evaluation"]


@posix
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_that_is_interrupted_goes_on_to_the_same_end(
    preset: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"train text.txt --preset {preset} --steps 10 --json"
    assert run(line, "--out", "whole", *SMALL) == 0
    with monkeypatch.context() as patch:
        patch.setattr(cli_train, "tell", interrupting(signal.SIGTERM, 4))
        assert run(line, "--out", "run", *SMALL) == 143
    assert run("train --resume --out run --json") == 0
    assert same(weights("run"), weights("whole"))


@posix
def test_two_interrupts_at_once_lose_no_work(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli_train, "tell", at_step(10, twice))
    assert train() == 130
    out, err = said()
    assert events(out)[-1]["event"] == "interrupted"
    assert "go on with: hlstm train --resume --out run" in err
    assert run_info("run")["step"] == events(out)[-1]["step"] < 30


@posix
def test_a_reader_that_has_gone_loses_no_work(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        gone = at_step(10, lambda: os.close(reading))
        monkeypatch.setattr(cli_train, "tell", gone)
        assert train(out="'my  run'") == 141
    err = said()[1]
    assert err.count("\n") == 1 and "and it is saved; go on with: hlstm train" in err
    assert "--out 'my  run'" in err
    step = run_info("my  run")["step"]
    assert 10 < step < 30 and f"after step {step} of 30" in err


def test_a_finished_run_has_nothing_left(trained: Path, said: Said) -> None:
    before = weights("run")
    assert run("train --resume --out run") == 0
    assert same(before, weights("run"))
    out = said()[0]
    assert "step 30: done" in out and "nothing is left to do" in out


@pytest.mark.parametrize("begun", [30, 20])
def test_a_run_is_made_longer(
    begun: int, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished or not. From its newest step on it has the schedule of the new length."""
    with monkeypatch.context() as patch:
        if begun < 30:
            patch.setattr(cli_train, "tell", interrupting(signal.SIGINT, begun))
        assert train() == (0 if begun == 30 else 130)
    trainer = hlstm.Trainer.resume("run", steps=50, progress=False)
    ids, held_out = hlstm.train_val_split(trainer.net.vocab.encode(LINE * 40))
    trainer.fit(ids, held_out)
    said()
    assert run("train --resume --out run --steps 50 --json") == 0
    told = events(said()[0])
    assert (told[0]["step"], told[0]["steps"], told[-1]["step"]) == (begun, 50, 50)
    assert same(weights("run"), trainer.net.state_dict())
    assert run("train --resume --out run --json") == 0
    assert events(said()[0])[-1]["step"] == 50


def test_a_run_ends_when_its_time_is_over(said: Said) -> None:
    """Each command has the time anew; what it says to type goes on to the end."""
    words = ["--max-minutes", "1e-9"]
    assert run("train text.txt --out 'my run'", *SMALL, *SCHEDULE, *words) == 0
    out, err = said()
    last = out.splitlines()[-2:]
    assert last[0] == "step 1: --max-minutes 1e-09 are over; the run is in my run"
    assert not err and run_info("my run")["step"] == 1
    assert run("train --resume --out 'my run' --json", *words) == 0
    assert events(said()[0])[-1]["step"] == 2
    way = shlex.split(last[1].removeprefix("go on with: hlstm "))
    assert way == ["train", "--resume", "--out", "my run"]
    assert cli.main([*way, "--json"]) == 0
    assert events(said()[0])[-1]["reason"] == "done"
    assert same(weights("my run"), again(30))


def test_a_run_ends_when_nothing_is_gained(said: Said) -> None:
    """It stays so when it is resumed, and goes on with more patience."""
    still = ["--learning-rate", "1e-30", "--eval-every", "1", "--patience", "2"]
    assert train(*still) == 0
    told = events(said()[0])
    step = told[-1]["step"]
    assert 3 <= step < 10 and "has not fallen for 2 evaluations" in told[-1]["reason"]
    assert run("train --resume --out run --json") == 0
    assert events(said()[0])[-1] == told[-1]
    assert run("train --resume --out run") == 0
    assert "go on with: hlstm train --resume --out run --patience 3" in said()[0]
    assert run("train --resume --out run --patience 3 --json") == 0
    assert step < events(said()[0])[-1]["step"] < 30
    assert run("train --resume --out run --patience 0 --json") == 0
    assert events(said()[0])[-1]["step"] == 30


def test_what_is_told_may_change_and_is_remembered(said: Said) -> None:
    assert train("--sample-length", "5", "--steps", "10") == 0
    for words, count in (([], 1), (["--sample-length", "0"], 0), ([], 0)):
        step = run_info("run")["step"] + 10
        said()
        assert run(f"train --resume --out run --steps {step} --json", *words) == 0
        told = events(said()[0])
        assert [e["event"] for e in told].count("sample") == count


def test_tensorboard_is_refused_where_it_is_not(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train("--tensorboard") == 1
    assert "pip install tensorboard" in said()[1] and not Path("run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--batch-size 5", "--batch-size is 4 in this run, and got 5"),
        ("--hidden-size 9", "--hidden-size is 8 in this run, and got 9"),
        ("--val-fraction 0.2", "--val-fraction is 0.1 in this run, and got 0.2"),
        ("--sequence-length 64", "--sequence-length is 16 in this run, and got 64"),
        ("text.txt text.txt", "the run has 1 file"),
    ],
)
def test_a_run_keeps_its_options(
    option: str, message: str, trained: Path, said: Said
) -> None:
    """Also where the option given is the default, as a length of 64 is."""
    assert run(f"train --resume --out run {option}") == 2
    assert message in said()[1]


def test_the_same_options_may_be_given_again(said: Said) -> None:
    own = [
        "--dropout-head",
        "0.1",
        "--locked",
        "--val-file",
        "text.txt",
        "--ema",
        "0.5",
    ]
    assert train(*own) == 0
    assert train(*own, "--resume") == 0


def test_a_moved_text_is_named_and_remembered(place: Path, said: Said) -> None:
    assert train() == 0
    Path("text.txt").rename("moved.txt")
    said()
    assert run("train --resume --out run") == 1
    assert "say where to: hlstm train FILE --resume --out run" in said()[1]
    assert run("train moved.txt --resume --out run") == 0
    assert run("train --resume --out run") == 0
    known = cli_texts.recall(Path("run"))["corpus"]
    assert [text["file"] for text in known] == [str(place / "moved.txt")]


@posix
def test_a_linked_text_is_known_by_its_file(place: Path, said: Said) -> None:
    Path("link.txt").symlink_to("text.txt")
    assert run("train link.txt --out run", *SMALL, *SCHEDULE) == 0
    Path("link.txt").unlink()
    assert run("train --resume --out run") == 0
    (text,) = cli_texts.recall(Path("run"))["corpus"]
    assert text["file"] == str(place / "text.txt")


def test_a_changed_text_is_refused(said: Said) -> None:
    assert train() == 0
    with Path("text.txt").open("a") as file:
        file.write("!")
    said()
    assert run("train --resume --out run") == 1
    assert "is not the text that the run began with" in said()[1]


def record(**changes: Any) -> str:
    """The record of a run with other options; None takes one away."""
    options = {name: value for name, value in vars(cli_train.Train()).items()}
    kept = {k: options[k] for k in (*cli_train.KEPT, *cli_train.FREE)}
    kept |= {"val_file": False, "network": asdict(options["sizes"])} | changes
    text = {"file": "text.txt", "sha256": "0"}
    return json.dumps({"corpus": [text], "options": kept})


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "{}",
        '{"options": 3, "corpus": []}',
        '{"options": {}, "corpus": [{"file": "text.txt"}]}',
        '{"options": {}, "corpus": 3}',
        '{"options": {}, "corpus": []}',
        record(val_fraction=math.nan),
        record(val_fraction=5),
        record(val_fraction="x"),
        record(patience="x"),
        record(patience=-1),
        record(sample_length=None),
        record(network={"hidden_size": 0}),
        record(network={"hidden": 1}),
        record(network=3),
        record(nonsense=1),
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused(damaged: str, trained: Path, said: Said) -> None:
    Path("run/corpus.json").write_text(damaged)
    assert run("train --resume --out run") == 1
    err = said()[1]
    assert "corpus.json is damaged" in err and err.count("\n") == 1


def test_a_damaged_checkpoint_is_passed_over_in_one_line(
    trained: Path, said: Said
) -> None:
    newest = Path("run/step-00000030.safetensors")
    newest.write_bytes(newest.read_bytes()[:-9])
    assert run("train --resume --out run --json") == 0
    out, err = said()
    assert events(out)[0]["step"] == 20
    assert err.startswith("hlstm: warning: ") and err.count("\n") == 1
    assert "step-00000030" in err and "Falling back to" in err
