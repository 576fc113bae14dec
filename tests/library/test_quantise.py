"""Weights of one byte, beyond the cases that chapter 19 prints."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hlstm
from hlstm.checks import InvalidValueError
from hlstm.files import CheckpointError, load_tensors, save_tensors
from hlstm.quantise import dequantise_rows, quantise_rows

from . import test_files_fuzz as fuzz
from .test_checkpoint import flip, pack
from .test_files_fuzz import hooked, watch  # noqa: F401

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
ROWS = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1)
)


@given(ROWS)
def test_no_weight_moves_by_more_than_half_its_scale(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    values, scale = quantise_rows(weight)
    assert values.dtype == torch.int8 and scale.dtype == torch.float32
    assert int(values.min()) >= -127
    exact = values.double() * scale.double()[:, None]
    # The smallest float32 is the scale's own rounding error where weights are as small.
    slack = scale.double() * (0.5 + 1e-5) + 127 * 1.5e-45
    assert ((exact - weight.double()).abs().amax(1) <= slack).all()


def test_the_largest_weight_of_a_row_is_127_or_the_row_is_zero() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 9) * torch.logspace(-30, 30, 50)[:, None]
    weight[7] = 0
    values, scale = quantise_rows(weight)
    largest = values.abs().amax(1)
    assert (largest == 127).sum() == 49 and largest[7] == 0 and scale[7] == 0


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3), r"\(3,\)"),
        (torch.zeros(2, 0), r"\(2, 0\)"),
        (torch.zeros(2, 2, dtype=torch.long), "int64"),
        (torch.tensor([[1.0, torch.nan]]), "1 numbers that are not finite"),
        (torch.tensor([[1e300, -1e300]], dtype=torch.float64), "2 numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(
    weight: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantise_rows(weight)


def network(layers: int = 2) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(hlstm.Vocabulary("\n abc—"), hidden_size=5, num_layers=layers)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_network_comes_back_rounded(tmp_path: Path, layers: int) -> None:
    net, path = network(layers).train(), tmp_path / "net.safetensors"
    hlstm.save_int8(net, path)
    back = hlstm.load_int8(path)
    assert back.vocab == net.vocab and not back.training and net.training
    for name, tensor in net.state_dict().items():
        rounded = tensor
        if tensor.dim() == 2:
            rounded = dequantise_rows(quantise_rows(tensor))
            assert not torch.equal(rounded, tensor)
        assert torch.equal(back.state_dict()[name], rounded), name


PRECISIONS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("default", PRECISIONS)
def test_the_precision_is_kept(
    tmp_path: Path, dtype: torch.dtype, default: torch.dtype
) -> None:
    """Whatever PyTorch's own is: biases to the last bit, matrices rounded once more."""
    net, path = network().to(dtype), tmp_path / "net"
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        hlstm.save_int8(net, path)
        back = hlstm.load_int8(path)
    finally:
        torch.set_default_dtype(before)
    for name, tensor in net.state_dict().items():
        rounded = tensor
        if tensor.dim() == 2:
            rounded = dequantise_rows(quantise_rows(tensor)).to(dtype)
        assert back.state_dict()[name].dtype == dtype
        assert torch.equal(back.state_dict()[name], rounded), name


