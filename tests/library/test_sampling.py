"""What chapter 10 leaves out: every bad argument, extreme logits, and traces that are not left."""

import gc
import math
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hlstm
from hlstm.sampling import evaluating

V = 11


def network(dropout: float = 0.0) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    vocab = hlstm.Vocabulary("abcdefghij\n")
    return hlstm.DeepRNN(vocab, hidden_size=8, num_layers=2, dropout=dropout)


# Distributions

LOGITS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(-math.inf)
SMALL = [0, 0.0, 5e-324, 1e-300, 1e-45, 1e-30]
TAUS = st.sampled_from([*SMALL, 1e30, 1e300]) | st.floats(1e-3, 1e3)


def check_distribution(p: Tensor, logits: Tensor) -> None:
    assert p.dtype == logits.dtype and torch.isfinite(p).all() and (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p.sum(-1)))
    assert (p[logits == -math.inf] == 0).all()


@given(st.lists(LOGITS, min_size=1, max_size=8), TAUS, st.booleans())
def test_no_temperature_and_no_logits_overflow(
    values: list[float], tau: float, double: bool
) -> None:
    logits = torch.tensor(values, dtype=torch.float64 if double else torch.float32)
    if max(values) == -math.inf:
        with pytest.raises(ValueError, match="largest logit .* one is -inf"):
            hlstm.boltzmann(logits, tau)
        return
    p = hlstm.boltzmann(logits, tau)
    check_distribution(p, logits)
    assert (p[logits.argmax()] == p.max()).all()
    if tau == 0:
        assert ((p > 0) == (logits == logits.max())).all()


@pytest.mark.parametrize("tau", [0, 1e-300, 1.0, 1e300])
def test_logits_at_the_ends_of_float64(tau: float) -> None:
    logits = torch.tensor([1.7e308, -1.7e308, 1.6e308], dtype=torch.float64)
    p = hlstm.boltzmann(logits, tau)
    check_distribution(p, logits)
    check_distribution(hlstm.next_character(logits, tau, 2, 0.5), logits)


@given(
    st.lists(LOGITS, min_size=3, max_size=8).filter(lambda z: max(z) > -math.inf),
    TAUS,
    st.none() | st.integers(1, 3),
    st.none() | st.sampled_from([5e-324, 1e-9, 1]) | st.floats(0.01, 1),
)
def test_the_cuts_keep_the_likeliest(
    values: list[float], tau: float, k: int | None, p: float | None
) -> None:
    logits = torch.tensor(values)
    kept = hlstm.next_character(logits, tau, k, p)
    check_distribution(kept, logits)
    whole = hlstm.boltzmann(logits, tau).double()
    assert whole[kept > 0].max() == whole.max(), "a likeliest symbol stays"
    assert k is None or (kept > 0).sum() <= k
    if k is None and p is not None:
        assert whole[kept > 0].sum() >= p - 1e-6
        n = int((kept > 0).sum())
        fewer = whole.sort(descending=True).values[: n - 1].sum()
        assert p == 1 or fewer < p + 1e-6, "and no more than it takes"


@given(st.lists(LOGITS, min_size=1).filter(lambda z: max(z) > -math.inf), TAUS, TAUS)
def test_entropy_rises_with_temperature(
    values: list[float], a: float, b: float
) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    low, high = (hlstm.entropy(hlstm.boltzmann(logits, t)) for t in sorted((a, b)))
    assert 0 <= low <= high + 1e-9 <= math.log(len(values)) + 2e-9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 1.0]])
    for tau in (0, 1e-300, 1.0):
        cuts: dict[str, Any]
        for cuts in ({}, {"top_k": 1}, {"top_p": 0.5}):
            with pytest.raises(ValueError, match=f"one is {bad}; look for weights"):
                hlstm.next_character(logits, tau, **cuts)


def test_boltzmann_limits() -> None:
    z = torch.tensor([1.0, 3.0, 3.0, -torch.inf])
    for tau in SMALL:
        assert hlstm.boltzmann(z, tau).tolist() == [0, 0.5, 0.5, 0]
    torch.testing.assert_close(hlstm.boltzmann(z[:3], 1e9), torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    "one",
    [1, 1.0, Fraction(1), np.float32(1), np.int64(1), torch.tensor(1.0), np.float64(1)],
)
def test_any_kind_of_number_is_a_temperature(one: Any) -> None:
    z = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(hlstm.boltzmann(z, one), hlstm.boltzmann(z))
    assert torch.equal(hlstm.keep_top_p(z, one), z)


