"""The command line: options, results, errors, signals, pipes and terminals."""

import dataclasses
import hashlib
import inspect
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

import hlstm
from hlstm import cli
from hlstm.runs import run_info
from hlstm.sampling import stream_text
from tests.conftest import posix

LINE = "To be, or not to be, that is the question:\n"
SMALL = "--hidden-size 8 --num-layers 1 --batch-size 4 --sequence-length 16".split()
SCHEDULE = "--steps 30 --eval-every 10 --save-every 10 --keep-checkpoints 2".split()
Said = Callable[[], tuple[str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What has been printed since the last call, on stdout and on stderr."""

    def read() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, err

    return read


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a text, and signals as in a terminal, also where there is none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "text.txt").write_text(LINE * 40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("HLSTM_DEBUG", raising=False)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


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


# Help


def test_help_without_a_command(said: Said) -> None:
    assert run("") == 2
    out, err = said()
    assert not err and all(f"  {name} " in out for name in cli.COMMANDS)
    assert run("--help") == run("-h") == 0
    assert said()[0] == out * 2


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_says_enough_in_80_columns(name: str, said: Said) -> None:
    assert run(f"{name} --help") == 0
    out, err = said()
    assert not err and max(map(len, out.splitlines())) <= 80
    assert f"hlstm {name}" in out
    codes = cli.EXIT_CODES.splitlines()[1:-1]
    assert [int(line.split()[0]) for line in codes] == [0, 1, 2, 70, 129, 130, 141, 143]
    assert cli.EXIT_CODES in out


def test_version(said: Said) -> None:
    assert run("--version") == 0
    assert said()[0] == f"hlstm {hlstm.__version__}\n"


# One declaration


def declared() -> dict[str, object]:
    """Every hyperparameter of a run, with its default, as the library has it.

    The engine is none: no result depends on who computes it.
    """
    _, *sizes, _ = inspect.signature(hlstm.DeepRNN).parameters.values()
    config = dataclasses.asdict(hlstm.TrainConfig())
    return {each.name: each.default for each in sizes} | config


@pytest.mark.parametrize("name", declared())
def test_every_hyperparameter_is_an_option(name: str, said: Said) -> None:
    default = declared()[name]
    value = 0.25 if isinstance(default, float) else 7
    flag = "--" + name.replace("_", "-")
    plain = cli.parse("train", ["a", "--out", "b"])
    given = cli.parse("train", ["a", "--out", "b", flag, str(value)])
    for options, expected in ((plain, default), (given, value)):
        found = dataclasses.asdict(options.sizes) | dataclasses.asdict(options.config)
        assert found == declared() | {name: expected}
    run("train --help")
    out = said()[0]
    assert f"{flag} " in out and f"(default: {default})" in " ".join(
        out.replace("│", " ").split()
    )


def test_sampling_takes_the_options_of_stream_text() -> None:
    options = dataclasses.asdict(cli.parse("sample", ["run"]).sampling)
    parameters = inspect.signature(stream_text).parameters
    assert options == {k: p.default for k, p in parameters.items() if k in options}
    assert options.keys() == parameters.keys() - {"net", "prompt"}


def test_importing_the_package_imports_nothing_slow() -> None:
    code = "import hlstm, sys; sys.exit(bool({'torch', 'tyro'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_package_knows_its_modules_and_names() -> None:
    assert hlstm.stack.LSTM is hlstm.LSTM
    assert {"stack", "LSTM", "__version__"} <= set(dir(hlstm))
    with pytest.raises(AttributeError, match="hlstm.*'lstm'"):
        hlstm.lstm  # type: ignore[attr-defined]  # noqa: B018


# Errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sampel", "no command 'sampel'; did you mean 'sample'?"),
        ("frobnicate", "There are: train, sample, evaluate, info"),
        ("train --out run", "name at least one FILE"),
        ("train text.txt", "--out"),
        ("train text.txt --out run --stepz 3", "--steps INT"),
        ("train text.txt --out run --steps three", "--steps"),
        (
            "train text.txt --out run --steps 0",
            "steps is an integer, 1 or larger, and got 0",
        ),
        ("train text.txt --out run --hidden-size 0", "--hidden-size is an integer"),
        ("train text.txt --out shakespeare", "or ./shakespeare"),
        ("train text.txt --out tinyshakespeare", "or ./tinyshakespeare"),
        ("train text.txt --out ''", "--out is empty"),
        ("train text.txt --out text.txt", "--out text.txt is a file: name a folder"),
        ("train --resume --out text.txt", "--out text.txt is a file: name a folder"),
        ("train text.txt --out run --learning-rate nan", "learning_rate"),
        ("train text.txt --out run --val-fraction 1", "--val-fraction"),
        ("train text.txt --out run --val-fraction nan", "--val-fraction"),
        ("sample", "RUN"),
        ("sample shakespeare --top-k None", "--top-k"),
        ("sample shakespeare --top-k 0", "--top-k"),
        ("sample shakespeare --top-k 99999", "--top-k"),
        ("sample shakespeare --temperature -1", "--temperature is a number"),
        ("sample shakespeare --temperature nan", "--temperature is a number"),
        ("sample shakespeare --length -1", "--length is an integer"),
        ("sample shakespeare --top-p 2", "--top-p is a number"),
        ("sample shakespeare --seed -99999999999999999999", "--seed"),
        ("sample shakespeare --prompt ''", "--prompt is empty"),
        ("evaluate shakespeare text.txt --batch-size 0", "--batch-size is an integer"),
        ("sample shakespeare --best", "--best needs the folder of a run"),
        ("evaluate shakespeare", "name at least one FILE"),
        ("info", "RUN"),
    ],
)
def test_wrong_usage_is_2(line: str, message: str, said: Said) -> None:
    assert run(line) == 2
    out, err = said()
    assert not out and message in err and "Traceback" not in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train nothing.txt --out run", "no corpus file at 'nothing.txt'"),
        ("train empty.txt --out run", "empty.txt is empty"),
        ("train latin.txt --out run", "bad byte 0xe9 at offset 1"),
        ("train text.txt --out run --device warp", "no device 'warp'"),
        ("train text.txt --out run --batch-size 100", "172 characters are held out"),
        ("train text.txt --out run --val-fraction 1e-320", "1 characters are held out"),
        ("train text.txt --out run --hidden-size 999999", "--hidden-size 999999 and"),
        (
            "evaluate shakespeare text.txt --batch-size 999",
            "or a --batch-size up to 860",
        ),
        (
            "train text.txt --out run --batch-size 999 --val-fraction 0",
            "1720 characters are to learn from",
        ),
        ("train --resume --out run", "begun no run"),
        ("sample nothing.safetensors", "nothing.safetensors"),
        ("sample text.txt", "text.txt"),
        ("sample .", "no checkpoint"),
        ("sample shakespeare --prompt µ", "U+00B5"),
        ("evaluate shakespeare nothing.txt", "nothing.txt"),
        ("evaluate shakespeare micro.txt", "--drop-unknown"),
        ("evaluate shakespeare short.txt", "4 characters cannot fill 32 streams"),
        ("info nothing.safetensors", "nothing.safetensors"),
        ("info .", "no checkpoint"),
        ("sample .", "hlstm train begins one"),
        ("sample . --best", "leave --best out"),
        ("sample int8.safetensors", "only Python reads it"),
    ],
)
@pytest.mark.parametrize("json_too", ["", " --json"])
def test_what_cannot_be_done_is_1(
    line: str, message: str, json_too: str, said: Said
) -> None:
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"h\xe9 is\n")
    Path("micro.txt").write_text("5 µm\n" * 30)
    Path("short.txt").write_text("To b")
    hlstm.save_int8(hlstm.DeepRNN(hlstm.Vocabulary("ab"), 2), "int8.safetensors")
    assert run(line + json_too) == 1
    out, err = said()
    assert "Trainer" not in err and "load_run" not in err and "load_corpus" not in err
    assert not out and message in err and not Path("run").exists()
    assert err.startswith("hlstm: ") and err.count("\n") == 1


def test_a_fault_of_the_program_is_70(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(argv: object) -> int:
        raise KeyError("step")

    monkeypatch.setattr(cli, "run", fault)
    assert run("info run") == 70
    assert said() == ("", "hlstm: a fault of this program: KeyError('step')\n")
    monkeypatch.setenv("HLSTM_DEBUG", "1")
    with pytest.raises(KeyError, match="step"):
        run("info run")


def test_an_error_without_words_is_named(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(argv: object) -> int:
        raise MemoryError

    monkeypatch.setattr(cli, "run", fault)
    assert run("info run") == 1
    assert said()[1] == "hlstm: MemoryError\n"


class Odd(Exception):
    """No refusal of the library's."""


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), Odd("x")])
def test_a_bare_error_from_inside_is_no_mistake_of_the_user(
    error: Exception, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*args: object, **how: object) -> str:
        raise error

    monkeypatch.setattr(cli, "stream_text", fault)
    assert run("sample shakespeare") == 70
    assert "a fault of this program" in said()[1]


