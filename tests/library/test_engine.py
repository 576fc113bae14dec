"""The engines compute the same numbers, and compiled sampling writes the same text."""

import itertools
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks, save_on_cpu
from torch.autograd.graph import saved_tensors_hooks as hooks
from torch.utils.checkpoint import checkpoint

import hlstm
from hlstm import engine, kernel
from hlstm.checks import HlstmError
from hlstm.engine import Writer
from hlstm.layer import Layer
from hlstm.sampling import draw, next_distribution, stream_text

ENGINES = ("fused", "torch", "auto")
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}

needs_compiler = pytest.mark.skipif(bool(kernel.why_not()), reason=kernel.why_not())


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def net() -> hlstm.DeepRNN:
    vocab = hlstm.Vocabulary.from_text("a quick brown fox, jumping over lazy dogs\n")
    net = hlstm.DeepRNN(vocab, hidden_size=48, num_layers=3)
    with torch.no_grad():
        net.head.weight.mul_(20)
    return net


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def everything(
    lstm: hlstm.LSTM, x: Tensor, state: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Outputs, the last state, and every gradient of a loss that weighs them all."""
    out, (h, c) = lstm(x, state)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    wanted = [*lstm.parameters(), *state]
    wanted += [x] if x.requires_grad else []
    grads = torch.autograd.grad((out * weight).sum() + (h * c).sum(), wanted)
    return [out.detach(), h.detach(), c.detach(), *grads]


def assert_close(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    """Each tensor differs by at most `limit` of its largest entry."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= limit * theirs.abs().max()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("hidden_size", [1, 20, 64, 100, 192])
@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize("name", ENGINES)
def test_engines_agree(
    name: str, dtype: torch.dtype, hidden_size: int, vectors: bool, bias: bool
) -> None:
    lstm = hlstm.LSTM(13, hidden_size, 2, bias=bias, batch_first=True, dtype=dtype)
    x = torch.randn(7, 9, 13, dtype=dtype, requires_grad=True)
    x = x if vectors else torch.randint(13, (7, 9))
    h, c = torch.randn(2, 2, 7, hidden_size, dtype=dtype)
    state = h.requires_grad_(), c.requires_grad_()
    lstm.engine = "reference"
    expected = everything(lstm, x, state)
    lstm.engine = name
    assert_close(everything(lstm, x, state), expected, LIMIT[dtype])


@needs_compiler
@settings(max_examples=60)
@given(
    T=st.integers(1, 12),
    B=st.integers(1, 40),
    H=st.integers(1, 130),
    inputs=st.sampled_from([1, 5, 64, 128]),
    threads=st.integers(1, 3),
)
def test_any_size_agrees(T: int, B: int, H: int, inputs: int, threads: int) -> None:
    lstm = hlstm.LSTM(inputs, H, 2, dtype=torch.float64, engine="reference")
    x = torch.randn(T, B, inputs, dtype=torch.float64, requires_grad=True)
    h, c = torch.randn(2, 2, B, H, dtype=torch.float64)
    state = h.requires_grad_(), c.requires_grad_()
    expected, before = everything(lstm, x, state), torch.get_num_threads()
    lstm.engine = "fused"
    torch.set_num_threads(threads)
    try:
        assert_close(everything(lstm, x, state), expected, 1e-10)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_large_weights_are_shared_by_columns(two_threads: None) -> None:
    lstm = hlstm.LSTM(8, 448, 1, engine="reference")
    x, state = torch.randn(3, 25, 8), torch.zeros(2, 1, 25, 448).requires_grad_()
    expected = everything(lstm, x, (state[0], state[1]))
    lstm.engine = "fused"
    assert_close(everything(lstm, x, (state[0], state[1])), expected, 1e-5)


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    lstm = hlstm.LSTM(64, 128, 2, engine="fused")
    x, state = torch.randn(5, 30, 64), torch.zeros(2, 2, 30, 128).requires_grad_()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(everything(lstm, x, (state[0], state[1])))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@needs_compiler
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(autocast: bool) -> None:
    lstm = hlstm.LSTM(64, 100, 2)
    x = torch.randn(6, 9, 64)
    exact, _ = lstm(x)
    exact.sum().backward()
    gradient = {n: p.grad for n, p in lstm.named_parameters() if p.grad is not None}
    lstm.zero_grad()
    lstm.engine = "fused"
    if not autocast:
        lstm, x = lstm.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, (h, c) = lstm(x)
    assert out.dtype == h.dtype == c.dtype == torch.bfloat16
    assert (out.float() - exact).abs().max() < 0.02
    out.float().sum().backward()
    for name, p in lstm.named_parameters():
        assert p.grad is not None and p.grad.dtype == p.dtype
        off = (p.grad.float() - gradient[name]).abs().max()
        assert off < 0.03 * gradient[name].abs().max()


def kernels(run: object) -> set[str]:
    """The names of PyTorch's operations while `run` is called."""
    with torch.profiler.profile() as profile:
        run()  # type: ignore[operator]
    return {event.key for event in profile.key_averages()}


@needs_compiler
@pytest.mark.parametrize("name", ["fused", "reference"])
def test_our_own_engines_call_no_lstm_of_pytorch(name: str) -> None:
    lstm = hlstm.LSTM(5, 64, 2, engine=name)
    ids = torch.randint(5, (6, 3))
    called = kernels(lambda: lstm(ids)[0].sum().backward())
    assert not [key for key in called if "lstm" in key.lower() or "rnn" in key.lower()]
    lstm.engine = "torch"
    called = kernels(lambda: lstm(ids)[0].sum().backward())
    assert "aten::lstm" in called


def test_gradients_of_gradients() -> None:
    for vectors in (True, False):
        lstm = hlstm.LSTM(3, 2, 2, dtype=torch.float64, engine="fused")
        x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
        ids = torch.randint(3, (3, 2))
        weight = lstm.get_parameter("weight_hh_l0")

        def loss(x: Tensor, weight: Tensor) -> Tensor:
            given = (x,) if vectors else (ids,)  # noqa: B023
            weights = {"weight_hh_l0": weight}
            return torch.func.functional_call(lstm, weights, given)[0]  # noqa: B023

        assert torch.autograd.gradgradcheck(loss, (x, weight))


@needs_compiler
@pytest.mark.parametrize("lowest, highest", [(-1, 4), (0, 5), (7, 7)])
@pytest.mark.parametrize("name", ["reference", "fused", "torch", "auto"])
def test_ids_outside_the_table(name: str, lowest: int, highest: int) -> None:
    lstm = hlstm.LSTM(5, 64, engine=name)
    ids = torch.tensor([[lowest], [highest]])
    with pytest.raises(IndexError, match=f"from {lowest} to {highest}, outside 0 … 4"):
        lstm(ids)


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_a_compiler_that_is_there_compiles() -> None:
    assert engine.library() is not None


@needs_compiler
def test_what_auto_takes() -> None:
    ids, vectors = torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 2, 3)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        h, weight = torch.zeros(2, 8, dtype=dtype), torch.zeros(32, 8, dtype=dtype)
        # Which types PyTorch has depends on the processor.
        theirs = "reference" if engine.torch_lacks(h) else "torch"
        ours = "fused" if dtype in kernel.ACCUMULATE_DTYPE else theirs
        for inputs in (ids, vectors):
            assert engine.pick_engine("auto", inputs, h, weight) == ours
            assert engine.pick_engine("auto", inputs, h, weight, packed=True) == theirs
            assert engine.pick_engine("reference", inputs, h, weight) == "reference"
            if theirs == "torch":
                assert engine.pick_engine("torch", inputs, h, weight) == "torch"
        assert engine.pick_engine("auto", ids[:0], h, weight) == "reference"
        assert engine.pick_engine("auto", ids[:1], h, weight) == "reference"
        assert engine.pick_engine("auto", ids.to("meta"), h, weight) == "reference"


