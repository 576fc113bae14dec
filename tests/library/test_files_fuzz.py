"""Thousands of damaged and malicious model files, of which none may do harm.

`make fuzz` makes many more of them. Each is loaded under watch: CheckpointError is the only
exception allowed, code that runs is seen by an audit hook, and a file that loads must hold
exactly the network that an independent reading finds in it.
"""

import hashlib
import json
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from torch import Tensor

import hlstm
from hlstm.files import CheckpointError
from hlstm.network import PRECISIONS

from .test_checkpoint import (
    REFUSED,
    Trap,
    checksum,
    description,
    flip,
    join,
    network,
    pack,
    same,
    split,
    time_limit,
)

WANTED = int(os.environ.get("FUZZ", 10_000))  # different files
ROUND = 450  # examples of 25 files each that hypothesis draws at once
INF, NAN = float("inf"), float("nan")

NETS = [network(), network("xyz", hidden_size=2, num_layers=1).half()]
WHOLE = [pack(dict(net.state_dict()), description(net)) for net in NETS]


# The watch

# What no reading of a file does. Opening a file to write is told apart below.
RUNS = {
    "compile",
    "ctypes.dlopen",
    "exec",
    "function.__new__",
    "import",
    "marshal.loads",
    "os.chmod",
    "os.exec",
    "os.fork",
    "os.mkdir",
    "os.posix_spawn",
    "os.putenv",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.symlink",
    "os.system",
    "os.truncate",
    "pickle.find_class",
    "shutil.rmtree",
    "socket.connect",
    "socket.__new__",
    "subprocess.Popen",
}
watching = False
seen: list[str] = []


def hook(event: str, args: tuple[Any, ...]) -> None:
    """Note forbidden events while a file is loaded. A hook cannot be taken away."""
    if not watching:
        return
    if event in RUNS or event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR):
        seen.append(f"{event} {args!r:.200}")