def test_messages_name_options_and_no_python(said: Said) -> None:
    Path("micro.txt").write_text("5 µm\n" * 30)
    for line in ("sample shakespeare --prompt µ", "evaluate shakespeare micro.txt"):
        assert run(line) == 1
        err = said()[1]
        assert "encode(" not in err and "translate(" not in err
        assert "--prompt" in err and "--drop-unknown" in err


def test_spaces_in_a_folder_are_kept_in_what_is_said(said: Said) -> None:
    assert run("info 'my   run.safetensors'") == 1
    assert "my   run.safetensors" in said()[1]


def test_no_error_number_is_said(said: Said) -> None:
    assert run("info .") == 1
    assert run("train /dev/null/x --out run") == 1
    assert run("train text.txt --out text.txt/run", *SMALL) == 1
    assert "Errno" not in said()[1]


@pytest.mark.parametrize(
    "surroundings",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "5", "TERM": "dumb"},
        {"COLUMNS": "20", "NO_COLOR": "1"},
        {"COLUMNS": "400"},
    ],
)
def test_help_has_a_smallest_width(surroundings: dict[str, str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "hlstm", "info", "--help"],
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0 and "Folder of a run" in " ".join(
        found.stdout.replace("│", " ").split()
    )
    assert "\033" not in found.stdout


@posix
def test_help_has_no_colours_where_none_are_wanted() -> None:
    import pty

    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        ours, theirs = pty.openpty()
        with start("info", "--help", stdout=theirs, **{"more": more}):
            os.close(theirs)
            shown = b""
            try:
                while piece := os.read(ours, 1 << 12):
                    shown += piece
            except OSError:  # the other end is closed
                pass
        os.close(ours)
        assert b"positional" in shown and b"\033" not in shown


def test_help_in_an_old_encoding() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "hlstm", "train", "--help"],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert found.returncode == 0 and b"--weight-decay" in found.stdout