@pytest.mark.parametrize("lack", ["", "PyTorch cannot run its LSTM in bfloat16"])
def test_auto_never_takes_what_pytorch_lacks(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is no compiled code, and for packed sequences."""
    monkeypatch.setattr(engine, "torch_lacks", lambda h: lack)
    ids, h = torch.zeros(4, 2, dtype=torch.long), torch.zeros(2, 8).bfloat16()
    left = "reference" if lack else "torch"
    assert engine.pick_engine("auto", ids, h, h, packed=True) == left
    monkeypatch.setattr(engine, "library", lambda: None)
    assert engine.pick_engine("auto", ids, h, h) == left
    if lack:
        with pytest.raises(engine.EngineError, match=f'^{lack}; engine="auto"'):
            engine.pick_engine("torch", ids, h, h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packed", [False, True])
def test_every_engine_computes_under_autocast_or_says_why_not(
    dtype: torch.dtype, packed: bool
) -> None:
    """PyTorch has no LSTM in these types on some processors, and calls it all the same."""
    lstm, x = hlstm.LSTM(5, 7, 2, engine="reference"), torch.randn(6, 3, 5)
    given: Any = torch.nn.utils.rnn.pack_sequence([x[:, 0], x[:4, 1]]) if packed else x
    exact, _ = lstm(given)
    for name in engine.ENGINES:
        lstm.engine = name
        with torch.autocast("cpu", dtype):
            lack = engine.torch_lacks(torch.zeros(1, dtype=dtype))
            known = dtype in kernel.ACCUMULATE_DTYPE and not kernel.why_not()
            if (name == "torch" and lack) or (name == "fused" and not known):
                with pytest.raises(engine.EngineError, match=str(dtype)):
                    lstm(given)
                continue
            out, state = lstm(given)
        ours, theirs = (out.data, exact.data) if packed else (out, exact)
        assert {t.dtype for t in (ours, *state)} == {dtype}
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=0.03)


def test_an_engine_that_does_not_exist() -> None:
    for build in (lambda: hlstm.LSTM(3, 4, engine="fats"),):
        with pytest.raises(ValueError, match="reference, fused, torch, auto.*'fats'"):
            build()
    with pytest.raises(HlstmError, match="reference, fused, torch, auto.*'fats'"):
        engine.check_engine("fats")
    lstm = hlstm.LSTM(3, 4)
    lstm.engine = "fats"
    with pytest.raises(ValueError, match="'fats'"):
        lstm(torch.zeros(1, 1, 3))


@needs_compiler
def test_a_type_that_is_not_fused() -> None:
    lstm = hlstm.LSTM(3, 4, dtype=torch.float16, engine="fused")
    x = torch.zeros(2, 1, 3, dtype=torch.float16)
    with pytest.raises(RuntimeError, match='float16 on cpu; engine="auto"') as caught:
        lstm(x)
    assert isinstance(caught.value, HlstmError)


@needs_compiler
def test_a_view_that_was_changed_is_noticed() -> None:
    lstm = hlstm.LSTM(3, 64, engine="fused")
    out, _ = lstm(torch.randn(4, 2, 3))
    out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_compiler
def test_a_graph_may_be_walked_twice() -> None:
    lstm = hlstm.LSTM(64, 64, 2, engine="fused")
    out, _ = lstm(torch.randn(4, 2, 64))
    out.sum().backward(retain_graph=True)
    weight = lstm.get_parameter("weight_hh_l0")
    assert weight.grad is not None
    once = weight.grad.clone()
    lstm(torch.randn(4, 2, 64))[0].sum().backward()
    lstm.zero_grad()
    out.sum().backward()
    assert torch.equal(weight.grad, once)


def test_a_saved_model_has_the_same_weights_whoever_computes(tmp_path: Path) -> None:
    vocab = hlstm.Vocabulary.from_text("abc")
    weights = []
    for name in ("reference", "auto"):
        torch.manual_seed(0)
        hlstm.DeepRNN(vocab, hidden_size=8, engine=name).save(tmp_path / name)
        weights.append(hlstm.load_model(tmp_path / name).state_dict())
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name])


SCRIPT = """
import sys
import torch, hlstm
lstm = hlstm.LSTM(3, 64, engine=sys.argv[1])
x = torch.randn(5, 2, 3, requires_grad=True)
for _ in range(2):
    lstm(x)[0].sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        lstm(x)[0].float().sum().backward()
vocab = hlstm.Vocabulary.from_text("abc")
print(len(hlstm.DeepRNN(vocab, hidden_size=8).generate_text("a", length=5, seed=0)))
"""


def run_script(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("isa", ["", "AVX2"])
@pytest.mark.parametrize(
    "compiler, reason",
    [
        ("no-such-c++", "there is no compiler 'no-such-c++'"),
        ("false", "the compiler failed"),
        ("", "there is no compiler, for CXX is empty"),
        ("'c++", "CXX is no command"),
    ],
)
def test_without_a_compiler(
    compiler: str, reason: str, isa: str, tmp_path: Path
) -> None:
    """`auto` computes, and says so in one warning; `fused` says why it cannot."""
    about = {"CXX": compiler, "XDG_CACHE_HOME": str(tmp_path)}
    about |= {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
    run = run_script("auto", **about)
    assert run.returncode == 0 and run.stdout == "6\n"
    assert run.stderr.count("Warning") == run.stderr.count("no fast engine") == 1
    assert reason in run.stderr
    run = run_script("fused", **about)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("hlstm.engine.EngineError: there is no fused engine: ")
    assert reason in last and "Warning" not in run.stderr


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    run = run_script("auto", XDG_CACHE_HOME=str(blocked))
    assert run.returncode == 0 and run.stderr.count("no fast engine") == 1


@needs_compiler
def test_compiled_once(tmp_path: Path) -> None:
    stamps = []
    for _ in range(2):
        run = run_script("fused", XDG_CACHE_HOME=str(tmp_path))
        assert run.returncode == 0 and run.stderr == ""
        built = sorted((tmp_path / "hlstm").iterdir())
        assert [path.suffix for path in built] == [".sha256", ".so"]
        stamps.append([(path, path.stat().st_mtime_ns) for path in built])
    assert stamps[0] == stamps[1]


def test_transforms_take_the_readable_loop() -> None:
    lstm = hlstm.LSTM(3, 64)
    x = torch.randn(4, 5, 2, 3)
    mapped = torch.func.vmap(lambda x: lstm(x)[0])(x)
    for k in range(4):
        assert torch.allclose(mapped[k], lstm(x[k])[0], atol=1e-6)
    tangent = torch.func.jvp(lambda x: lstm(x)[0], (x[0],), (x[1],))[1]
    step = 1e-3
    slope = (lstm(x[0] + step * x[1])[0] - lstm(x[0] - step * x[1])[0]) / (2 * step)
    assert torch.allclose(tangent, slope, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.8},
        {"temperature": 1.7, "top_k": 4},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 0.6, "top_k": 9, "top_p": 0.9},
        {"temperature": 0.0},
    ],
)
def test_compiled_sampling_writes_the_same_text(
    net: hlstm.DeepRNN, how: dict[str, Any]
) -> None:
    texts = []
    for name in ("reference", "auto"):
        net.lstm.engine = name
        texts.append(net.generate_text("a quick", length=700, seed=3, **how))
    assert texts[0] == texts[1]
    assert how["temperature"] == 0 or len(set(texts[0])) > 8


def parts(net: hlstm.DeepRNN) -> tuple[list[Layer], tuple[Tensor, Tensor | None]]:
    """What a writer is made of."""
    layers = [net.lstm.layer_weights(k) for k in range(net.lstm.num_layers)]
    return layers, (net.head.weight, net.head.bias)


def start(net: hlstm.DeepRNN, streams: int = 1) -> tuple[Tensor, Tensor]:
    """A state to start from."""
    shape = net.lstm.num_layers, streams, net.lstm.hidden_size
    return torch.zeros(shape), torch.zeros(shape)


def darts(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("streams", [1, 7, 64])
def test_the_writer_scores_as_the_network(
    net: hlstm.DeepRNN, dtype: torch.dtype, streams: int
) -> None:
    net = net.to(dtype)
    ids = torch.randint(len(net.vocab), (streams, 12))
    with torch.no_grad():
        logits, _ = net(ids)
        _, state = net(ids[:, :4])
    writer = Writer(*parts(net), state)
    limit = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 0.7}[dtype]
    for t in range(4, 12):
        writer.write(ids[:, t], torch.zeros(1, streams, dtype=torch.float64))
        assert (writer.logits - logits[:, t]).abs().max() < limit


@needs_compiler
@pytest.mark.parametrize("layer_bias", [True, False])
@pytest.mark.parametrize("head_bias", [True, False])
def test_the_writer_needs_no_biases(layer_bias: bool, head_bias: bool) -> None:
    lstm = hlstm.LSTM(9, 20, 2, bias=layer_bias)
    head = torch.nn.Linear(20, 9, bias=head_bias)
    layers = [lstm.layer_weights(k) for k in range(2)]
    writer = Writer(layers, (head.weight, head.bias), tuple(torch.zeros(2, 2, 3, 20)))
    ids = torch.tensor([1, 8, 4])
    writer.write(ids, darts(1, 3))
    with torch.no_grad():
        expected = head(lstm(ids[None])[0][0])
    torch.testing.assert_close(writer.logits, expected, rtol=0, atol=1e-5)


@needs_compiler
def test_the_writer_keeps_the_weights_it_was_made_with(net: hlstm.DeepRNN) -> None:
    one, other = (Writer(*parts(net), start(net)) for _ in range(2))
    ids, u = torch.tensor([2]), darts(30, 1)
    expected = one.write(ids, u)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(math.nan)
    assert torch.equal(other.write(ids, u), expected)


@needs_compiler
@pytest.mark.parametrize("pieces", [[0, 150, 0], [1] * 150, [149, 1], [7, 64, 79]])
def test_pieces_of_any_length_are_one_text(
    net: hlstm.DeepRNN, pieces: list[int]
) -> None:
    one, other = (Writer(*parts(net), start(net, 2)) for _ in range(2))
    ids, u = torch.tensor([2, 5]), darts(150, 2)
    found, last = [], ids
    for piece in u.split(pieces):
        found.append(one.write(last, piece, 0.8))
        assert found[-1].shape == piece.shape and found[-1].dtype == torch.long
        last = found[-1][-1] if len(piece) else last
    assert torch.equal(torch.cat(found), other.write(ids, u, 0.8))


@needs_compiler
def test_the_writer_takes_darts_in_any_layout(net: hlstm.DeepRNN) -> None:
    u, ids = darts(40, 3), torch.tensor([1, 2, 3])
    texts = [
        Writer(*parts(net), start(net, 3)).write(ids, given)
        for given in (u, u.T.contiguous().T, torch.stack([u, u], 2)[..., 0])
    ]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


@needs_compiler
def test_what_the_writer_refuses(net: hlstm.DeepRNN) -> None:
    writer = Writer(*parts(net), start(net, 2))
    for ids, u in [(torch.tensor([1]), darts(3, 2)), (torch.tensor([1, 2]), darts(3))]:
        with pytest.raises(HlstmError, match=r"ids are \(2,\) and u is \(n, 2\)"):
            writer.write(ids, u)
    for bad in (-1, len(net.vocab)):
        with pytest.raises(IndexError, match=f"outside 0 … {len(net.vocab) - 1}"):
            writer.write(torch.tensor([1, bad]), darts(3, 2))


@needs_compiler
def test_who_can_be_written(net: hlstm.DeepRNN) -> None:
    layers, head = parts(net)
    assert engine.can_write(layers, head)
    with torch.autocast("cpu", torch.bfloat16):
        assert not engine.can_write(layers, head)
    more = torch.zeros(len(net.vocab) + 1, 48)
    weight = head[0].detach()
    for other in (weight.half(), weight.double(), weight.to("meta"), more):
        assert not engine.can_write(layers, (other, None))
        with pytest.raises(engine.EngineError):
            Writer(layers, (other, None), start(net))
    halves = [tuple(x if x is None else x.half() for x in layer) for layer in layers]
    assert not engine.can_write(halves, (weight.half(), None))  # type: ignore[arg-type]


@needs_compiler
def test_the_writer_stops_where_a_stream_breaks(net: hlstm.DeepRNN) -> None:
    broken = 3
    with torch.no_grad():
        net.lstm.get_parameter("weight_ih_l0")[:, broken] = math.nan
    writer = Writer(*parts(net), start(net, 3))
    drawn = writer.write(torch.tensor([broken, 1, 2]), darts(5, 3))
    assert (drawn[0] >= 0).tolist() == [False, True, True] and (drawn[1:] == -1).all()
    assert writer.logits.isnan().all(1).tolist() == [True, False, False]
    written = stream_text(net, "a", length=3000, temperature=50.0, seed=0)
    with pytest.raises(ValueError, match="weights that are not finite"):
        list(written)


TAUS = [0.0, 5e-324, 1e-40, 0.3, 1.0, 5.0, 1e300]
MIN_PS = [None, 5e-324, 0.02, 0.5, 1.0]
TOP_PS = [None, 5e-324, 1e-40, 1e-9, 0.3, 0.9, 1 - 1e-8, 1 - 1e-12, 1.0]


def compiled_chances(
    z: Tensor,
    temperature: float,
    k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> Tensor:
    """From what the compiled code draws."""
    limits = [temperature, 1.0 if top_p is None else top_p, min_p or 0]
    how, p = torch.tensor(limits, dtype=torch.float64), torch.empty(z.shape).double()
    kernel.call("chances", z.dtype, *z.shape, k or 0, how, z.contiguous(), p)
    return p


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_code_keeps_what_the_readable_code_keeps(dtype: torch.dtype) -> None:
    """Every symbol, whatever the bounds; in bfloat16 the logits are float32."""
    z = torch.cat([torch.randn(20, 30) * 4, torch.randint(-3, 3, (20, 30)).float()])
    z[::7, ::3], z[5] = -math.inf, 1.0
    z = z.to(dtype)
    for how in itertools.product(TAUS, (None, 1, 7, 30), TOP_PS, MIN_PS):
        expected = next_distribution(z, *how)
        found = compiled_chances(z, *how)
        assert torch.equal(found > 0, expected > 0), how
        rtol = 1e-6 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(found, expected.double(), rtol=rtol, atol=0)
        assert (found.gather(1, z.argmax(1, keepdim=True)) > 0).all()


@needs_compiler
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_chances_of_what_is_not_finite(bad: float) -> None:
    z = torch.zeros(3, 4)
    z[1, 2], z[2] = bad, -math.inf
    assert compiled_chances(z, 1.0, None, None, 0.1).isnan().all(1).tolist() == [
        0,
        1,
        1,
    ]


@needs_compiler
@settings(max_examples=200)
@given(
    z=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    temperature=st.sampled_from([*TAUS, 1e-9]),
    k=st.none() | st.integers(1, 30),
    top_p=st.sampled_from(TOP_PS),
    min_p=st.sampled_from(MIN_PS),
    u=st.floats(0, 1, exclude_max=True),
)
def test_compiled_draws_are_those_of_the_readable_code(
    z: list[float],
    temperature: float,
    k: int | None,
    top_p: float | None,
    min_p: float | None,
    u: float,
) -> None:
    z = [value + 1e-3 * place for place, value in enumerate(z)]
    k = None if k is None else min(k, len(z))
    layer = torch.zeros(4, len(z)), torch.zeros(4, 1), None
    bias = torch.tensor(z)
    head, state = (torch.zeros(len(z), 1), bias), tuple(torch.zeros(2, 1, 1, 1))
    dart = torch.tensor([[u]], dtype=torch.float64)
    ids = torch.tensor([0])
    drawn = Writer([layer], head, state).write(ids, dart, temperature, k, top_p, min_p)
    p = next_distribution(bias[None], temperature, k, top_p, min_p)
    sums = p.double().cumsum(-1)[0]
    if ((sums / sums[-1] - u).abs() > 1e-6).all():  # not on the line between two
        assert drawn.item() == draw(p, dart).item()


def test_uniform_numbers_come_in_one_order() -> None:
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    block = torch.rand(50, 3, generator=one, dtype=torch.float64)
    rows = [torch.rand(3, 1, generator=other, dtype=torch.float64) for _ in range(50)]
    assert torch.equal(block, torch.cat(rows, 1).T)


@needs_compiler
def test_a_hook_is_called_for_each_character(net: hlstm.DeepRNN) -> None:
    seen = []
    with net.head.register_forward_hook(lambda *_: seen.append(1)):
        net.generate_text("a", length=20, seed=0)
    assert len(seen) == 20


@needs_compiler
def test_with_a_compiler_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hlstm.LSTM(3, 64)(torch.zeros(2, 1, 3))


# What autograd keeps


def gradients(
    net: torch.nn.Module, run: Callable[[Tensor], Tensor], given: Tensor
) -> list[Tensor]:
    """The gradients of all parameters, and of what is given."""
    given = given.clone().requires_grad_()
    net.zero_grad()
    run(given).sin().sum().backward()
    return [p.grad for p in (*net.parameters(), given) if p.grad is not None]


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def twins(request: pytest.FixtureRequest) -> tuple[torch.nn.LSTM, hlstm.LSTM]:
    """PyTorch's stack and ours, with the same weights."""
    theirs = torch.nn.LSTM(64, 48, 2, dtype=request.param)
    mine = hlstm.LSTM(64, 48, 2, dtype=request.param, engine="fused")
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


Twins = tuple[torch.nn.LSTM, hlstm.LSTM]


@needs_compiler
@pytest.mark.parametrize(
    "keep",
    [
        lambda: hooks(torch.clone, lambda x: x),
        lambda: hooks(lambda x: x.numpy(force=True), torch.from_numpy),
        lambda: save_on_cpu(),
        lambda: disable_saved_tensors_hooks("no hooks here"),
    ],
    ids=["clone", "numpy", "save_on_cpu", "disabled"],
)
def test_what_is_kept_may_be_kept_elsewhere(
    twins: Twins, keep: Callable[[], Any]
) -> None:
    theirs, mine = twins
    x = torch.randn(5, 3, 64, dtype=theirs.all_weights[0][0].dtype)
    expected = gradients(theirs, lambda x: theirs(x)[0], x)
    with keep():
        found = gradients(mine, lambda x: mine(x)[0], x)
    assert_close(found, expected, LIMIT[x.dtype])


@needs_compiler
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_of_activations(twins: Twins, use_reentrant: bool) -> None:
    theirs, mine = twins
    x = torch.randn(5, 3, 64, dtype=theirs.all_weights[0][0].dtype)

    def run(x: Tensor) -> Tensor:
        whole = checkpoint(lambda x: mine(x)[0], x, use_reentrant=use_reentrant)
        assert isinstance(whole, Tensor)
        return whole

    expected = gradients(theirs, lambda x: theirs(x)[0], x)
    assert_close(gradients(mine, run, x), expected, LIMIT[x.dtype])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_trying_pytorch_leaves_no_trace_in_a_checkpoint(
    use_reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried in the first pass and known in the second; both keep the same."""
    monkeypatch.setattr(engine, "library", lambda: None)
    lstm, x = hlstm.LSTM(5, 7), torch.randn(4, 2, 5, requires_grad=True)
    found: list[Tensor | None] = []
    for run in (lstm, lambda x: checkpoint(lstm, x, use_reentrant=use_reentrant)):
        engine.try_torch.cache_clear()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            run(x)[0].float().sum().backward()
        found.append(x.grad)
    assert found[0] is not None and found[1] is not None
    assert torch.equal(found[0], found[1])


@needs_compiler
def test_what_is_kept_is_unpacked_once() -> None:
    lstm, counts = hlstm.LSTM(64, 64, engine="fused"), [0, 0]

    def count(way: int) -> Callable[[Tensor], Tensor]:
        def hook(x: Tensor) -> Tensor:
            counts[way] += 1
            return x

        return hook

    with hooks(count(0), count(1)):
        lstm(torch.randn(4, 2, 64))[0].sum().backward()
    assert counts[0] == counts[1] > 0


@needs_compiler
def test_gradients_of_gradients_through_hooks() -> None:
    lstm = hlstm.LSTM(3, 2, dtype=torch.float64, engine="fused")
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    with hooks(torch.clone, torch.clone):
        assert torch.autograd.gradgradcheck(lambda x: lstm(x)[0], x)


@needs_compiler
@pytest.mark.parametrize("inputs", [3, 64])
def test_many_gradients_at_once(inputs: int) -> None:
    lstm = hlstm.LSTM(inputs, 5, dtype=torch.float64)
    x = torch.randn(3, 2, inputs, dtype=torch.float64)
    jacobians = []
    for name in ("fused", "reference"):
        lstm.engine = name
        jacobian = torch.autograd.functional.jacobian(
            lambda x: lstm(x)[0].sum((0, 1)), x, vectorize=True
        )
        jacobians.append(jacobian)
    torch.testing.assert_close(*jacobians, rtol=0, atol=1e-12)


# Defaults


@pytest.fixture(params=["meta", torch.bfloat16, torch.float64], ids=str)
def other_default(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Sets another default, until the test is over."""
    device, dtype = torch.get_default_device(), torch.get_default_dtype()
    change = (
        torch.set_default_device if request.param == "meta" else torch.set_default_dtype
    )
    yield lambda: change(request.param)
    torch.set_default_device(device if device.type != "cpu" else None)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("name", engine.ENGINES)
@pytest.mark.parametrize("inputs", [5, 64])
def test_defaults_change_no_number(
    name: str, inputs: int, other_default: Callable[[], None]
) -> None:
    if name == "fused" and kernel.why_not():
        pytest.skip(kernel.why_not())
    lstm = hlstm.LSTM(inputs, 48, 2, engine=name)
    vectors, state = torch.randn(6, 3, inputs), torch.randn(2, 2, 3, 48)
    ids = torch.randint(inputs, (6, 3))
    hx = state[0].requires_grad_(), state[1].requires_grad_()
    expected = [everything(lstm, x, hx) for x in (vectors, ids)]
    other_default()
    weight = torch.linspace(-1, 1, 6 * 3 * 48, dtype=torch.float32, device="cpu")
    for x, before in zip((vectors, ids), expected, strict=True):
        out, (h, c) = lstm(x, hx)
        loss = (out * weight.view_as(out)).sum() + (h * c).sum()
        grads = torch.autograd.grad(loss, [*lstm.parameters(), *hx])
        after = [out.detach(), h.detach(), c.detach(), *grads]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@needs_compiler
def test_defaults_change_no_text(
    net: hlstm.DeepRNN, other_default: Callable[[], None]
) -> None:
    u, ids, state = darts(40, 2), torch.tensor([1, 2]), start(net, 2)
    expected = Writer(*parts(net), state).write(ids, u, 0.8, 9, 0.9)
    layers = parts(net)
    other_default()
    assert torch.equal(Writer(*layers, state).write(ids, u, 0.8, 9, 0.9), expected)