@pytest.fixture(scope="module", autouse=True)
def hooked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Install the hook, after a first load has imported what it needs."""
    path = tmp_path_factory.mktemp("first") / "model"
    for whole in WHOLE:
        path.write_bytes(whole)
        hlstm.load_model(path)
    sys.addaudithook(hook)


@contextmanager
def watch() -> Iterator[None]:
    """Fail if code runs, a file is written, or it takes too long."""
    global watching
    seen.clear()
    with time_limit():
        watching = True
        try:
            yield
        finally:
            watching = False
    assert not seen, seen


@pytest.mark.parametrize(
    "act",
    [
        lambda path: pickle.loads(pickle.dumps(Trap(path))),
        lambda path: exec("1"),
        lambda path: os.system("true"),
        lambda path: path.write_bytes(b""),
        lambda path: __import__("this_is_nowhere"),
    ],
)
def test_the_watch_sees_what_it_should(tmp_path: Path, act: Any) -> None:
    with pytest.raises(AssertionError), watch():
        try:
            act(tmp_path / "made")
        except ImportError:
            pass


# What a file is, and what it may become

NASTY = [
    "null", "true", "false", "0", "-0", "1", "-1", "2", "3", "4", "2.0", "0.5", "1e999",
    "-1e999", "NaN", "Infinity", "4294967296", "9223372036854775807",
    "18446744073709551616", "1" + "0" * 400, "9" * 5000, "1e-400", '""', '"a"', '"2"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "[]", "[[]]", "{}", '{"a":{}}',
    '["a","a"]', '["a","b","c"]', '["a","b","c","d"]', '[1,2,3,4]', '["ab",""]',
    "[" * 200 + "]" * 200, "[" * 990 + "]" * 990, "[" * 5000, '{"a":' * 5000, '"', "\x00",
]  # fmt: skip
SPACE = "\ue000"  # stands in a text of JSON for something that need not be JSON
TYPES = ["F64", "F32", "F16", "BF16", "I8", "U64", "BOOL", "C64", "F8_E4M3", "", "F33"]


def texts(value: Any, raw: str) -> str:
    """JSON of `value`, with `raw` at the place of SPACE."""
    return json.dumps(value).replace(json.dumps(SPACE), raw)


def weights(net: hlstm.DeepRNN) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def sizes(rng: Random) -> list[int]:
    most = rng.choice([2, 5, 100, 2**33, 2**65])
    return [rng.randrange(-1, most) for _ in range(rng.randrange(4))]


def damage(content: bytes, rng: Random) -> bytes:
    """One to three accidents: bits and bytes changed, lost, added, moved."""
    for _ in range(rng.randint(1, 3)):
        # Half of them happen in the first bytes or in the header.
        size = max(1, min(len(content), rng.choice([8, 200, 10**9, 10**9])))
        a = rng.randrange(size)
        b, some = a + rng.randrange(40), rng.randbytes(rng.randrange(12))
        match rng.randrange(8):
            case 0 | 1 if content:
                content = flip(content, 8 * a + rng.randrange(8))
            case 2:
                content = content[:a]
            case 3:
                content = content[:a] + content[b:]
            case 4:
                content = content[:a] + some + content[a:]
            case 5:
                content = content[:a] + some + content[b:]
            case 6:
                content = content[b:] + content[a:b] + content[:a]
            case _:
                length = rng.randrange(2 ** rng.choice([4, 11, 64]))
                content = length.to_bytes(8, "little") + content[8:]
    return content


def damaged(rng: Random) -> bytes:
    """A model after some accidents."""
    return damage(rng.choice(WHOLE), rng)


def damaged_again(rng: Random) -> bytes:
    """A file of some kind that is refused, after some accidents."""
    return damage(rng.choice(KINDS), rng)


def spliced(rng: Random) -> bytes:
    """The beginning of one model and the end of another, or of random bytes."""
    one, other = rng.choice(WHOLE), rng.choice([*WHOLE, rng.randbytes(2000)])
    return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]


def misheaded(rng: Random) -> bytes:
    """A header of the right length that lies about its tensors, or about itself."""
    header, numbers = split(rng.choice(WHOLE))
    for _ in range(rng.randint(1, 3)):
        one, other = rng.choice(sorted(header)), rng.choice(sorted(header))
        entry = header[one] if isinstance(header[one], dict) else {}
        match rng.randrange(8):
            case 0:
                header[one], header[other] = header[other], header[one]
            case 1:
                header[one] = SPACE
            case 2:
                header[one + rng.choice(["", "_", "\ud800", "0"])] = header.pop(one)
            case 3:
                entry[rng.choice(["dtype", "shape", "data_offsets", "hlstm", "x"])] = (
                    SPACE
                )
            case 4 | 5:
                entry[rng.choice(["shape", "data_offsets"])] = sizes(rng)
            case 6:
                entry["dtype"] = rng.choice(TYPES)
            case _:
                header = header | {rng.choice(["x", "head.bias"]): dict(entry)}
    raw = texts(header, rng.choice(NASTY))
    if rng.randrange(4) == 0:  # an entry twice
        raw = raw[:-1] + f', "{one}": {json.dumps(entry)}}}'
    return join(raw.encode("utf-8", "surrogatepass"), numbers)


def misdescribed(rng: Random) -> bytes:
    """A description that lies, under a checksum that is right."""
    net = rng.choice(NETS)
    said, tensors = description(net), weights(net)
    keys = [*said, "versions", "sha256", "new", "bias", "head_bias", "engine"]
    keys += ["dropout_between", "shared_dim", "kind"]
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(keys)
        match rng.randrange(6):
            case 0:
                said.pop(key, None)
            case 1:
                said[key] = rng.randrange(-2, rng.choice([5, 2**70]))
            case 2:
                said["dropout"] = rng.uniform(-0.2, 1.2)
            case 3:
                odd: list[Any] = [1, None, "", "ab", [], "\udc00", "a"]
                symbols = rng.choices("abcdef\0\U0001f600", k=len(net.vocab) - 1)
                said["vocabulary"] = [*symbols, rng.choice(odd)]
            case 4:
                points = rng.sample(range(sys.maxunicode + 1), len(net.vocab))
                said["vocabulary"] = [chr(point) for point in points]
            case _:
                said[key] = SPACE
    text = texts(said, rng.choice(NASTY))
    try:
        fitting = checksum(json.loads(text), tensors)
        text = text[:-1] + f', "sha256": "{fitting}"}}'
    except (ValueError, RecursionError):
        pass  # no JSON, so no checksum fits
    header, numbers = split(
        rng.choice(WHOLE) if rng.random() < 0.1 else pack(tensors, said)
    )
    header["__metadata__"]["hlstm"] = text
    return join(json.dumps(header).encode(), numbers)


def misshapen(rng: Random) -> bytes:
    """Tensors that are not the network's, under a checksum that is right."""
    net = rng.choice(NETS)
    said, tensors = description(net), weights(net)
    for _ in range(rng.randint(1, 3)):
        name, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
        tensor, flat = tensors[name], tensors[name].reshape(-1)
        match rng.randrange(10):
            case 0 if len(tensors) > 1:
                del tensors[name]
            case 1:
                tensors[name + rng.choice(["", "_", "1", "l0"])] = tensors.pop(other)
            case 2 if not tensor.is_complex():
                names = [
                    "float64",
                    "bfloat16",
                    "int8",
                    "complex64",
                    "bool",
                    "float8_e5m2",
                ]
                tensors[name] = tensor.to(getattr(torch, rng.choice(names)))
            case 3:
                tensors[name] = tensor.mT if tensor.dim() > 1 else flat[1:]
            case 4 | 5 | 6 if flat.numel() and tensor.is_floating_point():
                number = rng.choice(
                    [0.0, -0.0, 1e-7, 3e4, rng.gauss(0, 1), 1e300, INF, NAN]
                )
                flat[rng.randrange(flat.numel())] = torch.tensor(
                    number, dtype=torch.float64
                )
            case 7 if rng.random() < 0.5:
                tensors[rng.choice(["x", "lstm.weight_hh_l2"])] = tensor.clone()
            case 7:
                tensors[name] = torch.zeros(rng.choices(range(5), k=rng.randrange(4)))
            case 8:
                said["hidden_size"] = rng.randrange(5)
            case _:
                tensors[name], tensors[other] = tensors[other].clone(), tensor.clone()
    layout = torch.contiguous_format
    tensors = {name: t.clone(memory_format=layout) for name, t in tensors.items()}
    return pack(tensors, said)


