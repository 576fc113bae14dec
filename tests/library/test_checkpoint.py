"""Files of weights: what comes back, what is refused and why, what a failure leaves."""

import hashlib
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

import hlstm
from book import ROOT
from hlstm.checkpoint import build_network
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.files import (
    MAX_BYTES,
    MAX_HEADER,
    SCHEMA,
    CheckpointError,
    load_tensors,
    save_tensors,
)

# Limits of memory and time, pipes and links: where a system has none, none is tested.
resource = pytest.importorskip("resource")
Tensors = dict[str, Tensor]


def network(
    symbols: str = "ab\ud800\U0001f600", hidden_size: int = 3, num_layers: int = 2
) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(hlstm.Vocabulary(symbols), hidden_size, num_layers, 0.25)


def description(net: hlstm.DeepRNN) -> dict[str, Any]:
    """What a file says of a network, by the letter of chapter 16."""
    return {
        "hidden_size": net.lstm.hidden_size,
        "num_layers": net.lstm.num_layers,
        "dropout": net.dropout.p,
        "vocabulary": list(net.vocab.symbols),
        "schema": 2,
    }


def join(header: bytes, numbers: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + numbers


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def checksum(said: Any, tensors: Tensors) -> str:
    """The SHA-256 that a file should hold, computed apart from the package."""
    whole = [json.dumps(said).encode()]
    for name in sorted(tensors):
        t = tensors[name]
        whole.append(json.dumps([name, str(t.dtype), list(t.shape)]).encode())
        whole.append(bytes(t.contiguous().flatten().view(torch.uint8).tolist()))
    return hashlib.sha256(b"".join(whole)).hexdigest()


def pack(tensors: Tensors, said: Any) -> bytes:
    """A file with the right checksum, whatever its tensors and its description are."""
    if isinstance(said, dict):
        said = said | {"sha256": checksum(said, tensors)}
    return save(tensors, {"hlstm": json.dumps(said)})


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


NET = network()
WEIGHTS = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
SAID = description(NET)
WHOLE = pack(WEIGHTS, SAID)


def same(one: hlstm.DeepRNN, other: hlstm.DeepRNN) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return (
        one.vocab == other.vocab
        and one.dropout.p == other.dropout.p
        and a.keys() == b.keys()
        and all(a[name].dtype == b[name].dtype for name in a)
        and all(torch.equal(a[name], b[name]) for name in a)
    )


# What comes back


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_saved_network_comes_back_the_same(tmp_path: Path, layers: int) -> None:
    net, path = network(num_layers=layers), tmp_path / "model.safetensors"
    net.save(path)
    again = hlstm.load_model(str(path))
    assert same(net, again)
    assert not again.training
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_each_precision_is_kept_in_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    net, path = network().to(dtype), tmp_path / "model.safetensors"
    net.save(path)
    assert {t.dtype for t in load_tensors(path)[0].values()} == {dtype}
    assert same(net, hlstm.load_model(path))
    assert same(net.float(), hlstm.load_model(path, dtype=torch.float32))


def test_a_number_too_large_for_the_wanted_precision_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(holds(lstm__weight_hh_l1=poisoned(1e300, torch.float64)))
    assert hlstm.load_model(path).state_dict()["lstm.weight_hh_l1"][0, 0] == 1e300
    with pytest.raises(CheckpointError, match="weight_hh_l1 that are not finite"):
        hlstm.load_model(path, dtype=torch.float32)


def test_integers_stay_refused_where_a_precision_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(holds(head__bias=torch.zeros(4, dtype=torch.long)))
    with pytest.raises(CheckpointError, match=r"head\.bias in torch\.int64"):
        hlstm.load_model(tmp_path / "model", dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.int64, "float32", float])
def test_a_precision_that_is_none_is_refused(tmp_path: Path, dtype: Any) -> None:
    NET.save(tmp_path / "model")
    with pytest.raises(InvalidTypeError, match="dtype is one of .*, and got"):
        hlstm.load_model(tmp_path / "model", dtype=dtype)


