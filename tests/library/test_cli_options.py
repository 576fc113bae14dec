"""Every option of every command, through the program: what to type, and what comes of it."""

# ruff: noqa: F401, F811  (fixtures are imported, and then named again)

import io
import json
import re
import shlex
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import hlstm
from hlstm import cli, cli_ask
from hlstm.recipes import PRESETS, suggest
from hlstm.runs import run_info
from hlstm.sampling import generate_text
from tests.library.shell import (
    LINE,
    SMALL,
    Said,
    events,
    made,
    place,
    run,
    said,
    same,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("trained")
TRAIN = f"train text.txt --out new --json {' '.join(SMALL)} --steps 2"
STILL = f"{TRAIN} --learning-rate 1e-30"  # weights stay what they were at the start
TEXT = LINE * 40


@dataclass
class Seen:
    """What a command has left: its words, and what it printed."""

    line: str
    out: str
    err: str

    @property
    def told(self) -> list[dict[str, Any]]:
        return events(self.out)

    @property
    def found(self) -> dict[str, Any]:
        (only,) = self.told
        return only


Check = Callable[[Seen], object]
SHAKESPEARE = partial(hlstm.load_pretrained, "shakespeare")


def configured(name: str, value: object) -> Check:
    """The new run has this value in its configuration."""
    return lambda seen: run_info("new")["config"][name] == value


def begun(**how: Any) -> Check:
    """The new run's network began as the library's does with these options."""

    def check(seen: Seen) -> bool:
        torch.manual_seed(0)
        options = {"hidden_size": 8, "num_layers": 1} | how
        net = hlstm.DeepRNN(hlstm.Vocabulary.from_text(LINE), **options)
        found = hlstm.load_run("new")
        close = all(
            torch.allclose(net.state_dict()[k], t) for k, t in weights("new").items()
        )
        return net.describe() == found.describe() and close

    return check


def writes(prompt: str | None = "To", **how: Any) -> Check:
    """Exactly what the library writes with these arguments was printed."""
    how = {"length": 30, "seed": 1} | how
    return lambda seen: (
        seen.out == generate_text(SHAKESPEARE(), prompt, **how).rstrip("\n") + "\n"
    )


def measures(text: str = TEXT, network: str = "run", **how: Any) -> Check:
    """The loss is that of the library's `evaluate`."""

    def check(seen: Seen) -> bool:
        net = hlstm.load_run("run", best=how.pop("best", False))
        ids = net.vocab.encode(text)
        return bool(
            seen.found["nats"] == pytest.approx(hlstm.evaluate(net, ids, **how))
        )

    return check


def refused(*words: str) -> Check:
    """One line on stderr has these words."""
    return lambda seen: (
        all(w in seen.err for w in words) and seen.err.count("\n") == 1 and not seen.out
    )


def read(path: str) -> bytes:
    return Path(path).read_bytes()


SAMPLE = "sample shakespeare --prompt To --length 30 --seed 1"
NETWORK: dict[str, Any] = {
    "hidden_size": 5,
    "num_layers": 2,
    "dropout": 0.25,
    "dropout_head": 0.5,
    "weight_drop": 0.125,
    "locked": True,
    "tied": True,
    "column_bound": 0.01,
    "forget_bias": -2.0,
    "engine": "reference",
}
TRAINING: dict[str, Any] = {
    "batch_size": 3,
    "sequence_length": 9,
    "steps": 1,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "weight_decay": 0.2,
    "max_norm": 0.5,
    "precision": "bfloat16",
    "accumulate": 2,
    "ema": 0.5,
    "reset": 0.25,
    "eval_every": 1,
    "seed": 7,
    "save_every": 1,
    "keep_checkpoints": 1,
}
# Of a command and an option: what is typed, the exit code, and what must have come of it.
CASES: dict[tuple[str, str], tuple[str, int, Check]] = {
    ("train", "FILE..."): (
        f"{TRAIN} --val-fraction 0",
        0,
        lambda seen: seen.told[0]["characters"] == len(TEXT),
    ),
    ("train", "--json"): (
        TRAIN,
        0,
        lambda seen: [e["event"] for e in seen.told][::3] == ["start", "end"],
    ),
    ("train", "--out"): (
        f"{TRAIN} --out there",
        0,
        lambda seen: run_info("there")["step"] == 2 and seen.told[-1]["run"] == "there",
    ),
    ("train", "--device"): (f"{TRAIN} --device warp", 1, refused("no device 'warp'")),
    ("train", "--resume"): (
        "train --resume --out run --json",
        0,
        lambda seen: seen.told[0]["step"] == seen.told[0]["steps"] == 30,
    ),
    ("train", "--preset"): (
        f"{TRAIN} --preset quick",
        0,
        lambda seen: (
            run_info("new")["config"]
            == vars(PRESETS["quick"].config)
            | {"batch_size": 4, "sequence_length": 16, "steps": 2}
            and run_info("new")["dropout"] == PRESETS["quick"].network["dropout"]
            and run_info("new")["hidden_size"] == 8
        ),
    ),
    ("train", "--init-from"): (
        "train text.txt --out new --init-from run --batch-size 4 --steps 1 "
        "--learning-rate 1e-30 --json",
        0,
        lambda seen: all(
            torch.allclose(t, weights("run")[k]) for k, t in weights("new").items()
        ),
    ),
    ("train", "--drop-unknown"): (
        "train micro.txt --out new --init-from run --batch-size 4 --steps 1 --json "
        "--drop-unknown --val-fraction 0",
        0,
        lambda seen: seen.told[0]["characters"] == len(TEXT),
    ),
    ("train", "--no-drop-unknown"): (
        "train micro.txt --out new --init-from run --drop-unknown --no-drop-unknown",
        1,
        refused("U+00B5", "--drop-unknown leaves them out"),
    ),
    ("train", "--val-fraction"): (
        f"{TRAIN} --val-fraction 0.25",
        0,
        lambda seen: seen.told[0]["held_out"] == len(TEXT) // 4,
    ),
    ("train", "--val-file"): (
        f"{TRAIN} --val-file other.txt",
        0,
        lambda seen: (
            (seen.told[0]["characters"], seen.told[0]["held_out"])
            == (len(TEXT), len(LINE) * 3)
        ),
    ),
    ("train", "--max-minutes"): (
        f"{TRAIN} --steps 5000 --max-minutes 1e-9",
        0,
        lambda seen: (
            seen.told[-1]["step"] == run_info("new")["step"] == 1
            and "--max-minutes 1e-09" in seen.told[-1]["reason"]
        ),
    ),
    ("train", "--patience"): (
        f"{STILL} --steps 50 --eval-every 1 --patience 2",
        0,
        lambda seen: 3 <= seen.told[-1]["step"] < 50,
    ),
    ("train", "--sample-length"): (
        f"{TRAIN} --sample-length 9 --eval-every 1",
        0,
        lambda seen: (
            [len(e["text"]) for e in seen.told if e["event"] == "sample"] == [9, 9]
        ),
    ),
    ("train", "--tensorboard"): (
        f"{TRAIN} --tensorboard",
        0,
        lambda seen: "val_loss" in Path("new/tensorboard/points").read_text(),
    ),
    ("train", "--no-tensorboard"): (
        f"{TRAIN} --tensorboard --no-tensorboard",
        0,
        lambda seen: not Path("new/tensorboard").exists(),
    ),
    ("train", "--no-locked"): (f"{STILL} --locked --no-locked", 0, begun(locked=False)),
    ("train", "--no-tied"): (f"{STILL} --tied --no-tied", 0, begun(tied=False)),
    ("sample", "RUN"): (
        "sample run --seed 0 --length 9",
        0,
        lambda seen: (
            seen.out.rstrip("\n")
            == generate_text(hlstm.load_run("run"), length=9, seed=0).rstrip("\n")
        ),
    ),
    ("sample", "--json"): (
        f"{SAMPLE} --json",
        0,
        lambda seen: (
            "To" + seen.found["texts"][0]
            == generate_text(SHAKESPEARE(), "To", length=30, seed=1)
        ),
    ),
    ("sample", "--prompt"): (SAMPLE, 0, writes()),
    ("sample", "--prompt-file"): (
        "sample shakespeare --prompt-file other.txt --length 30 --seed 1",
        0,
        writes(LINE * 3),
    ),
    ("sample", "--no-prompt"): (f"{SAMPLE} --no-prompt", 0, writes(with_prompt=False)),
    ("sample", "--num-samples"): (
        f"{SAMPLE} --num-samples 3",
        0,
        lambda seen: (
            re.split(r"^--- \d of 3\n", seen.out, flags=re.M)[1:]
            == [
                text + "\n"
                for text in generate_text(
                    SHAKESPEARE(), "To", length=30, seed=1, num_samples=3
                )
            ]
        ),
    ),
    ("sample", "--stop"): (
        f"{SAMPLE} --stop th --stop e --length 200",
        0,
        writes(stop=["th", "e"], length=200),
    ),
    ("sample", "--length"): (f"{SAMPLE} --length 7", 0, writes(length=7)),
    ("sample", "--temperature"): (
        f"{SAMPLE} --temperature 2",
        0,
        writes(temperature=2.0),
    ),
    ("sample", "--top-k"): (f"{SAMPLE} --top-k 2", 0, writes(top_k=2)),
    ("sample", "--top-p"): (f"{SAMPLE} --top-p 0.3", 0, writes(top_p=0.3)),
    ("sample", "--min-p"): (f"{SAMPLE} --min-p 0.4", 0, writes(min_p=0.4)),
    ("sample", "--seed"): (f"{SAMPLE} --seed 5", 0, writes(seed=5)),
    ("sample", "--best"): (
        "sample run --best --seed 0 --length 9",
        0,
        lambda seen: (
            seen.out.rstrip("\n")
            == generate_text(hlstm.load_run("run", best=True), length=9, seed=0).rstrip(
                "\n"
            )
        ),
    ),
    ("sample", "--device"): (f"{SAMPLE} --device warp", 1, refused("no device 'warp'")),
    ("evaluate", "RUN"): ("evaluate run text.txt --json", 0, measures()),
    ("evaluate", "FILE..."): (
        "evaluate run text.txt other.txt --json",
        0,
        measures(TEXT + "\n" + LINE * 3),
    ),
    ("evaluate", "--json"): (
        "evaluate run text.txt --json",
        0,
        lambda seen: seen.found["protocol"] == "streams:32",
    ),
    ("evaluate", "--protocol"): (
        "evaluate run text.txt --json --protocol windows:20",
        0,
        measures(sequence_length=20, carry=False),
    ),
    ("evaluate", "--best"): (
        "evaluate run text.txt --best --json",
        0,
        measures(best=True),
    ),
    ("evaluate", "--drop-unknown"): (
        "evaluate run micro.txt --drop-unknown --json",
        0,
        lambda seen: measures()(seen) and seen.found["dropped"] == 2,
    ),
    ("evaluate", "--device"): (
        "evaluate run text.txt --device warp",
        1,
        refused("no device 'warp'"),
    ),
    ("info", "RUN"): ("info run", 0, lambda seen: "config.sequence_length" in seen.out),
    ("info", "--json"): (
        "info run --json",
        0,
        lambda seen: seen.found["corpus"][0]["file"].endswith("text.txt"),
    ),
    ("doctor", "RUN"): (
        "doctor run",
        0,
        lambda seen: "The held-out loss is as low as the training loss." in seen.out,
    ),
    ("doctor", "--json"): (
        "doctor run --json",
        0,
        lambda seen: all(
            d.keys() == {"symptom", "finding", "cure"} for d in seen.found["findings"]
        ),
    ),
    ("suggest", "FILE..."): (
        "suggest text.txt other.txt --minutes 5",
        0,
        lambda seen: f"hlstm train text.txt other.txt {suggested(1849, 5)}" in seen.out,
    ),
    ("suggest", "--characters"): (
        "suggest --characters 1000000 --minutes 5",
        0,
        lambda seen: f"hlstm train FILE {suggested(1_000_000, 5)}" in seen.out,
    ),
    ("suggest", "--minutes"): (
        "suggest --characters 1000000 --minutes 50",
        0,
        lambda seen: f"hlstm train FILE {suggested(1_000_000, 50)}" in seen.out,
    ),
    ("suggest", "--json"): (
        "suggest --characters 1000000 --minutes 50 --json",
        0,
        lambda seen: seen.found["command"].endswith(suggested(1_000_000, 50)),
    ),
    ("compress", "IN"): (
        "compress other.txt out --json",
        0,
        lambda seen: (
            hlstm.decompress(SHAKESPEARE(), read("out")).encode() == read("other.txt")
        ),
    ),
    ("compress", "OUT"): (
        "compress other.txt out",
        0,
        lambda seen: read("out") == hlstm.compress(SHAKESPEARE(), LINE * 3),
    ),
    ("compress", "--json"): (
        "compress other.txt out --json",
        0,
        lambda seen: seen.found["bytes"] == len(read("out")) < 3 * len(LINE),
    ),
    ("compress", "--network"): (
        "compress other.txt out --network run",
        0,
        lambda seen: read("out") == hlstm.compress(hlstm.load_run("run"), LINE * 3),
    ),
    ("compress", "--streams"): (
        "compress other.txt out --streams 3",
        0,
        lambda seen: read("out") == hlstm.compress(SHAKESPEARE(), LINE * 3, streams=3),
    ),
    ("compress", "--force"): (
        "compress other.txt text.txt --force",
        0,
        lambda seen: read("text.txt") == hlstm.compress(SHAKESPEARE(), LINE * 3),
    ),
    ("compress", "--device"): (
        "compress other.txt out --device warp",
        1,
        refused("no device 'warp'"),
    ),
    ("decompress", "IN"): (
        "decompress packed out",
        0,
        lambda seen: read("out") == LINE.encode(),
    ),
    ("decompress", "OUT"): (
        "decompress packed -",
        0,
        lambda seen: seen.out == LINE,
    ),
    ("decompress", "--json"): (
        "decompress packed out --json",
        0,
        lambda seen: seen.found == {"file": "out", "bytes": 43, "characters": 43},
    ),
    ("decompress", "--network"): (
        "decompress packed out --network run",
        1,
        lambda seen: "it was written with another network" in seen.err,
    ),
    ("decompress", "--force"): (
        "decompress packed text.txt --force",
        0,
        lambda seen: read("text.txt") == LINE.encode(),
    ),
    ("decompress", "--device"): (
        "decompress packed out --device warp",
        1,
        refused("no device 'warp'"),
    ),
    ("quantise", "RUN"): (
        "quantise run small.safetensors",
        0,
        lambda seen: small_is(hlstm.load_run("run")),
    ),
    ("quantise", "OUT"): (
        "quantise shakespeare small.safetensors",
        0,
        lambda seen: small_is(SHAKESPEARE()),
    ),
    ("quantise", "--json"): (
        "quantise run small.safetensors --json",
        0,
        lambda seen: (
            seen.found["bytes"] == len(read("small.safetensors"))
            and seen.found["parameters"] == run_info("run")["parameters"]
        ),
    ),
    ("quantise", "--best"): (
        "quantise run small.safetensors --best",
        0,
        lambda seen: small_is(hlstm.load_run("run", best=True)),
    ),
    ("quantise", "--force"): (
        "quantise run text.txt --force",
        0,
        lambda seen: set(hlstm.load_int8("text.txt").vocab.symbols) == set(LINE),
    ),
}
for name, value in NETWORK.items():
    flag = "--" + name.replace("_", "-")
    words = f"{STILL} {flag}" + ("" if value is True else f" {value}")
    CASES["train", flag] = words, 0, begun(**{name: value})
for name, value in TRAINING.items():
    flag = "--" + name.replace("_", "-")
    CASES["train", flag] = f"{TRAIN} {flag} {value}", 0, configured(name, value)


def suggested(characters: int, minutes: float) -> str:
    """The words that follow from a suggestion, in the order of the options."""
    found = suggest(characters, minutes)
    usual = cli_ask.Sizes(), hlstm.TrainConfig()
    chosen = found.network, vars(found.config)
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for options, default in zip(chosen, usual, strict=True)
        for name, value in options.items()
        if value != getattr(default, name)
    )