# Arguments

NO_NUMBERS = [math.nan, True, np.True_, "1", None, 1j, [1.0], torch.ones(2)]
NO_NUMBERS += [torch.tensor(True)]
WRONG = [
    *(("temperature", t) for t in (-1, -1e-300, math.inf, 10**400, *NO_NUMBERS)),
    *(("top_p", p) for p in (0, -0.5, 1.0001, math.inf, *NO_NUMBERS) if p is not None),
    *(("top_k", k) for k in (0, -1, V + 1, 2.0, True, "2", math.nan)),
    *(("length", n) for n in (-1, 2.0, True, "2", None, math.nan)),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_bad_arguments_are_named(name: str, value: Any) -> None:
    net = network().train()
    arguments: dict[str, Any] = {"length": 5} | {name: value}
    ids = torch.zeros(2, 1, dtype=torch.long)
    match = rf"^{name} is an? .*, and got "
    # By the call, not by the first character of a stream.
    calls: list[tuple[Callable[..., Any], Any]] = [
        (hlstm.generate_text, "a"),
        (hlstm.stream_text, "a"),
        (hlstm.generate_ids, ids),
    ]
    for write, prompt in calls:
        with pytest.raises(ValueError, match=match) as error:
            write(net, prompt, **arguments)
        assert repr(value) in str(error.value)
    assert net.training


def test_bad_prompts_are_named() -> None:
    net = network()
    for prompt, message in (
        ("", "the prompt is empty"),
        ("abcé", r"U\+00E9 .* first at position 3"),
        ("\udcff", r"U\+DCFF"),
    ):
        with pytest.raises(ValueError, match=message):
            net.generate_text(prompt)
        with pytest.raises(ValueError, match=message):
            hlstm.stream_text(net, prompt)
    for no_text in (b"ab", ["a", "b"]):
        with pytest.raises(TypeError, match="a text is a str, and got"):
            net.generate_text(no_text)  # type: ignore[arg-type]


# Writing


def test_the_three_ways_to_write_agree() -> None:
    net, prompt = network(), "ab"
    settings: dict[str, Any]
    for settings in ({}, {"temperature": 0}, {"top_k": 3, "top_p": 0.9}):
        text = net.generate_text(prompt, 20, seed=3, **settings)
        stream = hlstm.stream_text(net, prompt, 20, seed=3, **settings)
        ids = hlstm.generate_ids(
            net,
            net.vocab.encode(prompt)[None],
            20,
            seed=3,
            **settings,
        )
        assert text == prompt + "".join(stream) == net.vocab.decode(ids[0])
        assert len(text) == 22
    assert net.generate_text(prompt, 20, seed=3) != net.generate_text(
        prompt, 20, seed=4
    )
    assert net.generate_text(prompt, 40) != net.generate_text(prompt, 40)
    assert net.generate_text(prompt, 0) == prompt
    assert list(hlstm.stream_text(net, prompt, 0)) == []


@torch.no_grad()
def test_temperature_zero_is_the_largest_logit() -> None:
    net = network()
    text = net.generate_text("a", 30, temperature=0)
    assert text == net.generate_text("a", 30, temperature=0, seed=5)
    logits, _ = net(net.vocab.encode(text)[None])
    assert net.vocab.decode(logits[0, :-1].argmax(-1)) == text[1:]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_write_too(dtype: torch.dtype) -> None:
    text = network().to(dtype).generate_text("ab", 10, seed=0)
    assert len(text) == 12
    if dtype == torch.float64:
        net = network().double()
        # Out of float32's range, and in that of the network.
        torch.nn.init.constant_(net.head.bias, 1e300)
        assert len(net.generate_text("ab", 10)) == 12


class Watched:
    """Count what a network is asked to read, and fail at one of the questions."""

    def __init__(self, net: hlstm.DeepRNN, fail_at: int = -1) -> None:
        self.read: list[tuple[int, ...]] = []
        self.fail_at = fail_at
        net.register_forward_pre_hook(self)

    def __call__(self, net: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
        self.read.append(tuple(arguments[0].shape))
        if len(self.read) == self.fail_at:
            raise KeyboardInterrupt


def test_each_character_costs_one_step() -> None:
    """The time is linear in the length: the past is in the state, not read again."""
    net = network()
    watched = Watched(net)
    stream = hlstm.stream_text(net, "abc", 2000)
    assert watched.read == [], "nothing is drawn before it is asked for"
    for n in range(1, 5):
        next(stream)
        assert len(watched.read) == n
    net.generate_text("abc", 50)
    assert watched.read == [(1, 3)] + 3 * [(1, 1)] + [(1, 3)] + 49 * [(1, 1)]


def growth(use: Callable[[int], object], first: int = 50, then: int = 250) -> float:
    """Bytes that the peak of Python's memory grows by for each further character."""
    peaks = []
    use(1)
    for length in (first, then):
        tracemalloc.start()
        use(length)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (then - first)


def test_memory_for_a_character_is_bounded() -> None:
    net, ids = network(), torch.zeros(1, 1, dtype=torch.long)
    last = deque[str](maxlen=1)
    assert growth(lambda n: last.extend(hlstm.stream_text(net, "a", n))) < 30
    assert growth(lambda n: net.generate_text("a", n)) < 30
    assert growth(lambda n: hlstm.generate_ids(net, ids, n)) < 30


# No trace


def trace(net: hlstm.DeepRNN) -> list[Any]:
    """What sampling must leave as it was."""
    modes = [module.training for module in net.modules()]
    numbers = torch.get_rng_state().tolist(), random.getstate()
    return [modes, numbers, str(np.random.get_state()), torch.is_grad_enabled()]


@pytest.fixture(params=["training", "evaluation", "mixed"])
def net_of_mode(request: pytest.FixtureRequest) -> Iterator[hlstm.DeepRNN]:
    net = network(dropout=0.5).train(request.param != "evaluation")
    if request.param == "mixed":
        net.lstm.eval()
        net.head.eval()
    yield net


def test_writing_leaves_no_trace(net_of_mode: hlstm.DeepRNN) -> None:
    net = net_of_mode
    before = trace(net)
    first = net.generate_text("abc", 30, seed=3)
    ids = torch.zeros(2, 3, dtype=torch.long)
    hlstm.generate_ids(net, ids, 5)
    assert trace(net) == before
    torch.rand(3), random.random(), np.random.rand()
    assert net.generate_text("abc", 30, seed=3) == first, "nor is it left one"
    assert network().generate_text("abc", 30, seed=3) == first, "dropout is off"


def test_writing_that_fails_leaves_no_trace(net_of_mode: hlstm.DeepRNN) -> None:
    before = trace(net_of_mode)
    for fail_at in (1, 4):
        Watched(net_of_mode, fail_at)
        with pytest.raises(KeyboardInterrupt):
            net_of_mode.generate_text("abc", 10, seed=0)
        assert trace(net_of_mode) == before


def test_a_stream_left_in_the_middle_leaves_no_trace(
    net_of_mode: hlstm.DeepRNN,
) -> None:
    net = net_of_mode
    before = trace(net)
    stream = hlstm.stream_text(net, "abc", 10, seed=0)
    assert trace(net) == before
    for _ in range(3):
        next(stream)
        assert trace(net) == before, "not even between two characters"
    del stream
    gc.collect()
    assert trace(net) == before


def test_the_owner_may_change_the_mode_between_two_characters() -> None:
    net = network(dropout=0.5).eval()
    stream = hlstm.stream_text(net, "abc", 10, seed=0)
    text = next(stream)
    net.train()
    text += "".join(stream)
    assert net.training
    assert text == network().generate_text("abc", 10, seed=0)[3:]


def test_weights_that_are_not_finite_are_named() -> None:
    net = network().train()
    torch.nn.init.constant_(net.head.bias, math.nan)
    with pytest.raises(ValueError, match="one is nan; look for weights"):
        net.generate_text("a", 3)
    assert net.training


def test_a_module_added_meanwhile_keeps_its_mode() -> None:
    net = torch.nn.ModuleList([torch.nn.Dropout()])
    with evaluating(net):
        net.append(torch.nn.Dropout())
    assert [module.training for module in net.modules()] == [True, True, True]
