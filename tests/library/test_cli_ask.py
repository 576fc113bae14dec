"""Asking a network on the command line: what it writes, how good it is, what it is."""

# ruff: noqa: F401, F811  (fixtures are imported, and then named again)

import io
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hlstm
from hlstm import cli, cli_ask
from hlstm.sampling import generate_text
from tests.conftest import posix
from tests.library.shell import (
    LINE,
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


class Recorder(io.StringIO):
    """A stream that knows what has been flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


def give(text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a text on stdin."""
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# Sampling


def test_sample_writes_what_the_library_writes(said: Said) -> None:
    line = "sample shakespeare --prompt ROMEO: --length 40 --temperature 0.6 --seed 3"
    assert run(line, "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01") == 0
    net = hlstm.load_pretrained("shakespeare")
    how: dict[str, Any] = {"top_k": 20, "top_p": 0.9, "min_p": 0.01}
    expected = generate_text(net, "ROMEO:", 40, 0.6, seed=3, **how)
    assert said() == (expected + "\n", "")
    assert run(line + " --json") == 0
    found = json.loads(said()[0])
    assert found["prompt"] + found["texts"][0] == generate_text(
        net, "ROMEO:", 40, 0.6, seed=3
    )
    assert (found["temperature"], found["seed"], found["top_k"]) == (0.6, 3, None)


def test_several_samples_are_told_apart(said: Said) -> None:
    line = "sample shakespeare --prompt To --length 20 --seed 3 --num-samples 2"
    net = hlstm.load_pretrained("shakespeare")
    first, second = generate_text(net, "To", length=20, seed=3, num_samples=2)
    assert first != second and first.startswith("To")
    assert run(line) == 0
    assert said()[0] == f"--- 1 of 2\n{first}\n--- 2 of 2\n{second}\n"
    assert run(line, "--json", "--no-prompt") == 0
    assert json.loads(said()[0])["texts"] == [first[2:], second[2:]]


def test_a_stop_ends_each_sample(said: Said) -> None:
    line = "sample shakespeare --prompt To --length 200 --seed 3 --stop e --json"
    assert run(line) == run(line, "--num-samples", "3") == 0
    for found in events(said()[0]):
        assert all("e" not in text and len(text) < 200 for text in found["texts"])


def test_a_prompt_may_come_from_stdin(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    give("\ufeffROMEO:\r\n", monkeypatch)
    line = "sample shakespeare --length 9 --seed 1"
    assert run(line, "--prompt-file", "-") == run(line, "--prompt", "ROMEO:\n") == 0
    out = said()[0]
    assert out[: len(out) // 2] == out[len(out) // 2 :] and out.startswith("ROMEO:\n")


def test_sample_ends_its_last_line_once(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("sample shakespeare --prompt ROMEO: --length 0") == 0
    assert said()[0] == "ROMEO:\n"
    assert run("sample shakespeare --length 0") == 0
    assert run("sample shakespeare --prompt ROMEO: --length 0 --no-prompt") == 0
    assert said()[0] == ""
    monkeypatch.setattr(cli_ask, "stream_text", lambda *a, **k: iter("ab\n"))
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
    newest = generate_text(hlstm.load_run("run"), "To", 60, seed=0) + "\n"
    assert written == [newest, written[2], written[2]]
    assert written[2] == generate_text(best, "To", 60, seed=0) + "\n"


def test_each_character_is_flushed_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Recorder()
    monkeypatch.setattr(sys, "stdout", out)

    def drawn(net: object, prompt: str, **how: object) -> Iterator[str]:
        for k, character in enumerate("abc"):
            assert out.flushed == prompt + "abc"[:k]
            yield character

    monkeypatch.setattr(cli_ask, "stream_text", drawn)
    assert run("sample shakespeare --prompt P") == 0
    assert out.getvalue() == "Pabc\n"


def test_ctrl_c_while_sampling_ends_the_line(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(net: object, prompt: str, **how: object) -> Iterator[str]:
        yield "a"
        signal.raise_signal(signal.SIGINT)
        yield "b"

    monkeypatch.setattr(cli_ask, "stream_text", drawn)
    assert run("sample shakespeare --prompt P") == 130
    assert said() == ("Pa\n", "hlstm: interrupted\n")


# Evaluating


def test_evaluate_measures_what_the_library_measures(said: Said) -> None:
    net = hlstm.load_pretrained("shakespeare")
    Path("more.txt").write_text("ROMEO:\nWhat says he?\n" * 30)
    text = Path("text.txt").read_text() + "\n" + Path("more.txt").read_text()
    line = "evaluate shakespeare text.txt more.txt --protocol streams:8"
    assert run(line, "--json") == 0
    out, err = said()
    found = json.loads(out)
    nats = hlstm.evaluate(net, net.vocab.encode(text), batch_size=8)
    assert not err and math.isclose(found["nats"], nats)
    assert math.isclose(found["bits"], nats / math.log(2))
    assert math.isclose(found["perplexity"], math.exp(nats))
    assert found["characters"] == 8 * (len(text) // 8 - 1) and found["dropped"] == 0
    assert run(line) == 0
    lines = dict(line.split() for line in said()[0].splitlines())
    assert lines.keys() == found.keys() and lines["nats"] == f"{nats:.6g}"


@pytest.mark.parametrize(
    ("protocol", "how"),
    [
        ("streaming", {"batch_size": 1}),
        ("windows:32", {"sequence_length": 32, "carry": False}),
        ("windows:1", {"sequence_length": 1, "carry": False}),
        ("windows:99999", {"sequence_length": 99999, "carry": False}),
        ("streams:4", {"batch_size": 4}),
        ("streams:32", {}),
    ],
)
def test_a_protocol_is_that_of_the_library(
    protocol: str, how: dict[str, Any], trained: Path, said: Said
) -> None:
    assert run(f"evaluate run text.txt --protocol {protocol} --json") == 0
    found, net = json.loads(said()[0]), hlstm.load_run("run")
    ids = net.vocab.encode(LINE * 40)
    assert math.isclose(found["nats"], hlstm.evaluate(net, ids, **how))
    assert found["protocol"] == protocol
    streams = how.get("batch_size", 32 if not how else 1)
    assert found["characters"] == streams * (len(ids) // streams - 1)


def test_unknown_characters_are_dropped_and_counted(said: Said) -> None:
    Path("micro.txt").write_text("µ" + LINE * 9 + "µ")
    Path("plain.txt").write_text(LINE * 9)
    assert run("evaluate shakespeare micro.txt --drop-unknown --json") == 0
    assert run("evaluate shakespeare plain.txt --json") == 0
    dropped, plain = events(said()[0])
    assert dropped == plain | {"dropped": 2}


def test_a_loss_beyond_exp_is_measured(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_ask, "evaluate", lambda *a, **k: 1e4)
    assert run("evaluate shakespeare text.txt --json") == 0
    assert json.loads(said()[0])["perplexity"] is None
    assert run("evaluate shakespeare text.txt") == 0
    assert "inf" in said()[0]


def test_sigterm_while_evaluating(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object, **how: object) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 0.0

    monkeypatch.setattr(cli_ask, "evaluate", slow)
    assert run("evaluate shakespeare text.txt") == 143
    assert said() == ("", "hlstm: ended by SIGTERM\n")


# What a network is


def test_info_of_a_run(made: Path, trained: Path, said: Said) -> None:
    assert run("info run --json") == 0
    about = json.loads(said()[0])
    assert (about["step"], about["hidden_size"]) == (30, 8)
    assert about["config"]["sequence_length"] == 16
    assert about["vocabulary"] == "".join(sorted(set(LINE)))
    assert about["corpus"][0]["file"] == str(made / "text.txt")
    assert about["options"]["val_fraction"] == 0.1
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


# Files that are written


def test_what_is_compressed_comes_back_to_the_byte(said: Said) -> None:
    text = "ROMEO:\n\nWhat says he? No end of line here"
    Path("letter.txt").write_bytes(text.encode())
    assert run("compress letter.txt packed --streams 2") == 0
    assert run("decompress packed again.txt") == 0
    assert Path("again.txt").read_bytes() == text.encode()
    packed = Path("packed").read_bytes()
    assert len(packed) < len(text)
    assert said()[0].splitlines() == [
        "file                    packed",
        f"bytes                   {len(packed)}",
        f"characters              {len(text)}",
        f"bits_per_character      {8 * len(packed) / len(text):.6g}",
        "file                    again.txt",
        f"bytes                   {len(text)}",
        f"characters              {len(text)}",
    ]


@pytest.mark.parametrize("text", ["To\r\nbe", "\ufeffTo be"])
def test_a_text_that_would_be_changed_is_refused(text: str, said: Said) -> None:
    """Training takes such a text with other line ends; what comes back is the same."""
    Path("letter.txt").write_bytes(text.encode())
    assert run("compress letter.txt packed") == 1
    assert not Path("packed").exists() and "not in the vocabulary" in said()[1]


def test_a_pipe_of_both(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(LINE, monkeypatch)
    assert run("compress - -") == 0
    packed, err = capsysbinary.readouterr()
    assert packed == hlstm.compress(hlstm.load_pretrained("shakespeare"), LINE)
    give(packed, monkeypatch)
    assert run("decompress - -") == 0
    assert capsysbinary.readouterr() == (LINE.encode(), b"") and err == b""


@pytest.mark.parametrize(
    "line",
    ["compress short packed", "decompress small packed", "quantise run packed"],
)
def test_a_file_is_replaced_whole_or_not_at_all(
    line: str, trained: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = hlstm.load_pretrained("shakespeare")
    Path("short").write_text("To be")
    Path("small").write_bytes(hlstm.compress(net, "To be"))
    Path("packed").write_bytes(b"mine")
    assert run(line) == 1
    assert "packed is there already: --force replaces it" in said()[1]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        assert run(line, "--force") == 1
    assert said()[1] == "hlstm: No space left on device\n"
    assert Path("packed").read_bytes() == b"mine"
    names = {path.name for path in Path().iterdir()}
    assert names == {"text.txt", "run", "short", "small", "packed"}
    assert run(line, "--force") == 0
    assert Path("packed").read_bytes() != b"mine"


def test_a_network_of_one_byte_a_weight_is_read_by_all(
    trained: Path, said: Said
) -> None:
    assert run("quantise run small.safetensors") == 0
    net = hlstm.load_int8("small.safetensors")
    said()
    assert run("sample small.safetensors --prompt To --length 9 --seed 0") == 0
    assert said()[0] == generate_text(net, "To", 9, seed=0) + "\n"
    assert run("evaluate small.safetensors text.txt --json") == 0
    ids = net.vocab.encode(LINE * 40)
    assert math.isclose(json.loads(said()[0])["nats"], hlstm.evaluate(net, ids))
    assert run("info small.safetensors --json") == 0
    assert json.loads(said()[0])["hidden_size"] == 8
    line = "train text.txt --out new --init-from small.safetensors --batch-size 4"
    assert run(line, "--steps", "1", "--learning-rate", "1e-30") == 0
    for name, weight in weights("new").items():
        assert weight.allclose(net.state_dict()[name])