# One file of each kind that is refused; those of many megabytes take too long.
KINDS = [content for content, _ in REFUSED.values() if len(content) < 10_000]
MUTATE = [damaged, damaged_again, spliced, misheaded, misdescribed, misshapen]


# What must hold


@pytest.fixture
def path() -> Iterator[Path]:
    """A file in memory where there is such a thing: a disk would be the slowest part."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "model"
        assert [p.name for p in Path(folder).iterdir()] == ["model"]


def by_hand(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file apart from the package, and check its checksum."""
    header, _ = split(content)
    said, tensors = json.loads(header["__metadata__"]["hlstm"]), load(content)
    assert said.pop("sha256") == checksum(said, tensors)
    return said, tensors


def load_under_watch(path: Path, content: bytes) -> hlstm.DeepRNN | None:
    """Load a file: None if it was refused; else the network it describes, or it fails."""
    path.write_bytes(content)
    with watch():
        try:
            net = hlstm.load_model(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path} ") and len(str(error)) < 1000
            return None
    said, tensors = by_hand(content)
    assert list(net.vocab.symbols) == said["vocabulary"]
    for size in ("hidden_size", "num_layers"):
        assert type(said[size]) is int and said[size] == getattr(net.lstm, size)
    assert len(net.vocab) == len(set(net.vocab.symbols))
    assert net.dropout.p == said["dropout"]
    assert net.state_dict().keys() == tensors.keys()
    for name, tensor in net.state_dict().items():
        assert tensors[name].dtype in PRECISIONS
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]) and tensor.isfinite().all()
    if len({tensor.dtype for tensor in tensors.values()}) == 1:
        net(torch.zeros(1, 2, dtype=torch.long))
    return net


def test_every_flipped_bit_is_refused(path: Path) -> None:
    content = WHOLE[1]
    for bit in range(8 * len(content)):
        assert load_under_watch(path, flip(content, bit)) is None, bit


def test_every_shorter_file_is_refused(path: Path) -> None:
    content = WHOLE[1]
    for size in range(len(content)):
        assert load_under_watch(path, content[:size]) is None, size


def test_no_file_does_harm(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    different, outcomes = {hashlib.sha256(w).digest() for w in WHOLE}, Counter[str]()

    def attempt(content: bytes) -> None:
        mark = hashlib.sha256(content).digest()
        if mark in different:
            return
        different.add(mark)
        net = load_under_watch(path, content)
        known = net is not None and any(same(net, old) for old in NETS)
        outcomes["refused" if net is None else "same" if known else "another"] += 1

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        derandomize=WANTED == 10_000,
        phases=[Phase.generate],
    )
    @given(mutate=st.sampled_from(MUTATE), seed=st.integers(0, 2**64 - 1))
    def attempts(mutate: Callable[[Random], bytes], seed: int) -> None:
        rng = Random(seed)
        for _ in range(25):
            content = mutate(rng)
            try:
                attempt(content)
            except BaseException as error:
                error.add_note(f"the file: {content!r}")
                raise

    while len(different) < WANTED + len(WHOLE):
        before = len(different)
        attempts()
        assert len(different) > before
    with capsys.disabled():
        print(f"\n{sum(outcomes.values()):,} different files: {dict(outcomes)}")
    assert sum(outcomes.values()) >= WANTED
    assert outcomes["another"] > 0  # files that are right in every way were among them
