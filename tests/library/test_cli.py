"""The command line as a program: help, errors, exit codes, signals, pipes, terminals."""

# ruff: noqa: F401, F811  (fixtures are imported, and then named again)

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import hlstm
from hlstm import cli, cli_ask
from tests.conftest import posix
from tests.library.shell import (
    LINE,
    SCHEDULE,
    SMALL,
    Said,
    events,
    made,
    place,
    read_until,
    run,
    said,
    same,
    start,
    train,
    trained,
    weights,
)

pytestmark = pytest.mark.usefixtures("place")


class Terminal(io.StringIO):
    """A stream that says that people read it."""

    def isatty(self) -> bool:
        return True


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


@pytest.mark.parametrize(
    "surroundings",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "5", "TERM": "dumb"},
        {"COLUMNS": "20", "NO_COLOR": "1"},
        {"COLUMNS": "400"},
    ],
)
def test_help_has_a_smallest_width_and_no_colours(
    surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    assert run("info --help") == 0
    shown = out.getvalue()
    assert "Folder of a run" in " ".join(shown.split()) and "\033" not in shown
    assert "positional" in shown


@pytest.mark.parametrize("calm", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_errors_have_no_colours_where_none_are_wanted(
    calm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in calm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    assert run("sample shakespeare --length three") == 2
    assert "--length" in err.getvalue() and "\033" not in err.getvalue()


def test_help_in_an_old_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert run("train --help") == 0
    assert b"--weight-decay" in raw.getvalue()


def test_version(said: Said) -> None:
    assert run("--version") == 0
    assert said()[0] == f"hlstm {hlstm.__version__}\n"


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
        (
            "frobnicate",
            "There are: train, sample, evaluate, info, suggest, compress, decompress, "
            "quantise",
        ),
        ("train --out run", "name at least one FILE"),
        ("train --resume", "--out"),
        ("train text.txt --out run --stepz 3", "--steps INT"),
        ("train text.txt --out run --steps three", "--steps"),
        (
            "train text.txt --out run --steps 0",
            "--steps is an integer, 1 or larger, and got 0",
        ),
        ("train text.txt --out run --hidden-size 0", "--hidden-size is an integer"),
        ("train text.txt --out shakespeare", "or ./shakespeare"),
        ("train text.txt --out tinyshakespeare", "or ./tinyshakespeare"),
        ("train text.txt --out ''", "--out is empty"),
        ("train text.txt --out text.txt", "--out text.txt is a file: name a folder"),
        ("train --resume --out text.txt", "--out text.txt is a file: name a folder"),
        ("train text.txt --out run --learning-rate nan", "--learning-rate is a number"),
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
        (
            "evaluate shakespeare text.txt --protocol streams:0",
            "--protocol is streaming",
        ),
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
        (
            "train text.txt --out run --val-file short.txt",
            "4 characters are held out (--val-file short.txt), too few for --batch-size "
            "32: give a longer text, or a --batch-size up to 2",
        ),
        ("train text.txt --out run --hidden-size 999999", "--hidden-size 999999 and"),
        (
            "evaluate shakespeare text.txt --protocol streams:999",
            "too few for --protocol streams:999: give a longer text, or --protocol "
            "streams:860",
        ),
        (
            "train text.txt --out run --batch-size 999 --val-fraction 0",
            "1720 characters are to learn from",
        ),
        ("train --resume --out run", "begun no run"),
        ("train text.txt --init-from nothing.txt --out run", "nothing.txt"),
        (
            "train micro.txt --init-from shakespeare --out run",
            "U+00B5 MICRO SIGN, first at position 2). --drop-unknown leaves them out",
        ),
        ("train text.txt --val-file nothing.txt --out run", "nothing.txt"),
        ("sample nothing.safetensors", "nothing.safetensors"),
        ("sample text.txt", "text.txt"),
        ("sample .", "no checkpoint"),
        ("sample shakespeare --prompt µ", "U+00B5"),
        ("sample shakespeare --prompt-file micro.txt", "U+00B5"),
        ("sample shakespeare --prompt-file no.txt", "no file 'no.txt' with a prompt"),
        ("sample shakespeare --prompt-file latin.txt", "bad byte 0xe9 at offset 1"),
        ("evaluate shakespeare nothing.txt", "nothing.txt"),
        ("evaluate shakespeare micro.txt", "--drop-unknown"),
        ("evaluate shakespeare short.txt", "4 characters are too few for --protocol"),
        ("info nothing.safetensors", "nothing.safetensors"),
        ("info .", "no checkpoint"),
        ("sample .", "hlstm train begins one"),
        ("sample . --best", "leave --best out"),
        ("suggest nothing.txt --minutes 5", "nothing.txt"),
        ("compress nothing.txt out", "nothing.txt"),
        ("compress latin.txt out", "latin.txt is not UTF-8: bad byte 0xe9 at offset 1"),
        ("compress micro.txt out", "U+00B5 MICRO SIGN, first at position 2). Name a "),
        ("compress text.txt nowhere/out", "no folder"),
        ("compress text.txt micro.txt", "micro.txt is there already: --force replaces"),
        ("decompress text.txt out", "damaged, or not from compress"),
        ("decompress text.txt micro.txt", "micro.txt is there already"),
        ("quantise shakespeare micro.txt", "micro.txt is there already"),
        ("compress text.txt . --force", ". is a folder: name a file"),
        ("decompress text.txt . --force", ". is a folder: name a file"),
        ("quantise shakespeare . --force", ". is a folder: name a file"),
        ("decompress text.txt nowhere/out", "no folder 'nowhere'"),
        ("quantise nothing out", "nothing"),
        ("quantise shakespeare nowhere/out", "no folder"),
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
    assert run(line + json_too) == 1
    out, err = said()
    assert "Trainer" not in err and "load_run" not in err and "load_corpus" not in err
    assert not out and message in err
    assert not Path("run").exists() and not Path("out").exists()
    assert Path("micro.txt").read_text() == "5 µm\n" * 30
    assert err.startswith("hlstm: ") and err.count("\n") == 1


def ending(error: BaseException) -> Callable[..., int]:
    """Stands for `run`, and ends with an error."""

    def fault(argv: object) -> int:
        raise error

    return fault


def test_a_fault_of_the_program_is_70(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "run", ending(KeyError("step")))
    assert run("info run") == 70
    assert said() == ("", "hlstm: a fault of this program: KeyError('step')\n")
    monkeypatch.setenv("HLSTM_DEBUG", "1")
    with pytest.raises(KeyError, match="step"):
        run("info run")


def test_an_error_without_words_is_named(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "run", ending(MemoryError()))
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

    monkeypatch.setattr(cli_ask, "stream_text", fault)
    assert run("sample shakespeare") == 70
    assert "a fault of this program" in said()[1]


def test_messages_name_options_and_no_python(said: Said) -> None:
    Path("micro.txt").write_text("5 µm\n" * 30)
    for line, way in {
        "sample shakespeare --prompt µ": "--prompt",
        "evaluate shakespeare micro.txt": "--drop-unknown",
        "train micro.txt --init-from shakespeare --out run": "--drop-unknown",
        "compress micro.txt out": "--network",
    }.items():
        assert run(line) == 1
        err = said()[1]
        assert "encode(" not in err and "translate(" not in err and way in err


def test_spaces_in_a_folder_are_kept_in_what_is_said(said: Said) -> None:
    assert run("info 'my   run.safetensors'") == 1
    assert "my   run.safetensors" in said()[1]


def test_no_error_number_is_said(said: Said) -> None:
    assert run("info .") == 1
    assert run("train /dev/null/x --out run") == 1
    assert run("train text.txt --out text.txt/run", *SMALL) == 1
    assert run("compress nothing out") == 1
    assert "Errno" not in said()[1]


def test_a_checkpoint_in_place_of_its_folder_is_named(
    trained: Path, said: Said
) -> None:
    assert run("sample run/step-00000030.safetensors") == 1
    assert "a checkpoint of a run: name the folder that it is in" in said()[1]


# Signals, pipes and terminals


def test_signal_handlers_are_put_back(said: Said) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run("info nothing")
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


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


@posix
@pytest.mark.parametrize("closed", ["1", "2", "1 2"])
def test_closed_streams(closed: str) -> None:
    """As a shell closes them with >&- : no fault, and no file in their place."""
    shut = "".join(f"os.close({fd});" for fd in closed.split())
    code = f"import os, sys; {shut} os.execv(sys.executable, sys.argv[1:])"
    names = ["shakespeare", "nothing"] if closed == "2" else ["shakespeare"]
    asked = f"""
import sys
from hlstm.__main__ import start
codes = []
for name in {names}:
    sys.argv = ["hlstm", "info", name]
    codes.append(start())
sys.exit(codes[-1] + 10 * codes[0])
"""
    command = [sys.executable, "-c", code, sys.executable, "-c", asked]
    found = subprocess.run(command, capture_output=True)
    assert found.returncode == (1 if closed == "2" else 11)


@posix
def test_a_stopped_process_goes_on_to_the_same_end(said: Said) -> None:
    """Paused, interrupted and killed: where it ends is where an undisturbed run ends."""
    words = ["text.txt", "--json", *SMALL, *SCHEDULE, "--steps", "200"]
    with start("train", "--out", "run", *words) as process:
        read_until(process, 40)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        read_until(process, 50)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("hlstm: SIGINT stopped") and err.count("\n") == 1
    with start("train", "--resume", "--out", "run", "--json") as process:
        read_until(process, 90)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert run("train --resume --out run --json") == 0
    out, err = said()
    assert 80 <= events(out)[0]["step"] < 200 and not err
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
def test_a_bar_in_a_terminal_and_a_text_in_a_pipe() -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = ["evaluate", "shakespeare", "-", "--json"]
    with start(*words, stderr=theirs, stdin=subprocess.PIPE) as process:
        os.close(theirs)
        assert process.stdin
        process.stdin.write(LINE * 40)
        process.stdin.close()
        shown = b""
        try:
            while piece := os.read(ours, 1 << 12):
                shown += piece
        except OSError:  # the other end is closed
            pass
        assert process.stdout
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0 and b"char/s" in shown
    assert json.loads(out)["characters"] == 32 * 52


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