@posix
@pytest.mark.parametrize("closed", ["1", "2", "1 2"])
def test_closed_streams(closed: str) -> None:
    """As a shell closes them with >&- : no fault, and no file in their place."""
    shut = "".join(f"os.close({fd});" for fd in closed.split())
    code = f"import os, sys; {shut} os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-m", "hlstm"]
    found = subprocess.run([*command, "info", "shakespeare"], capture_output=True)
    assert found.returncode == (0 if closed == "2" else 1)
    found = subprocess.run([*command, "info", "nothing"], capture_output=True)
    assert found.returncode == 1


# Training


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
    ids = net.vocab.encode(LINE * 4)
    assert math.isclose(told[3]["val_loss"], hlstm.evaluate(net, ids, 4))
    history = hlstm.Trainer.resume("run", progress=False).history
    for k in range(3):
        mean = sum(history.loss[10 * k : 10 * k + 10]) / 10
        assert math.isclose(told[k + 1]["loss"], mean)


def test_sentences_for_people(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train text.txt --out run", *SMALL, *SCHEDULE) == 0
    out, err = said()
    lines = out.splitlines()
    assert not err and len(lines) == 5
    assert "1,548 characters to learn from and 172 held out" in lines[0]
    assert lines[1].startswith("step 10: loss ") and "nats per character" in lines[1]
    assert lines[-1] == "step 30: done; the run is in run"
    monkeypatch.setattr(cli, "tell", interrupting(signal.SIGINT, 10))
    assert run("train text.txt --out other", *SMALL, *SCHEDULE) == 130
    out, err = said()
    assert len(out.splitlines()) == 2 and err.count("\n") == 1


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


def test_a_run_knows_its_files(place: Path, said: Said) -> None:
    assert train("--val-fraction", "0.2") == 0
    record = json.loads(Path("run/corpus.json").read_text())
    digest = hashlib.sha256((LINE * 40).encode()).hexdigest()
    assert record["val_fraction"] == 0.2
    assert record["corpus"] == [{"file": str(place / "text.txt"), "sha256": digest}]
    cli.remember(Path("run"), ["shakespeare"], ["a"], 0.1)
    assert cli.recall(Path("run"))["corpus"][0]["file"] == "shakespeare"
    assert not list(Path("run").glob(".corpus*"))


def test_a_run_is_not_overwritten(said: Said) -> None:
    assert train() == 0
    before = {p.name: p.read_bytes() for p in Path("run").iterdir()}
    said()
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


# Interruption and resumption


def interrupting(number: int, step: int) -> Callable[..., None]:
    """A `tell` that gets a signal while it tells of a step."""
    tell = cli.tell

    def told(options: cli.Train, event: str, **values: Any) -> None:
        tell(options, event, **values)
        if (event, values["step"]) == ("evaluation", step):
            signal.raise_signal(number)

    return told


@posix
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_interrupted_run_goes_on(
    number: signal.Signals, code: int, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(out="whole") == 0
    whole = events(said()[0])
    with monkeypatch.context() as patch:
        patch.setattr(cli, "tell", interrupting(number, 20))
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
    assert second[0]["step"] == 20 and second[-1] == {
        "event": "end",
        "run": "my run",
        "step": 30,
    }
    assert same(weights("whole"), weights("my run"))
    losses = [e["val_loss"] for e in whole if e["event"] == "evaluation"]
    told = events(first) + second
    assert losses == [e["val_loss"] for e in told if e["event"] == "evaluation"]


def test_signal_handlers_are_put_back(said: Said) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run("info nothing")
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@posix
def test_two_trainings_into_one_folder(said: Said) -> None:
    """The one that comes second writes nothing, and the first can be resumed."""
    words = ["text.txt", "--out", "run", "--json", *SMALL, *SCHEDULE, "--steps", "150"]
    Path("other.txt").write_text(LINE * 50)
    with start("train", *words) as process:
        read_until(process, 20)
        kept = Path("run/corpus.json").read_bytes()
        assert run("train other.txt --out run", *SMALL) == 1
        err = said()[1]
        assert "another process is training" in err or "holds a run already" in err
        assert "Errno" not in err and Path("run/corpus.json").read_bytes() == kept
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert run("train --resume --out run --json") == 0


@posix
def test_a_reader_that_has_gone_loses_no_work(said: Said) -> None:
    words = ["text.txt", "--out", "my  run", "--json", *SMALL, *SCHEDULE]
    with start("train", *words, "--steps", "4000") as process:
        read_until(process, 10)
        assert process.stdout and process.stderr
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert err.count("\n") == 1 and "and it is saved; go on with: hlstm train" in err
    assert "--out 'my  run'" in err
    step = run_info("my  run")["step"]
    assert 10 < step < 4000 and f"after step {step} of 4000" in err


@posix
def test_two_interrupts_at_once_lose_no_work() -> None:
    words = ["text.txt", "--out", "run", "--json", *SMALL, *SCHEDULE]
    with start("train", *words, "--steps", "4000") as process:
        read_until(process, 10)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert events(out)[-1]["event"] == "interrupted"
    assert "go on with: hlstm train --resume --out run" in err
    assert run_info("run")["step"] == events(out)[-1]["step"]


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


@pytest.mark.parametrize("seed", [10**30, -(10**30), 2**64, -1])
def test_a_seed_is_any_integer(seed: int, said: Said) -> None:
    assert train("--seed", str(seed), "--steps", "1") == 0
    assert run_info("run")["config"]["seed"] == seed


def test_a_checkpoint_in_place_of_its_folder_is_named(said: Said) -> None:
    assert train() == 0
    said()
    assert run("sample run/step-00000030.safetensors") == 1
    assert "a checkpoint of a run: name the folder that it is in" in said()[1]


def test_a_loss_beyond_exp_is_measured(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "evaluate", lambda *a, **k: 1e4)
    assert run("evaluate shakespeare text.txt --json") == 0
    assert json.loads(said()[0])["perplexity"] is None
    assert run("evaluate shakespeare text.txt") == 0
    assert "inf" in said()[0]


def test_a_finished_run_has_nothing_left(said: Said) -> None:
    assert train() == 0
    before = weights("run")
    assert run("train --resume --out run") == 0
    assert same(before, weights("run"))
    assert "step 30: done" in said()[0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--steps 31", "--steps is 30 in this run, and got 31"),
        ("--hidden-size 9", "--hidden-size is 8 in this run, and got 9"),
        ("--val-fraction 0.2", "--val-fraction is 0.1 in this run, and got 0.2"),
        ("--steps 1000", "--steps is 30 in this run, and got 1000"),
        ("text.txt text.txt", "the run has 1 file"),
    ],
)
def test_a_run_keeps_its_options(option: str, message: str, said: Said) -> None:
    """Also where the option given is the default, as 1000 steps are."""
    assert train() == 0
    said()
    assert run(f"train --resume --out run {option}") == 2
    assert message in said()[1]


def test_the_same_options_may_be_given_again(said: Said) -> None:
    assert train() == 0
    assert train("--resume") == 0


def test_a_moved_text_is_named_and_remembered(place: Path, said: Said) -> None:
    assert train() == 0
    Path("text.txt").rename("moved.txt")
    said()
    assert run("train --resume --out run") == 1
    assert "say where to: hlstm train FILE --resume --out run" in said()[1]
    assert run("train moved.txt --resume --out run") == 0
    assert run("train --resume --out run") == 0
    known = cli.recall(Path("run"))["corpus"]
    assert [text["file"] for text in known] == [str(place / "moved.txt")]


@posix
def test_a_linked_text_is_known_by_its_file(place: Path, said: Said) -> None:
    Path("link.txt").symlink_to("text.txt")
    assert run("train link.txt --out run", *SMALL, *SCHEDULE) == 0
    Path("link.txt").unlink()
    assert run("train --resume --out run") == 0
    (text,) = cli.recall(Path("run"))["corpus"]
    assert text["file"] == str(place / "text.txt")


def test_a_changed_text_is_refused(said: Said) -> None:
    assert train() == 0
    with Path("text.txt").open("a") as file:
        file.write("!")
    said()
    assert run("train --resume --out run") == 1
    assert "is not the text that the run began with" in said()[1]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"val_fraction": "x", "corpus": []}',
        '{"val_fraction": 0.1, "corpus": [{"file": "text.txt"}]}',
        '{"val_fraction": 0.1, "corpus": 3}',
        '{"val_fraction": NaN, "corpus": []}',
        '{"val_fraction": 5, "corpus": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused(record: str, said: Said) -> None:
    assert train() == 0
    Path("run/corpus.json").write_text(record)
    said()
    assert run("train --resume --out run") == 1
    err = said()[1]
    assert "corpus.json is damaged" in err and err.count("\n") == 1


