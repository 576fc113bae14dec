"""The engines compute the same numbers, and compiled sampling writes the same text."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hlstm
from hlstm import engine
from hlstm.sampling import draw, next_character

ENGINES = ("fused", "torch", "auto")
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}

needs_compiler = pytest.mark.skipif(
    engine.library() is None, reason="there is no C++ compiler"
)


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
    read = lstm.forward_one_hot if x.dtype == torch.long else lstm
    out, (h, c) = read(x, state)
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
    called = kernels(lambda: lstm.forward_one_hot(ids)[0].sum().backward())
    assert not [key for key in called if "lstm" in key.lower() or "rnn" in key.lower()]
    lstm.engine = "torch"
    called = kernels(lambda: lstm.forward_one_hot(ids)[0].sum().backward())
    assert "aten::lstm" in called


def test_gradients_of_gradients() -> None:
    for vectors in (True, False):
        lstm = hlstm.LSTM(3, 2, 2, dtype=torch.float64, engine="fused")
        x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
        ids = torch.randint(3, (3, 2))
        weight = lstm.get_parameter("weight_hh_l0")

        def loss(x: Tensor, weight: Tensor) -> Tensor:
            given = (x,) if vectors else (ids,)  # noqa: B023
            parameters = {"weight_hh_l0": weight}
            module = lstm if vectors else Reader(lstm)  # noqa: B023
            if not vectors:  # noqa: B023
                parameters = {"lstm.weight_hh_l0": weight}
            return torch.func.functional_call(module, parameters, given)[0]

        assert torch.autograd.gradgradcheck(loss, (x, weight))


class Reader(torch.nn.Module):
    """Read ids."""

    def __init__(self, lstm: hlstm.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, ids: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Call `forward_one_hot`."""
        return self.lstm.forward_one_hot(ids)


@needs_compiler
@pytest.mark.parametrize("lowest, highest", [(-1, 4), (0, 5), (7, 7)])
@pytest.mark.parametrize("name", ["reference", "fused", "torch", "auto"])
def test_ids_outside_the_table(name: str, lowest: int, highest: int) -> None:
    lstm = hlstm.LSTM(5, 64, engine=name)
    ids = torch.tensor([[lowest], [highest]])
    with pytest.raises(IndexError, match=f"from {lowest} to {highest}, outside 0 … 4"):
        lstm.forward_one_hot(ids)


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_a_compiler_that_is_there_compiles() -> None:
    assert engine.library() is not None


@needs_compiler
def test_what_auto_takes() -> None:
    ids, vectors = torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 2, 3)
    for dtype, taken in [
        (torch.float32, "fused"),
        (torch.float64, "fused"),
        (torch.bfloat16, "fused"),
        (torch.float16, "torch"),
    ]:
        h, weight = torch.zeros(2, 8, dtype=dtype), torch.zeros(32, 8, dtype=dtype)
        for inputs in (ids, vectors):
            assert engine.pick_engine("auto", inputs, h, weight) == taken
            assert engine.pick_engine("torch", inputs, h, weight) == "torch"
            assert engine.pick_engine("reference", inputs, h, weight) == "reference"
        assert engine.pick_engine("auto", ids[:0], h, weight) == "reference"
        assert engine.pick_engine("auto", ids[:1], h, weight) == "reference"
        assert engine.pick_engine("auto", ids.to("meta"), h, weight) == "reference"


def test_an_engine_that_does_not_exist() -> None:
    for build in (lambda: hlstm.LSTM(3, 4, engine="fats"),):
        with pytest.raises(ValueError, match="reference, fused, torch, auto.*'fats'"):
            build()
    lstm = hlstm.LSTM(3, 4)
    lstm.engine = "fats"
    with pytest.raises(ValueError, match="'fats'"):
        lstm(torch.zeros(1, 1, 3))


@needs_compiler
def test_a_type_that_is_not_fused() -> None:
    lstm = hlstm.LSTM(3, 4, dtype=torch.float16, engine="fused")
    x = torch.zeros(2, 1, 3, dtype=torch.float16)
    with pytest.raises(RuntimeError, match='float16 on cpu; engine="auto"'):
        lstm(x)


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


def test_a_saved_model_does_not_know_its_engine(tmp_path: Path) -> None:
    vocab = hlstm.Vocabulary.from_text("abc")
    files = []
    for name in ("reference", "auto"):
        torch.manual_seed(0)
        net = hlstm.DeepRNN(vocab, hidden_size=8, engine=name)
        net.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