@pytest.mark.parametrize(
    "symbols",
    ["\ud800\udc00", "\udc00\ud800", '\n\r\0\x7f"\\', "e\u0301é", "𝄞\U0010ffff"],
    ids=ascii,
)
def test_any_code_point_comes_back(tmp_path: Path, symbols: str) -> None:
    net, path = network(symbols), tmp_path / "model.safetensors"
    net.save(path)
    assert hlstm.load_model(path, net.vocab).vocab.symbols == tuple(symbols)


def test_a_loaded_network_trains_and_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    NET.save(path)
    net = hlstm.load_model(path).train()
    path.unlink()
    net(torch.zeros(1, 3, dtype=torch.long))[0].sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    assert not same(net, NET)


PARTS: dict[str, Callable[[hlstm.DeepRNN], Any]] = {
    "as it is": lambda net: None,
    "no bias in the head": lambda net: setattr(
        net, "head", torch.nn.Linear(3, 4, bias=False)
    ),
    "no bias in the layers": lambda net: setattr(
        net, "lstm", hlstm.LSTM(4, 3, 2, bias=False, batch_first=True, dropout=0.25)
    ),
    "another dropout between layers": lambda net: setattr(net.lstm, "dropout", 0.5),
    "none between layers": lambda net: setattr(net.lstm, "dropout", 0.0),
    "a mask shared over time": lambda net: setattr(net.dropout, "shared_dim", 1),
    "an engine": lambda net: setattr(net.lstm, "engine", "reference"),
    "frozen": lambda net: net.lstm.requires_grad_(False),
    "transposed in memory": lambda net: setattr(
        net.head, "weight", torch.nn.Parameter(torch.randn(3, 4).T)
    ),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_what_can_be_saved_can_be_loaded(
    tmp_path: Path, part: str, layers: int
) -> None:
    net, path = network(num_layers=layers), tmp_path / "model"
    if part == "no bias in the layers":
        net.lstm = hlstm.LSTM(4, 3, layers, bias=False, batch_first=True)
    else:
        PARTS[part](net)
    net.save(path)
    again = hlstm.load_model(path)
    assert same(net, again)
    assert again.lstm.dropout == net.lstm.dropout
    assert again.lstm.engine == net.lstm.engine
    assert again.lstm.bias == net.lstm.bias
    assert again.dropout.shared_dim == net.dropout.shared_dim
    ids = torch.randint(4, (2, 5))
    torch.testing.assert_close(net.eval()(ids)[0], again(ids)[0])
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_tied_layers_are_refused(tmp_path: Path) -> None:
    net = network(num_layers=3)
    net.lstm.weight_hh_l2 = net.lstm.weight_hh_l1
    with pytest.raises(
        InvalidValueError, match="weight_hh_l[12] .*share memory, as tied"
    ):
        net.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_file_of_before_has_the_usual_parts(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for layers, between in ((1, 0.0), (2, 0.25)):
        net = network(num_layers=layers)
        path.write_bytes(pack(dict(net.state_dict()), description(net)))
        again = hlstm.load_model(path)
        assert same(net, again)
        assert (again.lstm.dropout, again.lstm.engine) == (between, "auto")
        assert again.lstm.bias and again.head.bias is not None
        assert again.dropout.shared_dim is None


def test_the_network_of_the_package_is_float32() -> None:
    net = hlstm.load_pretrained()
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32}


def test_what_is_loaded_in_inference_mode_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "model"
    NET.save(path)
    with torch.inference_mode():
        net = hlstm.load_model(path)
        made_there = {k: t + 0 for k, t in NET.state_dict().items()}
        built = build_network(made_there, description(NET))
        text = net.generate_text("ab", 20, seed=0)
    for one in (net, built):
        assert same(one, NET)
        assert one.generate_text("ab", 20, seed=0) == text
        one.train()(torch.zeros(1, 3, dtype=torch.long))[0].sum().backward()
        assert all(p.grad is not None for p in one.parameters())


def test_the_default_device_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model"
    NET.save(path)
    with torch.device("meta"):
        assert same(hlstm.load_model(path), NET)


def test_loading_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    NET.save(path)
    before = torch.get_rng_state()
    hlstm.load_model(path)
    assert torch.equal(before, torch.get_rng_state())


TYPES = [torch.uint8, torch.bool, torch.int64, torch.float32, torch.bfloat16]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def any_tensors(draw: st.DrawFn) -> Tensors:
    found = {}
    for name in draw(st.sets(st.text(st.characters(codec="utf-8"), max_size=4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        numbers = torch.randint(0, 2, shape).to(draw(st.sampled_from(TYPES)))
        found[name] = numbers.mT if len(shape) > 1 and draw(st.booleans()) else numbers
    return found


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(tensors=any_tensors(), said=st.dictionaries(st.text(max_size=4), JSON))
def test_any_tensors_and_description_come_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: Tensors, said: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    save_tensors(path, tensors, said)
    again, says = load_tensors(path)
    assert says.pop("schema") == SCHEMA == 2
    assert says.pop("versions")["hlstm"] == hlstm.__version__
    assert says == said
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


def test_a_file_is_written_the_same_twice_and_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    NET.save(path)
    first = path.read_bytes()
    NET.save(path)
    assert path.read_bytes() == first
    header, _ = split(first)
    said = json.loads(header["__metadata__"]["hlstm"])
    assert said.pop("sha256") == checksum(said, load(first))


def test_a_description_read_may_be_written_again(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", WEIGHTS, SAID | {"sha256": "a name that is ours"})
    tensors, said = load_tensors(tmp_path / "a")
    assert "sha256" not in said
    save_tensors(tmp_path / "b", tensors, said)
    assert load_tensors(tmp_path / "b")[1] == said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="JSON"):
        save_tensors(tmp_path / "file", WEIGHTS, {"value": value})
    assert not list(tmp_path.iterdir())


# What is refused


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def saved(content: object, **options: Any) -> bytes:
    file = BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def claiming(**claims: Any) -> bytes:
    """The weights as they are, and a description with other claims."""
    return pack(WEIGHTS, SAID | claims)


def without(key: str) -> bytes:
    return pack(WEIGHTS, {k: v for k, v in SAID.items() if k != key})


def holds(**changes: Tensor | None) -> bytes:
    """Other tensors, None for one that is left out; `__` stands for a dot."""
    tensors: dict[str, Tensor | None] = dict(WEIGHTS)
    tensors |= {name.replace("__", "."): t for name, t in changes.items()}
    return pack({k: t for k, t in tensors.items() if t is not None}, SAID)


def headed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with a header that was changed in place, or replaced."""
    header, numbers = split(WHOLE)
    changed = change(header)
    return join(json.dumps(header if changed is None else changed).encode(), numbers)


def swap(header: dict[str, Any], one: str, other: str) -> None:
    header[one], header[other] = header[other], header[one]


def described(text: Any) -> bytes:
    """The file with another text for the description."""
    return headed(lambda header: header["__metadata__"].update(hlstm=text))


def with_size(V: int, H: int, layers: int = 1, **claims: Any) -> bytes:
    """A consistent file of any sizes, 0 too."""
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (V, H), "head.bias": (V,)}
    for k in range(layers):
        shapes[f"lstm.weight_ih_l{k}"] = (4 * H, H if k else V)
        shapes[f"lstm.weight_hh_l{k}"] = (4 * H, H)
        shapes[f"lstm.bias_ih_l{k}"] = shapes[f"lstm.bias_hh_l{k}"] = (4 * H,)
    sizes = {"hidden_size": H, "num_layers": layers, "vocabulary": list("abcd"[:V])}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return pack(zeros, SAID | sizes | claims)


def poisoned(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    weight = WEIGHTS["lstm.weight_hh_l1"].to(dtype, copy=True)
    weight[0, 0] = value
    return weight


TRAP = Trap(Path("made"))
START = 8 + int.from_bytes(WHOLE[:8], "little")  # of the numbers
DEEP = "[" * 100_000

REFUSED: dict[str, tuple[bytes, str]] = {
    # No file of this kind
    "empty": (b"", "is empty"),
    "three bytes": (b"\1\2\3", "cut short"),
    "a text": (b"ROMEO:\n" * 100, "no safetensors file"),
    "UTF-16": ("ROMEO:\n".encode("utf-16") * 100, "no safetensors file"),
    "zeros": (bytes(1000), "damaged header"),
    "a pickle": (pickle.dumps(TRAP), "is a pickle"),
    "an old pickle": (pickle.dumps(TRAP, protocol=2), "is a pickle"),
    "the oldest pickle": (pickle.dumps(TRAP, protocol=0), "no safetensors file"),
    "torch.save of a trap": (saved(TRAP), "torch.save"),
    "torch.save": (saved(WEIGHTS), "torch.save"),
    "torch.save of old": (
        saved(WEIGHTS, _use_new_zipfile_serialization=False),
        "torch.save",
    ),
    # Damaged
    "cut in the length": (WHOLE[:5], "cut short"),
    "cut in the header": (WHOLE[:100], "cut short"),
    "cut before the numbers": (WHOLE[:START], "no valid safetensors file"),
    "cut in the numbers": (WHOLE[:-1], "no valid safetensors file"),
    "a byte more": (WHOLE + b"\0", "no valid safetensors file"),
    "two files": (WHOLE + WHOLE, "no valid safetensors file"),
    "a flipped bit in a number": (flip(WHOLE, 8 * len(WHOLE) - 1), "SHA-256"),
    "a changed claim": (WHOLE.replace(b"0.25", b"0.26"), "SHA-256"),
    "a changed symbol": (WHOLE.replace(b'\\"a\\"', b'\\"c\\"'), "SHA-256"),
    "two tensors in each other's place": (
        headed(lambda h: swap(h, "lstm.weight_hh_l0", "lstm.weight_hh_l1")),
        "SHA-256",
    ),
    "no checksum": (described(json.dumps(SAID)), "None was written"),
    "a checksum that is no text": (
        described(json.dumps(SAID | {"sha256": [1]})),
        r"\[1\] was written",
    ),
    # Oversized
    "a header of 10 TB": (
        (10**13).to_bytes(8, "little") + WHOLE[8:],
        "header of 10,000,000,000,000 bytes",
    ),
    "a header of 2^64 - 1 bytes": (b"\xff" * 8 + WHOLE[8:], "18,446,744,073,709,551"),
    "a header above the limit": (
        join(b" " * (MAX_HEADER + 1), b""),
        f"at most {MAX_HEADER:,}",
    ),
    "a tensor of 10 TB": (
        headed(lambda h: h["head.bias"].update(shape=[10**12])),
        "no valid safetensors file",
    ),
    "a deep header": (join(DEEP.encode(), b""), "nested too deep"),
    "a deep description": (described(DEEP), "nested too deep"),
    "a long integer": (described('{"schema": ' + "9" * 5000 + "}"), "damaged header"),
    # A header of another shape
    "a header that is no UTF-8": (join(b"\xff{}", b""), "damaged header"),
    "a header with a BOM": (join("\ufeff{}".encode(), b""), "damaged header"),
    "a header that is no JSON": (join(b"{'a': 1}", b""), "damaged header"),
    "a header that is a list": (join(b"[]", b""), "another program's file"),
    "metadata that is a list": (
        headed(lambda h: h.update(__metadata__=["hlstm"])),
        "another program's file",
    ),
    "other tensors": (save({"weight": torch.zeros(3)}), "another program's file"),
    "a description that is no text": (described(7), "another program's file"),
    "a description that is no JSON": (described("{"), "damaged header"),
    "a description that is a list": (described("[]"), "without a schema"),
    "offsets swapped": (
        headed(lambda h: h["head.bias"]["data_offsets"].reverse()),
        "no valid safetensors file",
    ),
    "a type of another program": (
        headed(lambda h: h["head.bias"].update(dtype="Q8")),
        "no valid safetensors file",
    ),
    # The schema
    "no schema": (without("schema"), "without a schema"),
    "a newer schema": (claiming(schema=3), "schema 3, .* reads 2: upgrade hlstm"),
    "an older schema": (claiming(schema=1), r"safetensors\.torch\.load_file"),
    "a schema in text": (claiming(schema="2"), "without a schema"),
    "a schema that is true": (claiming(schema=True), "without a schema"),
    "a schema with a point": (claiming(schema=2.0), "without a schema"),
    # Another kind
    "one byte a weight": (claiming(kind="int8"), "read it with hlstm.load_int8"),
    "a run": (claiming(kind="run"), "read it with hlstm.load_run"),
    "a kind of another program": (claiming(kind=["poem"]), r"the kind \['poem'\]"),
    # The sizes
    "a billion units": (claiming(hidden_size=10**9), "hidden_size is 1000000000"),
    "a billion layers": (claiming(num_layers=10**9), "num_layers is 1000000000"),
    "a size with a point": (claiming(hidden_size=3.0), r"hidden_size is 3\.0"),
    "a size that is true": (with_size(2, 3, num_layers=True), "num_layers is True"),
    "no size": (without("hidden_size"), "hidden_size is None"),
    "no layers": (with_size(2, 3, layers=0), "num_layers is an integer, 1 or larger"),
    "no units": (with_size(2, 0), "hidden_size is an integer, 1 or larger"),
    "no symbols": (with_size(0, 3), "at least one symbol"),
    # The tensors
    "a missing tensor": (holds(lstm__bias_ih_l1=None), r"lacks 1 .*bias_ih_l1"),
    "a missing head": (holds(head__weight=None), r"lacks a matrix head\.weight"),
    "a head that is a vector": (
        holds(head__weight=torch.zeros(12)),
        r"lacks a matrix head\.weight",
    ),
    "an extra tensor": (holds(x=torch.zeros(1)), r"1 tensors of no use: \['x'\]"),
    "a layer more": (
        holds(lstm__weight_hh_l2=torch.zeros(12, 3)),
        "num_layers is 2, and its weights say 3",
    ),
    "a wrong shape": (
        holds(head__bias=torch.zeros(5)),
        r"head\.bias of shape \(5,\), not \(4,\)",
    ),
    "a transposed tensor": (
        holds(lstm__weight_hh_l0=torch.zeros(3, 12)),
        r"weight_hh_l0 of shape \(3, 12\), not \(12, 3\)",
    ),
    "a head for other symbols": (
        holds(head__weight=torch.zeros(5, 3)),
        "4 symbols, and a head for 5",
    ),
    "integers": (
        holds(head__bias=torch.zeros(4, dtype=torch.long)),
        r"head\.bias in torch\.int64",
    ),
    "booleans": (holds(head__bias=torch.ones(4) > 0), r"head\.bias in torch\.bool"),
    "complex numbers": (
        holds(head__bias=torch.zeros(4, dtype=torch.complex64)),
        r"head\.bias in torch\.complex64",
    ),
    "NaN": (
        holds(lstm__weight_hh_l1=poisoned(float("nan"))),
        "weight_hh_l1 that are not finite",
    ),
    "infinity": (
        holds(lstm__weight_hh_l1=poisoned(float("-inf"))),
        "weight_hh_l1 that are not finite",
    ),
    # Dropout, other parts, and vocabulary
    "no dropout": (without("dropout"), "dropout is None"),
    "dropout above 1": (claiming(dropout=1.5), r"dropout is 1\.5"),
    "dropout below 0": (claiming(dropout=-0.1), r"dropout is -0\.1"),
    "dropout NaN": (claiming(dropout=float("nan")), "dropout is nan"),
    "dropout infinite": (claiming(dropout=float("inf")), "dropout is inf"),
    "dropout in text": (claiming(dropout="0.25"), "dropout is '0.25'"),
    "dropout false": (claiming(dropout=False), "dropout is False"),
    "biases that are not there": (holds(head__bias=None), r"lacks 1 .*head\.bias"),
    "biases that are not said": (
        claiming(head_bias=False),
        r"no use: \['head\.bias'\]",
    ),
    "layers without the biases said": (
        holds(**{f"lstm__bias_{k}h_l{n}": None for k in "ih" for n in (0, 1)}),
        "lacks 4 tensors",
    ),
    "layers with biases not said": (claiming(bias=False), "holds 4 tensors of no use"),
    "a bias of 1": (claiming(bias=1), "bias is 1, and it is true or false"),
    "a head_bias in text": (claiming(head_bias="no"), "head_bias is 'no'"),
    "dropout between above 1": (
        claiming(dropout_between=2.0),
        r"dropout_between is 2\.0",
    ),
    "dropout between in text": (
        claiming(dropout_between="0"),
        "dropout_between is '0'",
    ),
    "a shared dimension with a point": (
        claiming(shared_dim=1.0),
        r"shared_dim is 1\.0",
    ),
    "another engine": (
        claiming(engine="warp"),
        "engine is 'warp', and it is one of auto",
    ),
    "a list of engines": (claiming(engine=["auto"]), r"engine is \['auto'\]"),
    "a name twice in the header": (
        WHOLE.replace(b'"head.bias"', b'"head.bias":0,"head.bias"'),
        "no safetensors file|damaged header",
    ),
    "no vocabulary": (without("vocabulary"), "list of symbols"),
    "a vocabulary in text": (claiming(vocabulary="abcd"), "list of symbols"),
    "a vocabulary of numbers": (claiming(vocabulary=[1, 2, 3, 4]), "list of symbols"),
    "a symbol of two": (claiming(vocabulary=["a", "b", "c", "de"]), "'de' is not"),
    "a symbol of 10,000": (
        claiming(vocabulary=["a", "b", "c", "d" * 10_000]),
        "each symbol is one character, and 'ddd",
    ),
    "a symbol of none": (claiming(vocabulary=["a", "b", "c", ""]), "'' is not"),
    "a symbol twice": (claiming(vocabulary=["a", "b", "c", "a"]), "'a' comes twice"),
    "a symbol too few": (claiming(vocabulary=["a", "b", "c"]), "3 symbols, and a head"),
}


@contextmanager
def little_memory(room: int = 2**28) -> Iterator[None]:
    """Let this process take 256 MiB more than it has, and no more."""
    if sys.platform != "linux":  # no other system says how much a process has
        yield
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Hang(BaseException):
    """A file takes too long. No Exception, so that no reading of a file catches it."""


def stop(*args: object) -> None:
    raise Hang


@contextmanager
def time_limit(seconds: float = 10.0) -> Iterator[None]:
    """Stop what takes a millisecond when it takes seconds."""
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_files_below_would_load_if_they_were_whole(tmp_path: Path) -> None:
    """The table shows something only because its untouched file is accepted."""
    path = tmp_path / "model"
    for content in (WHOLE, claiming(), holds(), headed(lambda header: None)):
        path.write_bytes(content)
        assert same(hlstm.load_model(path), NET)
    path.write_bytes(with_size(2, 3))
    hlstm.load_model(path)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content, reason = REFUSED[kind]
    path = tmp_path / "a model"
    monkeypatch.chdir(tmp_path)  # where the pickles would leave their trace
    path.write_bytes(content)
    refused = pytest.raises(CheckpointError, match=reason)
    with refused as caught, time_limit(), little_memory():
        hlstm.load_model(path)
    assert str(caught.value).startswith(f"{path} ")
    assert len(str(caught.value)) < 600 + len(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a model"]


def test_the_pickles_of_the_table_would_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(REFUSED["a pickle"][0])
    assert (tmp_path / "made").is_dir()


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(WHOLE)
    os.truncate(path, MAX_BYTES + 1)
    with little_memory(), pytest.raises(CheckpointError, match="more than the 4"):
        hlstm.load_model(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_folder, a_pipe, a_device])
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a model")
    refused = pytest.raises(CheckpointError, match="a model is a folder or a dev")
    with refused, time_limit(), little_memory():
        hlstm.load_model(tmp_path / "a model")


@pytest.mark.parametrize("link", [False, True])
def test_a_missing_file_is_named(tmp_path: Path, link: bool) -> None:
    if link:
        (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="gone"):
        hlstm.load_model(tmp_path / "gone")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    NET.save(tmp_path / "model")
    monkeypatch.setattr("hlstm.files.open", forbidden, raising=False)
    with pytest.raises(CheckpointError, match="model .*Permission denied"):
        hlstm.load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("symbols", "difference"),
    [
        ("ab\ud800\U0001f601", r"only in the file: .*😀.*, only in yours: .*😁"),
        ("ab\ud800\U0001f600c", r"only in the file: \[\], only in yours: \['c'\]"),
        ("ab", r"only in the file: \['\\ud800', '😀'\], only in yours: \[\]"),
        ("ba\ud800\U0001f600", "the same symbols in another order"),
    ],
    ids=ascii,
)
def test_a_foreign_vocabulary_is_refused(
    tmp_path: Path, symbols: str, difference: str
) -> None:
    NET.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"another vocabulary: .*{difference}"):
        hlstm.load_model(tmp_path / "model", hlstm.Vocabulary(symbols))


# What a failure leaves


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A file that must not change, alone in its folder."""
    path = tmp_path / "model.safetensors"
    network("old").save(path)
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("nothing", ["abc", ["a"], 5])
def test_what_is_no_vocabulary_is_refused(nothing: Any, tmp_path: Path) -> None:
    hlstm.DeepRNN(hlstm.Vocabulary("abc"), 3).save(tmp_path / "model")
    with pytest.raises(InvalidTypeError, match="^vocab is a Vocabulary or None"):
        hlstm.load_model(tmp_path / "model", vocab=nothing)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*args: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)):
        NET.save(old)


def test_a_file_system_that_takes_no_more_leaves_the_old_file(old: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            NET.save(old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_HEADER"])
def test_what_could_not_be_read_is_not_written(
    old: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"hlstm.files.{limit}", 1000)
    with pytest.raises(ValueError, match="1,000"):
        NET.save(old)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="model"):
        NET.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.*make it before saving"):
        NET.save(tmp_path / "nowhere" / "model")


KILLED = """
import os, signal, sys, hlstm
net = hlstm.load_model(sys.argv[1])
with open(sys.argv[2], "x"):
    pass
setattr(os, sys.argv[3], lambda *args: os.kill(os.getpid(), signal.SIGKILL))
net.save(sys.argv[1])
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_save_leaves_the_old_file(tmp_path: Path, step: str) -> None:
    path = tmp_path / "model.safetensors"
    NET.save(path)
    before = path.read_bytes()
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "began"), step]
    killed = subprocess.run(command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "began").exists()
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob(".model.safetensors.*.tmp"))) == 1


def test_the_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "model", []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        found = os.fstat(handle)
        folder = stat.S_ISDIR(found.st_mode)
        steps.append("folder" if folder else f"{found.st_size} bytes")
        fsync(handle)

    def renamed(one: Path, other: Path) -> None:
        assert one.parent == other.parent == tmp_path
        steps.append("rename")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    NET.save(path)
    assert steps == [f"{path.stat().st_size} bytes", "rename", "folder"]


@pytest.mark.parametrize(("number", "fatal"), [(22, False), (5, True)])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fatal: bool
) -> None:
    """EINVAL: this file system has no such thing. EIO: the disk is broken."""
    fsync, path = os.fsync, tmp_path / "model"

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    if fatal:
        with pytest.raises(OSError, match="Input/output"):
            NET.save(path)
    else:
        NET.save(path)
    assert same(hlstm.load_model(path), NET)


def test_a_platform_without_open_folders_saves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    NET.save(tmp_path / "model")
    assert same(hlstm.load_model(tmp_path / "model"), NET)


def test_a_new_file_is_as_readable_as_any(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        NET.save(tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


def test_a_reader_beside_two_writers_sees_whole_files(tmp_path: Path) -> None:
    path, nets = tmp_path / "model", [network("one"), network("two")]

    def write(net: hlstm.DeepRNN) -> None:
        for _ in range(20):
            net.save(path)

    nets[0].save(path)
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, net) for net in nets]
        while not all(writer.done() for writer in writers):
            again = hlstm.load_model(path)
            assert any(same(again, net) for net in nets)
    assert [writer.result() for writer in writers] == [None, None]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