def test_a_damaged_checkpoint_is_passed_over_in_one_line(said: Said) -> None:
    assert train() == 0
    newest = Path("run/step-00000030.safetensors")
    newest.write_bytes(newest.read_bytes()[:-9])
    said()
    assert run("train --resume --out run --json") == 0
    out, err = said()
    assert events(out)[0]["step"] == 20
    assert err.startswith("hlstm: warning: ") and err.count("\n") == 1
    assert "step-00000030" in err and "Falling back to" in err


# Asking a network


def test_sample_writes_what_the_library_writes(said: Said) -> None:
    line = "sample shakespeare --prompt ROMEO: --length 40 --temperature 0.6 --seed 3"
    assert run(line, "--top-k", "20", "--top-p", "0.9") == 0
    net = hlstm.load_pretrained("shakespeare")
    expected = net.generate_text("ROMEO:", 40, 0.6, top_k=20, top_p=0.9, seed=3)
    assert said() == (expected + "\n", "")
    assert run(line + " --json") == 0
    found = json.loads(said()[0])
    assert found["prompt"] + found["text"] == net.generate_text(
        "ROMEO:", 40, 0.6, seed=3
    )
    assert (found["temperature"], found["seed"], found["top_k"]) == (0.6, 3, None)


def test_sample_ends_its_last_line_once(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("sample shakespeare --prompt ROMEO: --length 0") == 0
    assert said()[0] == "ROMEO:\n"
    assert run("sample shakespeare --length 0") == 0
    assert said()[0] == ""
    monkeypatch.setattr(cli, "stream_text", lambda *a, **k: iter("ab\n"))
    assert run("sample shakespeare --prompt a") == 0
    assert said()[0] == "aab\n"


def test_sample_takes_a_run_its_best_and_a_file(said: Said) -> None:
    assert train("--learning-rate", "3", "--eval-every", "5", "--max-norm", "9") == 0
    said()
    best = hlstm.load_run("run", best=True)
    best.save("model.safetensors")
    assert not same(best.state_dict(), weights("run"))
    written = []
    for source in ("run", "run --best", "model.safetensors"):
        assert run(f"sample {source} --seed 0 --prompt To --length 60") == 0
        written.append(said()[0])
    newest = hlstm.load_run("run").generate_text("To", 60, seed=0) + "\n"
    assert written == [newest, written[2], written[2]]
    assert written[2] == best.generate_text("To", 60, seed=0) + "\n"


class Recorder(io.StringIO):
    """A stream that knows what has been flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


def test_each_character_is_flushed_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Recorder()
    monkeypatch.setattr(sys, "stdout", out)

    def drawn(net: object, prompt: str, **how: object) -> Iterator[str]:
        for k, character in enumerate("abc"):
            assert out.flushed == prompt + "abc"[:k]
            yield character

    monkeypatch.setattr(cli, "stream_text", drawn)
    assert run("sample shakespeare --prompt P") == 0
    assert out.getvalue() == "Pabc\n"


def test_ctrl_c_while_sampling_ends_the_line(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(net: object, prompt: str, **how: object) -> Iterator[str]:
        yield "a"
        signal.raise_signal(signal.SIGINT)
        yield "b"

    monkeypatch.setattr(cli, "stream_text", drawn)
    assert run("sample shakespeare --prompt P") == 130
    assert said() == ("Pa\n", "hlstm: interrupted\n")


def test_evaluate_measures_what_the_library_measures(said: Said) -> None:
    net = hlstm.load_pretrained("shakespeare")
    Path("more.txt").write_text("ROMEO:\nWhat says he?\n" * 30)
    text = Path("text.txt").read_text() + "\n" + Path("more.txt").read_text()
    assert run("evaluate shakespeare text.txt more.txt --batch-size 8 --json") == 0
    out, err = said()
    found = json.loads(out)
    nats = hlstm.evaluate(net, net.vocab.encode(text), batch_size=8)
    assert not err and math.isclose(found["nats"], nats)
    assert math.isclose(found["bits"], nats / math.log(2))
    assert math.isclose(found["perplexity"], math.exp(nats))
    assert found["characters"] == 8 * (len(text) // 8 - 1) and found["dropped"] == 0
    assert run("evaluate shakespeare text.txt more.txt --batch-size 8") == 0
    lines = dict(line.split() for line in said()[0].splitlines())
    assert lines.keys() == found.keys() and lines["nats"] == f"{nats:.6g}"


def test_unknown_characters_are_dropped_and_counted(said: Said) -> None:
    Path("micro.txt").write_text("µ" + LINE * 9 + "µ")
    Path("plain.txt").write_text(LINE * 9)
    assert run("evaluate shakespeare micro.txt --drop-unknown --json") == 0
    assert run("evaluate shakespeare plain.txt --json") == 0
    dropped, plain = events(said()[0])
    assert dropped == plain | {"dropped": 2}


def test_sigterm_while_evaluating(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object, **how: object) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 0.0

    monkeypatch.setattr(cli, "evaluate", slow)
    assert run("evaluate shakespeare text.txt") == 143
    assert said() == ("", "hlstm: ended by SIGTERM\n")


def test_info_of_a_run(place: Path, said: Said) -> None:
    assert train() == 0
    said()
    assert run("info run --json") == 0
    about = json.loads(said()[0])
    assert (about["step"], about["hidden_size"]) == (30, 8)
    assert about["config"]["sequence_length"] == 16
    assert about["vocabulary"] == "".join(sorted(set(LINE)))
    assert about["corpus"][0]["file"] == str(place / "text.txt")
    assert run("info run") == 0
    lines = said()[0].splitlines()
    assert [line.split() for line in lines if "sequence" in line] == [
        ["config.sequence_length", "16"]
    ]
    Path("run/corpus.json").unlink()
    assert run("info run --json") == 0
    assert "corpus" not in json.loads(said()[0])


def test_info_of_a_model(said: Said) -> None:
    net = hlstm.load_pretrained("shakespeare")
    assert run("info shakespeare --json") == 0
    about = json.loads(said()[0])
    assert about["vocabulary"] == "".join(net.vocab.symbols)
    assert about["parameters"] == sum(p.numel() for p in net.parameters())
    assert run("info shakespeare") == 0
    assert len(said()[0].splitlines()) == len(about)


# Terminals, pipes and processes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(
    terminal: bool, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    assert train() == 0
    assert ("30/30" in err.getvalue()) == terminal
    err.truncate(0)
    assert run("evaluate run text.txt --json") == 0
    assert ("char" in err.getvalue()) == terminal
    assert len(events(said()[0])) == 6


@posix
def test_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run("--version") == 141
        print("into nothing", flush=True)


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


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])  # not all systems have both
def test_a_stopped_process_goes_on_to_the_same_end(name: str, said: Said) -> None:
    """The second process is this one; it must end where an undisturbed run ends."""
    number = signal.Signals[name]
    words = ["text.txt", "--json", *SMALL, *SCHEDULE, "--steps", "150"]
    with start("train", "--out", "run", *words) as process:
        read_until(process, 40)
        process.send_signal(number)
        _, err = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.startswith("hlstm: SIGINT stopped") and err.count("\n") == 1
    else:
        assert process.returncode == -signal.SIGKILL
    assert run("train --resume --out run --json") == 0
    out, err = said()
    assert 30 <= events(out)[0]["step"] < 150 and not err
    assert cli.main(["train", "--out", "whole", *words]) == 0
    assert same(weights("run"), weights("whole"))


@posix
def test_a_paused_process_goes_on_to_the_same_end(said: Said) -> None:
    words = ["text.txt", "--json", *SMALL, *SCHEDULE, "--steps", "150"]
    with start("train", "--out", "run", *words) as process:
        read_until(process, 40)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
    assert process.returncode == 0 and not err
    assert events(out)[-1] == {"event": "end", "run": "run", "step": 150}
    assert cli.main(["train", "--out", "whole", *words]) == 0
    assert same(weights("run"), weights("whole"))


@posix
def test_ctrl_c_in_a_shell() -> None:
    with start("sample", "shakespeare", "--length", "1000000") as process:
        assert process.stdout and process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out.endswith("\n") and err == "hlstm: interrupted\n"


@posix
def test_a_closed_pipe_in_a_shell() -> None:
    with start("sample", "shakespeare", "--length", "1000000") as process:
        assert process.stdout and process.stderr
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, "")


@posix
def test_a_bar_in_a_terminal() -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = ["evaluate", "shakespeare", "text.txt", "--json"]
    with start(*words, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 1 << 12):
                shown += piece
        except OSError:  # the other end is closed
            pass
        out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0 and b"char/s" in shown
    assert json.loads(out)["characters"] > 0


@posix
def test_ctrl_c_while_pytorch_loads() -> None:
    """A signal in the middle of the import, where an exception may be swallowed."""
    code = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from hlstm.__main__ import start
sys.exit(start())
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_the_program_is_installed(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = entry_points(group="console_scripts", name="hlstm")
    program = entry.load()
    monkeypatch.setattr(sys, "argv", ["hlstm", "--version"])
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        signal.signal(signal.SIGINT, handler)
        assert program() == 0
        assert signal.getsignal(signal.SIGINT) == handler
    assert said()[0] == f"hlstm {hlstm.__version__}\n" * 2