def test_the_default_device_changes_nothing(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "net"
    with torch.device("meta"):
        hlstm.save_int8(net, path)
        back = hlstm.load_int8(path)
    weights, again = back.state_dict(), hlstm.load_int8(path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def refuses_to_save(net: hlstm.DeepRNN, path: Path, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        hlstm.save_int8(net, path)
    assert not path.exists()


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "net"
    mixed = network()
    mixed.head.half()
    refuses_to_save(mixed, path, "says dtype is float16, and holds .*float32")
    whole = network()
    parametrizations.weight_norm(whole.lstm, "weight_hh_l0")
    refuses_to_save(whole, path, "make parametrizations permanent first")
    wider = network()
    wider.head = nn.Linear(7, 6)
    refuses_to_save(wider, path, "head")
    poisoned = network()
    nn.init.constant_(poisoned.lstm.get_parameter("bias_hh_l1"), torch.nan)
    refuses_to_save(poisoned, path, "not finite")
    huge = network()  # 127 times a 127th of it, rounded, is infinite
    nn.init.constant_(huge.head.weight, torch.finfo(torch.float32).max)
    refuses_to_save(huge, path, "no file is written.*not finite")


@pytest.mark.parametrize("part", ["head", "lstm", "both"])
def test_a_network_without_biases_comes_back(tmp_path: Path, part: str) -> None:
    net, path = network(), tmp_path / "net"
    if part != "lstm":
        net.head = nn.Linear(5, 6, bias=False)
    if part != "head":
        net.lstm = hlstm.LSTM(6, 5, 2, bias=False, batch_first=True)
    hlstm.save_int8(net, path)
    back = hlstm.load_int8(path)
    assert back.state_dict().keys() == net.state_dict().keys()
    ids = torch.arange(6)[None]
    assert (back(ids)[0] - net.eval()(ids)[0]).abs().max() < 0.02


def test_layers_that_share_weights_get_a_copy_each(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "net"
    for name in ("weight_hh_l1", "bias_hh_l0", "bias_ih_l1"):
        shared = name.replace("_ih", "_hh")[:-1] + "0"
        setattr(net.lstm, name, net.lstm.get_parameter(shared))
    hlstm.save_int8(net, path)
    lstm = hlstm.load_int8(path).lstm
    one, other = (lstm.get_parameter(f"weight_hh_l{k}") for k in range(2))
    assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()


def test_rounding_twice_changes_nothing(tmp_path: Path) -> None:
    for name in "ab":
        net = hlstm.load_int8(tmp_path / "a") if name == "b" else network()
        hlstm.save_int8(net, tmp_path / name)
    first, second = (hlstm.load_int8(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.allclose(first[k], second[k], rtol=1e-6, atol=0) for k in first)


# Files that are not ours, or no longer


@pytest.mark.parametrize("how", ["empty", "text", "cut", "whole", "no scale"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "net.safetensors"
    hlstm.save_int8(network(), path)
    content = path.read_bytes()
    if how == "whole":
        network().save(path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"ROMEO:\n" * 99,
                "cut": content[:-9],
                "no scale": content.replace(b"head.weight.scale", b"head.weight.smale"),
            }[how]
        )
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        hlstm.load_int8(path)


def test_load_int8_names_the_function_that_reads_the_file(tmp_path: Path) -> None:
    network().save(tmp_path / "net")
    with pytest.raises(CheckpointError, match="read it with hlstm.load_model"):
        hlstm.load_int8(tmp_path / "net")


def put(tensor: Tensor, value: float) -> Tensor:
    """A copy with one number in place of the first."""
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


S = "head.weight.scale"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (S, lambda t: put(t, -0.25), "head.weight that is none: a scale is negative"),
        (S, lambda t: put(t, torch.nan), "a scale is negative or not finite"),
        (S, lambda t: put(t, torch.inf), "a scale is negative or not finite"),
        (S, lambda t: put(t, 3e38), "not finite"),
        (S, lambda t: t[1:], r"the scales are not \(6,\) float32"),
        (S, lambda t: t[:, None], "does not have scales"),
        (S, lambda t: t.double(), r"the scales are not \(6,\) float32"),
        (S, lambda t: None, "does not have scales for its matrices"),
        ("head.bias.scale", lambda t: torch.ones(6), "does not have scales"),
        ("head.weight", lambda t: put(t, -128), "from −127 to 127"),
        ("head.weight", lambda t: t.float(), "the values are not"),
        ("head.weight", lambda t: t.view(torch.uint8), "the values are not"),
        ("head.weight", lambda t: t[:, 1:], "shape|hidden_size"),
        ("head.weight", lambda t: None, "does not have scales"),
        ("head.bias", lambda t: t.double(), "says dtype is float32, and holds"),
        ("head.bias", lambda t: put(t, torch.nan), "not finite"),
        ("head.bias", lambda t: None, "lacks|head_bias"),
        ("lstm.weight_hh_l9", lambda t: torch.ones(3), "use|num_layers"),
    ],
)
def test_tensors_that_no_rounding_gives_are_refused(
    tmp_path: Path, name: str, change: Callable[[Any], Any], message: str
) -> None:
    """Under a checksum that is right."""
    hlstm.save_int8(network(), tmp_path / "net")
    tensors, said = load_tensors(tmp_path / "net")
    changed = change(tensors.get(name))
    if changed is None:
        del tensors[name]
    else:
        tensors[name] = changed
    save_tensors(tmp_path / "net", tensors, said)
    with pytest.raises(CheckpointError, match=message):
        hlstm.load_int8(tmp_path / "net")


@pytest.mark.parametrize(
    "claim",
    [
        {"kind": "run"},
        {"kind": None},
        {"dtype": "int8"},
        {"dtype": []},
        {"dtype": None},
    ],
    ids=str,
)
def test_a_description_that_lies_is_refused(
    tmp_path: Path, claim: dict[str, Any]
) -> None:
    hlstm.save_int8(network(), tmp_path / "net")
    tensors, said = load_tensors(tmp_path / "net")
    save_tensors(tmp_path / "net", tensors, said | claim)
    with pytest.raises(CheckpointError, match="read it with|says dtype is"):
        hlstm.load_int8(tmp_path / "net")


# Mutations, as of the other files


def rounded_file(net: hlstm.DeepRNN, folder: Path) -> bytes:
    hlstm.save_int8(net, folder / "net")
    return (folder / "net").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files of two networks, of different sizes and precisions."""
    folder = tmp_path_factory.mktemp("whole")
    small = hlstm.DeepRNN(hlstm.Vocabulary("xyz"), 2, 1).half()
    return [rounded_file(net, folder) for net in (network(), small)]


def read_under_watch(path: Path, content: bytes) -> dict[str, Tensor] | None:
    """Load a file: None if it was refused; else its weights, or it fails."""
    path.write_bytes(content)
    with watch():
        try:
            net = hlstm.load_int8(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path} ") and len(str(error)) < 1000
            return None
    found, _ = load_tensors(path)
    weights = net.state_dict()
    for name, tensor in weights.items():
        expected = found.pop(name)
        if tensor.dim() == 2:
            scale = found.pop(f"{name}.scale")
            assert expected.dtype == torch.int8 and (scale >= 0).all()
            expected = (expected.float() * scale[:, None]).to(tensor.dtype)
        assert tensor.isfinite().all() and torch.equal(tensor, expected)
    assert not found
    net(torch.zeros(1, 2, dtype=torch.long))
    return weights


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is such a thing: a disk would be the slowest part."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_every_flipped_bit_is_refused(quick: Path, whole: list[bytes]) -> None:
    for bit in range(8 * len(whole[1])):
        assert read_under_watch(quick / "net", flip(whole[1], bit)) is None, bit


def misshapen(rng: Random, whole: list[bytes], path: Path) -> bytes:
    """Tensors and a description that lie, under a checksum that is right."""
    path.write_bytes(rng.choice(whole))
    tensors, said = load_tensors(path)
    for _ in range(rng.randint(1, 3)):
        name, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
        tensor = tensors[name]
        match rng.randrange(9):
            case 0 if len(tensors) > 1:
                del tensors[name]
            case 1:
                tensors[name + rng.choice([".scale", "_", "1"])] = tensor.clone()
            case 2:
                tensors[name] = tensor.to(rng.choice([*PRECISIONS, torch.int8]))
            case 3:
                tensors[name] = (
                    tensor.mT.contiguous() if tensor.dim() > 1 else tensor[1:]
                )
            case 4 | 5 | 6 if tensor.numel():
                odd = [0.0, -0.0, 1e-7, -1.0, 127.0, -127.0, 3e38, torch.nan, torch.inf]
                few = [0, 1, -1, 127, -127, -128]
                number = rng.choice(odd if tensor.is_floating_point() else few)
                tensor.view(-1)[rng.randrange(tensor.numel())] = number
            case 7:
                tensors[name], tensors[other] = tensors[other], tensor
            case _:
                key = rng.choice([*said, "dtype", "kind", "new"])
                odd_said: list[Any] = [
                    "int8",
                    "float32",
                    "float16",
                    1,
                    -1,
                    2.5,
                    None,
                    [],
                ]
                said[key] = rng.choice(odd_said)
    plain = torch.contiguous_format
    return pack({k: t.clone(memory_format=plain) for k, t in tensors.items()}, said)


def test_no_file_of_one_byte_does_harm(
    quick: Path, whole: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth as many as of the models: what they share is tried there."""
    wanted = fuzz.WANTED // 10
    for name in ("WHOLE", "KINDS"):
        monkeypatch.setattr(fuzz, name, whole)
    different, outcomes = {hashlib.sha256(w).digest() for w in whole}, Counter[str]()

    def attempt(content: bytes) -> None:
        mark = hashlib.sha256(content).digest()
        if mark not in different:
            different.add(mark)
            weights = read_under_watch(quick / "net", content)
            outcomes["refused" if weights is None else "read"] += 1

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=fuzz.WANTED == 10_000,
        phases=[Phase.generate],
    )
    @given(kind=st.integers(0, 4), seed=st.integers(0, 2**64 - 1))
    def attempts(kind: int, seed: int) -> None:
        rng = Random(seed)
        for _ in range(25):
            if kind < 3:
                change = (fuzz.damaged, fuzz.spliced, fuzz.misheaded)[kind]
                content = change(rng)
            else:
                content = misshapen(rng, whole, quick / "net")
            try:
                attempt(content)
            except BaseException as error:
                error.add_note(f"the file: {content!r}")
                raise

    while len(different) < wanted + len(whole):
        before = len(different)
        attempts()
        assert len(different) > before
    assert outcomes["refused"] > outcomes["read"] > 0, outcomes


# What else can happen


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.load_int8(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.save_int8(network(), tmp_path / "nowhere" / "net")


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net"
    hlstm.save_int8(network(), path)
    content = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        hlstm.save_int8(network(), path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_load_model_names_the_function_that_reads_the_file(tmp_path: Path) -> None:
    hlstm.save_int8(network(), tmp_path / "net")
    with pytest.raises(CheckpointError, match="read it with hlstm.load_int8"):
        hlstm.load_model(tmp_path / "net")


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.head.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        hlstm.save_int8(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_the_pretrained_network_fits_into_a_megabyte(tmp_path: Path) -> None:
    net, path = hlstm.load_pretrained("shakespeare"), tmp_path / "net"
    hlstm.save_int8(net, path)
    assert path.stat().st_size <= 1_000_000
    ids = net.vocab.encode(hlstm.load_corpus("shakespeare")[-20_000:])
    cost = hlstm.evaluate(hlstm.load_int8(path), ids) - hlstm.evaluate(net, ids)
    assert abs(cost) < 0.01