import torch, hlstm
lstm = hlstm.LSTM(3, 64, engine=sys.argv[1])
x = torch.randn(5, 2, 3, requires_grad=True)
for _ in range(2):
    lstm(x)[0].sum().backward()
vocab = hlstm.Vocabulary.from_text("abc")
print(hlstm.DeepRNN(vocab, hidden_size=8).generate_text("a", length=5, seed=0))
"""


def run_script(name: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return run.stdout


@pytest.mark.parametrize("name", ["fused", "auto"])
@pytest.mark.parametrize(
    "compiler, reason",
    [
        ("no-such-c++", "there is no compiler 'no-such-c++'"),
        ("false", "compiler failed"),
    ],
)
def test_without_a_compiler(
    name: str, compiler: str, reason: str, tmp_path: Path
) -> None:
    said = run_script(name, CXX=compiler, XDG_CACHE_HOME=str(tmp_path))
    lines = [line for line in said.splitlines() if line.startswith("hlstm: ")]
    assert len(lines) == 1 and reason in lines[0] and "PyTorch's kernel" in lines[0]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "PyTorch's kernel" in run_script("auto", XDG_CACHE_HOME=str(blocked))


@needs_compiler
def test_compiled_once(tmp_path: Path) -> None:
    run_script("fused", XDG_CACHE_HOME=str(tmp_path))
    (built,) = (tmp_path / "hlstm").iterdir()
    stamp = built.stat().st_mtime_ns
    run_script("fused", XDG_CACHE_HOME=str(tmp_path))
    assert [built] == list((tmp_path / "hlstm").iterdir())
    assert built.stat().st_mtime_ns == stamp


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
    net: hlstm.DeepRNN, how: dict[str, float]
) -> None:
    texts = []
    for name in ("reference", "auto"):
        net.lstm.engine = name
        texts.append(net.generate_text("a quick", length=700, seed=3, **how))  # type: ignore[arg-type]
    assert texts[0] == texts[1]
    assert how["temperature"] == 0 or len(set(texts[0])) > 8


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
    writer = engine.Writer(net, state)
    limit = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 0.7}[dtype]
    for t in range(4, 12):
        writer.write(ids[:, t], torch.zeros(1, streams, dtype=torch.float64))
        assert (writer.logits - logits[:, t]).abs().max() < limit


@needs_compiler
def test_the_writer_sees_new_weights(net: hlstm.DeepRNN) -> None:
    writer = engine.Writer(net, (torch.zeros(3, 1, 48), torch.zeros(3, 1, 48)))
    ids, u = torch.tensor([2]), torch.zeros(1, 1, dtype=torch.float64)
    writer.write(ids, u)
    before = writer.logits.clone()
    with torch.no_grad():
        net.head.bias.add_(1)
    writer.write(ids, u)
    assert (writer.logits - before).abs().min() > 0.1


@needs_compiler
def test_weights_that_break_while_writing(net: hlstm.DeepRNN) -> None:
    written = hlstm.stream_text(net, "a", length=300, seed=0)
    for _ in range(70):
        next(written)
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="weights that are not finite"):
        list(written)


@needs_compiler
@settings(max_examples=200)
@given(
    z=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]),
    k=st.none() | st.integers(1, 30),
    top_p=st.none() | st.sampled_from([1e-9, 0.3, 0.9, 1.0]),
    u=st.floats(0, 1, exclude_max=True),
)
def test_compiled_draws_are_those_of_chapter_10(
    z: list[float], temperature: float, k: int | None, top_p: float | None, u: float
) -> None:
    vocab = hlstm.Vocabulary("abcdefghijklmnopqrstuvwxyzABCD"[: len(z)])
    z = [value + 1e-3 * place for place, value in enumerate(z)]
    k = None if k is None else min(k, len(z))
    net = hlstm.DeepRNN(vocab, hidden_size=1, num_layers=1)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor(z))
    writer = engine.Writer(net, (torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)))
    darts = torch.tensor([[u]], dtype=torch.float64)
    drawn = writer.write(torch.tensor([0]), darts, temperature, k, top_p)
    p = next_character(net.head.bias.detach()[None], temperature, k, top_p)
    sums = p.double().cumsum(-1)[0]
    if ((sums / sums[-1] - u).abs() > 1e-6).all():  # not on the line between two
        assert drawn.item() == draw(p, darts).item()


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


def test_the_log_is_quiet_with_a_compiler(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hlstm"):
        hlstm.LSTM(3, 64)(torch.zeros(2, 1, 3))
    assert not caplog.records