def small_is(net: hlstm.DeepRNN) -> bool:
    """The file `small.safetensors` holds a network with one byte a weight."""
    hlstm.save_int8(net, "expected.safetensors")
    found = hlstm.load_int8("small.safetensors").state_dict()
    return same(found, hlstm.load_int8("expected.safetensors").state_dict())


class Writer:
    """Stands for TensorBoard's: a line for each point."""

    def __init__(self, folder: str, **how: object) -> None:
        Path(folder).mkdir(exist_ok=True)
        self.path = Path(folder, "points")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        with self.path.open("a") as file:
            file.write(f"{name} {value} {step}\n")

    def flush(self) -> None:
        """Nothing waits."""

    close = flush


def options_of(command: str) -> set[str]:
    """What the parser of a command takes, as its help lists it."""
    table = cli.help_of(command).partition("positional arguments")[2]
    flags = re.findall(r"(?m)^ +(--[a-z][a-z-]*)(?:, (--[a-z-]+))?", table)
    places = re.findall(r"(?m)^ +(?:([A-Z]+(?:\.\.\.)?)  +\S)", table)
    return {name for pair in flags for name in pair if name} | set(places)


def test_every_option_has_a_case(place: Path) -> None:
    found = {(name, flag) for name in cli.COMMANDS for flag in options_of(name)}
    assert len(found) > 80 and ("train", "--no-locked") in found
    assert found == CASES.keys()
    for (_, flag), (line, *_) in CASES.items():
        assert not flag.startswith("--") or flag in line.split(), line


@pytest.mark.parametrize(
    ("command", "option"), CASES, ids=[" ".join(names) for names in CASES]
)
def test_an_option_does_what_it_says(
    command: str,
    option: str,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("other.txt").write_text(LINE * 3)
    Path("micro.txt").write_text("µ" + TEXT + "µ")
    if command == "decompress":
        Path("packed").write_bytes(hlstm.compress(SHAKESPEARE(), LINE))
    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    line, code, check = CASES[command, option]
    assert line.startswith(command)
    assert (run(line), check(Seen(line, *said()))) == (code, True)


# What is out of range


BAD = {
    "train text.txt --preset fast": "--preset is one of minute, quick, best, and got 'fast'",
    "train text.txt --max-minutes 0": "--max-minutes is a number above 0, and got 0",
    "train text.txt --max-minutes nan": "--max-minutes is a number above 0, and got nan",
    "train text.txt --patience -1": "--patience is an integer, 0 or larger, and got -1",
    "train text.txt --patience 3 --val-fraction 0": "--patience 3 needs a text that is "
    "held out: give a --val-fraction above 0, or a --val-file",
    "train text.txt --sample-length -1": "--sample-length is an integer, 0 or larger, and "
    "got -1",
    "train text.txt --val-file text.txt --val-fraction 0.2": "--val-file and "
    "--val-fraction both say what is held out: give one",
    "train text.txt --drop-unknown": "--drop-unknown needs --init-from",
    "train text.txt --init-from run --hidden-size 9": "--hidden-size 9 contradicts "
    "--init-from run, whose network has --hidden-size 8: leave it out",
    "train text.txt --init-from run --num-layers 2": "--num-layers 2 contradicts "
    "--init-from run, whose network has --num-layers 1: leave it out",
    "train text.txt --init-from run --tied": "--tied True contradicts --init-from run",
    "train text.txt --init-from run --column-bound 2": "--column-bound 2.0 contradicts "
    "--init-from run, whose network has its weights already: leave it out",
    "train text.txt --init-from run --preset best --forget-bias 2": "--forget-bias 2.0 "
    "contradicts --init-from run",
    "train - - --out new": "FILE - is stdin, which can be read once",
    "train - --val-file - --out new": "FILE - is stdin, which can be read once",
    "train text.txt --precision float16": "--precision is one of auto, float32, bfloat16, "
    "and got 'float16'",
    "train text.txt --precision half": "--precision is one of auto, float32, bfloat16, "
    "and got 'half'",
    "train text.txt --accumulate 0": "--accumulate is an integer from 1 to 32, and got 0",
    "train text.txt --accumulate 33": "--accumulate is an integer from 1 to 32, and got 33",
    "train text.txt --ema 2": "--ema is a number from 0 to 1, and got 2",
    "train text.txt --reset -0.1": "--reset is a number from 0 to 1, and got -0.1",
    "train text.txt --eval-every -1": "--eval-every is an integer, 0 or larger, and got -1",
    "train text.txt --dropout-head 2": "--dropout-head is a number from 0 to 1, and got 2",
    "train text.txt --weight-drop 2": "--weight-drop is a number from 0 to 1, and got 2",
    "train text.txt --column-bound 0": "--column-bound is a number above 0, and got 0",
    "train text.txt --column-bound wide": "--column-bound FLOAT|none",
    "train text.txt --forget-bias nan": "--forget-bias is a number, and got nan",
    "train text.txt --engine warp": "--engine is one of ",
    "train --resume --out run --learning-rate 1": "--learning-rate is 0.015 in this run, "
    "and got 1.0: a run keeps the options it began with, but for --steps",
    "train --resume --out run --steps 29": "--steps is an integer, 30 or larger, and got 29",
    "train --resume --out run --val-file text.txt": "--val-file text.txt is new to this run",
    "train --resume --out run --preset quick": "--preset is None in this run, and got quick",
    "train --resume --out run --init-from run": "--init-from is None in this run, and got "
    "run",
    "train --resume --out run --locked": "--locked is False in this run, and got True",
    "train --resume": "--out is empty, or left out: name the folder of the run",
    "sample shakespeare --num-samples 0": "--num-samples is an integer, 1 or larger, and "
    "got 0",
    "sample shakespeare --stop ''": "--stop",
    "sample shakespeare --min-p 2": "--min-p is a number from 0 to 1, and got 2",
    "sample shakespeare --prompt a --prompt-file text.txt": "--prompt and --prompt-file "
    "both say what to write on from: give one",
    "evaluate run text.txt --protocol windows": "--protocol is streaming, windows:T or "
    "streams:B, as in windows:256 and streams:32, and got 'windows'",
    "evaluate run text.txt --protocol windows:0": "and got 'windows:0'",
    "evaluate run text.txt --protocol streams:-1": "and got 'streams:-1'",
    "evaluate run text.txt --protocol streaming:1": "and got 'streaming:1'",
    "suggest --minutes 5": "name a FILE, or give --characters, and not both",
    "suggest text.txt --characters 5 --minutes 5": "name a FILE, or give --characters, "
    "and not both",
    "suggest text.txt": "--minutes",
    "suggest --characters 1000 --minutes 0": "--minutes is a number above 0, and got 0",
    "suggest --characters 0 --minutes 5": "--characters is an integer",
    "compress text.txt out --streams 0": "--streams is an integer from 1 to 65536, and got "
    "0",
    "compress text.txt - --json": "--json and OUT - both want stdout: name a file",
    "decompress text.txt - --json": "--json and OUT - both want stdout: name a file",
    "quantise run -": "OUT is a file, and stdout is none: name a file",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_value_is_refused_with_the_way_out(
    line: str,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(TEXT.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert run(line) == 2
    out, err = said()
    assert not out and BAD[line] in " ".join(err.replace("│", " ").split())
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != ".lock"} == {
        k: v for k, v in before.items() if k.name != ".lock"
    }
    assert not Path("runs").exists() and not Path("new").exists()


def test_every_hyperparameter_has_a_sentence_and_its_default(place: Path) -> None:
    told = " ".join(cli.help_of("train").partition("positional arguments")[2].split())
    plain = cli.parse("train", ["a", "--out", "b"])
    config = vars(hlstm.TrainConfig())
    sizes = vars(cli_ask.Sizes())
    assert vars(plain.config) == config and vars(plain.sizes) == sizes
    for name, default in (sizes | config).items():
        flag = "--" + name.replace("_", "-")
        assert flag in told and (default is None or f"(default: {default})" in told)
        shown = re.search(rf" {flag}(?:, --no-[a-z]+| \S+)(.*?)(?= --|$)", told)
        assert shown and len(shown[1]) > 20, name


def test_presets_are_promised_in_the_help(place: Path) -> None:
    told = " ".join(cli.help_of("train").partition("Presets:")[2].split())
    for name, preset in PRESETS.items():
        assert f"{name} {preset.about}" in told


def test_a_suggestion_is_words_that_train_takes(place: Path) -> None:
    """A line that `suggest` prints is one that `train` reads."""
    for characters, minutes in ((200_000, 1), (1_000_000, 30)):
        found = suggest(characters, minutes)
        words = shlex.split(suggested(characters, minutes))
        options = cli.parse("train", ["FILE", *words])
        assert vars(options.sizes) == vars(cli_ask.Sizes(**found.network))
        assert vars(options.config) == vars(found.config)


def test_a_preset_is_begun_as_in_python(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no other option its network and its configuration are the preset's, whole."""
    seen: dict[str, Any] = {}

    def fit(trainer: hlstm.Trainer, *_: object) -> None:
        seen.update(trainer.net.describe() | {"config": trainer.config})
        raise MemoryError

    monkeypatch.setattr(hlstm.Trainer, "fit", fit)
    for name, preset in PRESETS.items():
        assert run(f"train text.txt --preset {name} --out {name}") == 1
        vocab = hlstm.Vocabulary.from_text(LINE)
        described = hlstm.DeepRNN(vocab, **preset.network).describe()
        assert seen == described | {"config": preset.config}
        record = json.loads(Path(name, "corpus.json").read_text())
        assert record["options"]["preset"] == name
