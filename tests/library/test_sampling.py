"""What chapter 13 leaves out: every bad argument, extreme logits, and traces that are not left."""

import copy
import gc
import io
import itertools
import math
import pickle
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrizations
import torch.nn.utils.prune
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hlstm
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError
from hlstm.dropout import evaluating
from hlstm.sampling import (
    draw,
    entropy,
    generate_ids,
    generate_text,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_distribution,
    score_text,
    stream_text,
)

V = 11


def network(dropout: float = 0.0, engine: str = "auto") -> hlstm.DeepRNN:
    torch.manual_seed(0)
    vocab = hlstm.Vocabulary("abcdefghij\n")
    return hlstm.DeepRNN(vocab, 8, num_layers=2, dropout=dropout, engine=engine)


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
    check_distribution(next_distribution(logits, tau, 2, 0.5), logits)


@given(
    st.lists(LOGITS, min_size=3, max_size=8).filter(lambda z: max(z) > -math.inf),
    TAUS,
    st.none() | st.integers(1, 3),
    st.none() | st.sampled_from([5e-324, 1e-9, 1]) | st.floats(0.01, 1),
    st.none() | st.sampled_from([0, 5e-324, 1e-9, 1]) | st.floats(0, 1),
)
def test_the_cuts_keep_the_likeliest(
    values: list[float], tau: float, k: int | None, p: float | None, least: float | None
) -> None:
    logits = torch.tensor(values)
    kept = next_distribution(logits, tau, k, p, least)
    check_distribution(kept, logits)
    whole = hlstm.boltzmann(logits, tau).double()
    assert whole[kept > 0].max() == whole.max(), "a likeliest symbol stays"
    assert k is None or (kept > 0).sum() <= k
    assert (whole[kept > 0] >= (least or 0) * whole.max() * (1 - 1e-6) - 1e-30).all()
    if k is None and p is None and least is not None:
        assert (kept[whole > least * whole.max() * (1 + 1e-6) + 1e-30] > 0).all()
    if k is None and p is not None and least is None:
        assert whole[kept > 0].sum() >= p - 1e-6
        n = int((kept > 0).sum())
        fewer = whole.sort(descending=True).values[: n - 1].sum()
        assert p == 1 or fewer < p + 1e-6, "and no more than it takes"


@given(st.lists(LOGITS, min_size=1).filter(lambda z: max(z) > -math.inf), TAUS, TAUS)
def test_entropy_rises_with_temperature(
    values: list[float], a: float, b: float
) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    low, high = (entropy(hlstm.boltzmann(logits, t)) for t in sorted((a, b)))
    assert 0 <= low <= high + 1e-9 <= math.log(len(values)) + 2e-9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 1.0]])
    for tau in (0, 1e-300, 1.0):
        cuts: dict[str, Any]
        for cuts in ({}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 0.5}):
            with pytest.raises(ValueError, match=f"one is {bad}; look for weights"):
                next_distribution(logits, tau, **cuts)


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
    assert torch.equal(keep_top_p(z, one), z)
    assert torch.isfinite(keep_min_p(z, one)).tolist() == [False, False, True]


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
def test_any_kind_of_integer_counts(kind: Any, engine: str) -> None:
    net, ids = network(engine=engine), torch.zeros(2, 1, dtype=torch.long)
    plain: dict[str, Any] = {"length": 9, "top_k": 3, "seed": 5}
    others = {name: kind(value) for name, value in plain.items()}
    assert generate_text(net, "a", **others) == generate_text(net, "a", **plain)
    assert torch.equal(
        generate_ids(net, ids, **others), generate_ids(net, ids, **plain)
    )
    half = {"temperature": Fraction(1, 2), "top_p": Fraction(1, 2), "seed": 0}
    half["min_p"] = Fraction(1, 2)
    text = generate_text(net, "a", 9, temperature=0.5, top_p=0.5, min_p=0.5, seed=0)
    assert generate_text(net, "a", 9, **half) == text  # type: ignore[call-overload]


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1, -1, -(2**63)])
def test_the_seeds_are_those_of_torch(seed: int) -> None:
    net = network()
    assert net.generate_text("a", 5, seed=seed) == net.generate_text("a", 5, seed=seed)


# What is kept: equations (13.12) and (13.13) to sixty digits

KEPT_LOGITS: dict[str, list[float]] = {
    "one": [0.5],
    "equal": [1.0] * 10,
    "two levels": [0.0, 1.0, 0.0, 1.0, 0.0, 1.0],
    "spread": [math.log(x) for x in (0.1, 0.45, 0.05, 0.4)],
    "near": [1.0, 1.0 + 2**-23, 1.0 - 2**-24, 1.0 + 2**-22],
    "far": [0.0, -50.0, -100.0, 30.0, -745.0],
    "impossible": [0.0, -math.inf, 1.0, -math.inf],
    "huge": [3e38, -3e38, 2.9e38],
    "tiny": [1e-40, 0.0, -1e-40, 1e-38],
    "falling": [-0.1 * k for k in range(40)],
    "rising": [0.1 * k for k in range(40)],
}
KEPT_TAUS = [0.0, 5e-324, 1e-300, 1e-30, 0.01, 0.5, 1.0, 3.0, 1e6, 1e30, 1e300, 1.7e308]
KEPT_PS = [None, 5e-324, 1e-300, 1e-9, 0.1, 0.3, 0.5, 0.9, 1 - 1e-9, 1 - 2**-53, 1.0]
KEPT_KS = [None, 1, 2, 3]
KEPT_MIN_PS = [0.0, 5e-324, 1e-300, 1e-9, 0.05, 0.5, 1 - 1e-9, 1.0]


Cut = tuple[int | None, float | None, float | None]


@cache
def weigh(logits: tuple[float, ...], tau: float) -> list[tuple[int, Decimal]]:
    """Return the symbols that are possible and exp((z − max) / τ), the largest first."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    with localcontext(prec=60, Emin=-(10**9)):
        down = {
            i: Decimal(logits[i]) - Decimal(logits[order[0]])
            for i in order
            if logits[i] > -math.inf
        }
        if tau == 0:
            return [(i, Decimal(d == 0)) for i, d in down.items()]
        return [
            (i, max(d / Decimal(tau), Decimal(-2000)).exp()) for i, d in down.items()
        ]


def kept_exactly(
    logits: list[float], tau: float, cut: Cut
) -> list[tuple[int, Decimal, bool]]:
    """Return each symbol that may stay, its share, and whether rounding decides."""
    k, p, least = cut
    with localcontext(prec=60, Emin=-(10**9)):
        weights = weigh(tuple(logits), tau)[:k]
        whole, before, found = sum(w for _, w in weights), Decimal(0), []
        bound = Decimal(least or 0)  # the likeliest weighs 1
        for i, weight in weights:
            share, equal = weight / whole, logits[i] == max(logits)
            close = p is not None and p < 1 and i != weights[0][0]
            doubt = close and abs(before - Decimal(p or 1)) < Decimal("1e-13")
            edge = not equal and abs(weight - bound) < Decimal("1e-12") * bound
            if (not close or before < Decimal(p or 1) or doubt) and (
                weight >= bound or edge
            ):
                found.append((i, share, doubt or edge))
            before += share
    return found


def grid() -> Iterator[tuple[list[float], float, Cut]]:
    """Every case of the tables above; the compiled `draw` is held to the same."""
    cuts: list[Cut] = [(k, p, None) for k in KEPT_KS for p in KEPT_PS]
    cuts += [(None, None, m) for m in KEPT_MIN_PS] + [(2, None, 0.5), (3, 0.9, 0.05)]
    for logits in KEPT_LOGITS.values():
        for tau, (k, p, m) in itertools.product(KEPT_TAUS, cuts):
            yield logits, tau, (None if k is None else min(k, len(logits)), p, m)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_what_is_kept_is_what_the_equation_keeps(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).smallest_normal
    for values, tau, cut in grid():
        z = torch.tensor(values, dtype=dtype)
        if z.max() == math.inf:
            continue  # too large for this type
        stays = kept_exactly(z.tolist(), tau, cut)
        found = next_distribution(z, tau, *cut)
        case = (values, tau, cut)
        kept, doubtful = {i for i, _, _ in stays}, {i for i, _, d in stays if d}
        assert set(found.nonzero().flatten().tolist()) <= kept, case
        for i, share, _ in stays:
            assert i in doubtful or share < 2 * smallest or found[i] > 0, case
        if not doubtful:
            whole = sum(share for _, share, _ in stays)
            wanted = torch.zeros(len(z), dtype=torch.float64)
            for i, share, _ in stays:
                wanted[i] = float(share / whole)
            limit = max(1e-12, torch.finfo(dtype).eps)
            assert (found.double() - wanted).abs().max() < limit, case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_samplers_draw_the_same(dtype: torch.dtype) -> None:
    """A dart into the middle of each share hits its symbol, in compiled code too."""
    read, dart = torch.zeros(1, dtype=torch.long), torch.zeros(1, 1).double()
    for name, values in KEPT_LOGITS.items():
        net = saying(values, dtype)
        with torch.no_grad():
            _, state = net(read[None])
        writer: Any = net.writer(state)
        if writer is None:
            pytest.skip("no compiled code here")
        writer.write(read, dart, 1.0, None, None)
        last = writer.logits.clone()  # what it draws from, whatever the network says
        for tau, cut in {case[1:] for case in grid() if case[0] is values}:
            if any(doubt for *_, doubt in kept_exactly(last[0].tolist(), tau, cut)):
                continue
            shares = next_distribution(last, tau, *cut)[0].double()
            sums = shares.cumsum(-1)
            wide = (shares > 1e-10).nonzero().flatten()
            darts = ((sums - shares / 2) / sums[-1])[wide]
            drawn = writer.write(read, darts[:, None], tau, *cut)[:, 0]
            assert drawn.tolist() == wide.tolist(), (name, tau, cut)


def saying(logits: list[float], dtype: torch.dtype) -> hlstm.DeepRNN:
    """A network that always predicts these logits."""
    vocab = hlstm.Vocabulary([chr(97 + k) for k in range(len(logits))])
    net = hlstm.DeepRNN(vocab, hidden_size=1, num_layers=1).to(dtype)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor(logits))
    return net


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equal_logits_the_first_stay(k: int) -> None:
    z = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    finite = torch.isfinite(keep_top_k(z, k))
    assert finite[0].tolist() == [False, *(j < k for j in range(3)), False]
    assert finite[1].tolist() == [j < k for j in range(5)]
    assert torch.isfinite(keep_top_p(z[1], 0.39)).tolist() == [True, True] + 3 * [False]


@given(
    st.lists(st.sampled_from([0.0, 1e-300, 1e-20, 0.3, 1.0]), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
def test_what_has_no_probability_is_never_drawn(values: list[float], u: float) -> None:
    p = torch.tensor([*values, 1e-310 if max(values) == 0 else 0], dtype=torch.float64)
    darts = torch.tensor([u, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(p, darts)
    assert (p[drawn] > 0).all()
    assert torch.equal(draw(p.expand(2, -1), darts[:, None]), drawn[:, None])


# Arguments

NO_NUMBERS = [True, np.True_, "1", None, 1j, [1.0], torch.ones(2), torch.tensor(True)]
NO_INTEGERS = [2.0, True, "2", math.nan, np.float64(2), torch.tensor(2.0), Fraction(2)]
WRONG_TYPES = [
    *(("temperature", t) for t in NO_NUMBERS),
    *(("top_p", p) for p in NO_NUMBERS if p is not None),
    *(("min_p", p) for p in NO_NUMBERS if p is not None),
    *(("top_k", k) for k in NO_INTEGERS),
    *(("length", n) for n in [*NO_INTEGERS, None]),
    *(("seed", n) for n in [*NO_INTEGERS, 1.5, "a"]),
]
WRONG_VALUES = [
    *(("temperature", t) for t in (-1, -1e-300, math.inf, 10**400, math.nan)),
    *(("top_p", p) for p in (0, -0.5, 1.0001, math.inf, math.nan, Fraction(3, 2))),
    *(("min_p", p) for p in (-0.5, -5e-324, 1.0001, math.inf, math.nan)),
    *(("top_k", k) for k in (0, -1, V + 1, np.int64(0), 10**30)),
    *(("length", n) for n in (-1, np.int64(-1))),
    *(("seed", n) for n in (2**64, -(2**63) - 1, 10**400)),
]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [(*pair, InvalidTypeError) for pair in WRONG_TYPES]
    + [(*pair, InvalidValueError) for pair in WRONG_VALUES],
    ids=lambda value: str(value)[:20],
)
def test_bad_arguments_are_named(name: str, value: Any, kind: type[HlstmError]) -> None:
    net = network().train()
    arguments: dict[str, Any] = {"length": 5} | {name: value}
    ids = torch.zeros(2, 1, dtype=torch.long)
    # By the call, not by the first character of a stream.
    calls: list[tuple[Callable[..., Any], Any]] = [
        (generate_text, "a"),
        (stream_text, "a"),
        (generate_ids, ids),
    ]
    for write, prompt in calls:
        with pytest.raises(kind, match=rf"^{name} is an? .*, and got ") as error:
            write(net, prompt, **arguments)
        assert repr(value)[:60] in str(error.value)
    assert net.training


def test_bad_prompts_are_named() -> None:
    net = network()
    for prompt, message in (
        ("", "the prompt is empty"),
        ("abcé", r"U\+00E9 .* first at position 3"),
        ("\udcff", r"U\+DCFF"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            net.generate_text(prompt)
        assert isinstance(caught.value, HlstmError)
        with pytest.raises(ValueError, match=message):
            stream_text(net, prompt)
    no_text: Any
    for no_text in (b"ab", 7, 1.5, True, torch.zeros(1, 1), net):
        kind = type(no_text).__name__
        for write in (net.generate_text, partial(score_text, net, "a")):
            with pytest.raises(
                InvalidTypeError, match=f"the prompt is a str .*, a {kind}"
            ):
                write(no_text)
        with pytest.raises(InvalidTypeError, match="the prompt is a str"):
            stream_text(net, no_text)
    no_text = ["a", "b"]
    with pytest.raises(InvalidTypeError, match="the prompt is a str .*, a list"):
        stream_text(net, no_text)


def test_bad_lists_of_prompts_are_named() -> None:
    net: Any = network()
    cases: list[tuple[Any, Any, str]] = [
        ([], {}, "the list of prompts is empty"),
        ((), {}, "the list of prompts is empty"),
        (["a", ""], {}, "the prompt is empty"),
        (["a", "abé"], {}, r"U\+00E9 .* first at position 2"),
        (["a", "b"], {"num_samples": 2}, "num_samples is for one prompt, and got 2"),
        (["a"], {"num_samples": 1}, "num_samples is for one prompt, and got 1"),
        ("a", {"num_samples": 0}, "num_samples is an integer, 1 or larger, and got 0"),
        ("a", {"num_samples": -3}, "num_samples is an integer, 1 or larger"),
    ]
    for prompt, more, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            generate_text(net, prompt, 3, **more)
        assert isinstance(caught.value, HlstmError)
    wrong: Any
    for wrong in (["a", 7], ["a", b"a"], [["a"]]):
        with pytest.raises(InvalidTypeError, match="the prompt is a str or None"):
            generate_text(net, wrong)
    for wrong in [*NO_INTEGERS, "a"]:
        with pytest.raises(InvalidTypeError, match="num_samples is an integer"):
            generate_text(net, "a", 3, num_samples=wrong)


@pytest.mark.parametrize("write", [generate_text, stream_text])
def test_bad_stops_are_named(write: Callable[..., Any]) -> None:
    net = network()
    for stop in ("", [], (), ["a", ""], [""]):
        with pytest.raises(InvalidValueError, match="stop is empty.* or None"):
            write(net, "a", 3, stop=stop)
    for stop in ("aé", ["a", "é"]):
        with pytest.raises(InvalidValueError, match="stop '.*é' cannot come: .* 'é'"):
            write(net, "a", 3, stop=stop)
    for no_stop in (b"a", 7, ["a", 7], [b"a"], {"a": 1}, True):
        with pytest.raises(InvalidTypeError, match="stop is a str or a list of them"):
            write(net, "a", 3, stop=no_stop)


def test_bad_ids_are_named() -> None:
    net, bad = network(), torch.zeros(2, 3)
    for ids in (bad, bad.long()[0], bad.long()[:0], bad.long()[:, :0], bad.int()):
        with pytest.raises(InvalidValueError, match=r"ids is \(B, T\) int64"):
            generate_ids(net, ids, 2)
    no_ids: Any
    for no_ids in ([[1, 2]], "ab", np.zeros((1, 2), dtype=np.int64)):
        with pytest.raises(InvalidTypeError, match="ids is a tensor, and got a"):
            generate_ids(net, no_ids, 2)
    with pytest.raises(IndexError):
        generate_ids(net, torch.full((1, 1), V), 2)


@pytest.mark.parametrize(("symbols", "start"), [("abc\n", "\n"), ("bac", "b")])
def test_no_prompt_starts_as_after_a_line_end(symbols: str, start: str) -> None:
    net = hlstm.DeepRNN(hlstm.Vocabulary(symbols), hidden_size=8)
    text = generate_text(net, length=20, seed=0)
    assert start + text == generate_text(net, start, 20, seed=0)
    assert len(text) == 20 and text == generate_text(net, None, 20, seed=0)
    assert text == "".join(stream_text(net, length=20, seed=0))


# Writing


def test_the_three_ways_to_write_agree() -> None:
    net, prompt = network(), "ab"
    settings: dict[str, Any]
    cuts = {"top_k": 5, "top_p": 0.9, "min_p": 0.2}
    for settings in ({}, {"temperature": 0}, cuts):
        text = generate_text(net, prompt, 20, seed=3, **settings)
        stream = stream_text(net, prompt, 20, seed=3, **settings)
        ids = generate_ids(
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
    assert list(stream_text(net, prompt, 0)) == []


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


def plainly(net: Any, prompt: str, length: int, seed: int, **how: Any) -> str:
    """What is written by calling the network, and by nothing else."""
    generator = torch.Generator().manual_seed(seed)
    text, ids, state = prompt, net.vocab.encode(prompt)[None], None
    net.eval()
    for _ in range(length):
        with torch.no_grad():
            logits, state = net(ids, state)
        last = logits[:, -1].to(torch.promote_types(logits.dtype, torch.float32))
        p = next_distribution(last, how.get("temperature", 0.8))
        ids = draw(p, torch.rand(1, 1, generator=generator, dtype=torch.float64))
        text += net.vocab.decode(ids[0])
    return text


class Scaled(torch.nn.Module):
    """A parametrization that triples a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 3 * weight


def patched(net: hlstm.DeepRNN) -> None:
    forward = net.head.forward
    setattr(net.head, "forward", lambda h: forward(h).flip(-1))  # noqa: B010


def old_weight_norm(net: hlstm.DeepRNN) -> None:
    torch.nn.utils.weight_norm(net.lstm, "weight_hh_l0")
    with torch.no_grad():
        net.lstm.get_parameter("weight_hh_l0_g").mul_(3)


def new_weight_norm(net: hlstm.DeepRNN) -> None:
    torch.nn.utils.parametrizations.weight_norm(net.lstm, "weight_hh_l1")


CHANGES: dict[str, Callable[[hlstm.DeepRNN], Any]] = {
    "as it is": lambda net: None,
    "float64": lambda net: net.double(),
    "bfloat16": lambda net: net.bfloat16(),
    "a hook on the layers": lambda net: net.lstm.register_forward_hook(
        lambda module, arguments, out: (out[0].flip(-1), out[1])
    ),
    "a hook before the head": lambda net: net.head.register_forward_pre_hook(
        lambda module, arguments: (5 * arguments[0],)
    ),
    "a hook on the network": lambda net: net.register_forward_hook(
        lambda module, arguments, out: (-out[0], out[1])
    ),
    "a patched forward": patched,
    "another dropout": lambda net: setattr(net, "dropout", torch.nn.Tanh()),
    "another head": lambda net: setattr(
        net, "head", torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(8, V))
    ),
    "a head without bias": lambda net: setattr(
        net, "head", torch.nn.Linear(8, V, bias=False)
    ),
    "layers without bias": lambda net: setattr(
        net, "lstm", hlstm.LSTM(V, 8, 2, bias=False, batch_first=True)
    ),
    "a parametrization": lambda net: (
        torch.nn.utils.parametrize.register_parametrization(
            net.lstm, "weight_hh_l0", Scaled()
        )
    ),
    "weight norm": new_weight_norm,
    "weight norm by hooks": old_weight_norm,
    "spectral norm": lambda net: torch.nn.utils.parametrizations.spectral_norm(
        net.head
    ),
    "pruning": lambda net: torch.nn.utils.prune.random_unstructured(
        net.lstm, "weight_hh_l1", amount=0.5
    ),
    "tied layers": lambda net: setattr(net.lstm, "weight_hh_l1", net.lstm.weight_hh_l0),
    "frozen": lambda net: net.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
# In bfloat16 the last bit of a sum decides too often.
@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"bfloat16"}))
def test_what_is_written_is_what_calling_the_network_writes(change: str) -> None:
    texts = []
    for write in (generate_text, plainly):
        net = network()
        torch.nn.init.normal_(net.head.weight)
        CHANGES[change](net)
        texts.append(write(net, "ab", 60, seed=3))
    assert texts[0] == texts[1]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_a_text_is_written_with_the_weights_of_its_first_character(change: str) -> None:
    """Whoever writes: compiled code copies the weights, and so does the loop."""
    net = network()
    torch.nn.init.normal_(net.head.weight)
    CHANGES[change](net)
    whole = net.generate_text("ab", 60, seed=3)
    stream = stream_text(net, "ab", 60, seed=3)
    text = next(stream)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.neg_()
    assert "ab" + text + "".join(stream) == whole
    assert net.generate_text("ab", 60, seed=3) != whole, "the next text sees the change"


def sized(net: hlstm.DeepRNN) -> Tensor:
    """The recurrent weights of the lower layer, as they are."""
    return net.lstm.get_parameter("weight_hh_l0")


def through_numpy(net: hlstm.DeepRNN) -> None:
    array = sized(net).detach().numpy()
    array *= -5


def by_optimizer(net: hlstm.DeepRNN) -> None:
    sized(net).grad = 9 * torch.sign(sized(net).detach())
    torch.optim.SGD([sized(net)], 1.0).step()


def by_storage(net: hlstm.DeepRNN) -> None:
    other = -5 * sized(net).detach()
    storage, size = other.untyped_storage(), sized(net).shape
    with torch.no_grad():
        sized(net).set_(storage, 0, size, other.stride())


def by_assignment(net: hlstm.DeepRNN) -> None:
    state = {name: -5 * weight for name, weight in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


WAYS: dict[str, Callable[[hlstm.DeepRNN], Any]] = {
    "in place": lambda net: sized(net).detach().mul_(-5),
    "data": lambda net: setattr(sized(net), "data", -5 * sized(net).data),
    "in place of data": lambda net: sized(net).data.mul_(-5),
    "set_": by_storage,
    "NumPy": through_numpy,
    "an optimizer": by_optimizer,
    "a state": lambda net: net.load_state_dict(
        {name: -5 * weight for name, weight in net.state_dict().items()}
    ),
    "an assigned state": by_assignment,
    "a new parameter": lambda net: setattr(
        net.lstm, "weight_hh_l0", torch.nn.Parameter(-5 * sized(net).detach())
    ),
    "a new module": lambda net: setattr(net, "head", torch.nn.Linear(8, V)),
    "a swap": lambda net: torch.utils.swap_tensors(
        net.lstm.weight_hh_l0, torch.nn.Parameter(-5 * sized(net).detach())
    ),
    "another precision": lambda net: sized(net.double()).data.mul_(-5),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_change_of_weights_is_in_the_next_text(way: str) -> None:
    net = network()
    before = net.generate_text("ab", 60, seed=3)
    WAYS[way](net)
    after = net.generate_text("ab", 60, seed=3)
    assert before != after == plainly(net, "ab", 60, seed=3)


COPIES: dict[str, Callable[[hlstm.DeepRNN], hlstm.DeepRNN]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


def saved_whole(net: hlstm.DeepRNN) -> hlstm.DeepRNN:
    file = io.BytesIO()
    torch.save(net, file)
    again: hlstm.DeepRNN = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    return again


@pytest.mark.parametrize(
    "again", [*COPIES.values(), saved_whole], ids=[*COPIES, "torch.save"]
)
def test_a_copy_writes_the_same(
    again: Callable[[hlstm.DeepRNN], hlstm.DeepRNN],
) -> None:
    net = network()
    text = net.generate_text("ab", 60, seed=3)
    copied = again(net)
    through_numpy(net)
    assert copied.generate_text("ab", 60, seed=3) == text
    assert net.generate_text("ab", 60, seed=3) != text, "and shares nothing"


def test_the_first_character_is_asked_for_after_the_call() -> None:
    net, other = network(), network()
    torch.nn.init.normal_(other.head.weight)
    stream = stream_text(net, "ab", 60, seed=3)
    net.load_state_dict(other.state_dict())
    assert "ab" + "".join(stream) == other.generate_text("ab", 60, seed=3)


class AnyNetwork(torch.nn.Module):
    """The protocol and no more: a GRU whose state is one tensor, or in a dict."""

    def __init__(self, in_dict: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vocab, self.in_dict = hlstm.Vocabulary("abcdefghij\n"), in_dict
        self.embedding, self.head = torch.nn.Embedding(V, 8), torch.nn.Linear(8, V)
        self.gru = torch.nn.GRU(8, 8, batch_first=True)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h = state["h"] if self.in_dict and state is not None else state
        output, h = self.gru(self.embedding(ids), h)
        return self.head(output), {"h": h} if self.in_dict else h


@pytest.mark.parametrize("in_dict", [True, False])
def test_any_network_of_the_protocol_writes(in_dict: bool) -> None:
    net = AnyNetwork(in_dict)
    text = generate_text(net, "ab", 40, seed=1)
    assert text == plainly(net, "ab", 40, seed=1)
    del net.vocab
    ids = generate_ids(net, torch.tensor([[0, 1], [1, 0]]), 40, seed=1)
    assert ids.shape == (2, 42)
    with pytest.raises(InvalidValueError, match=f"top_k is an integer from 1 to {V}"):
        generate_ids(net, ids, 1, top_k=V + 1)


class Clock:
    """Time that passes only when a `Slow` writer writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("hlstm.sampling.clock", lambda: self.now)


class Slow(AnyNetwork):
    """A network with a writer that takes `seconds` for each character."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        super().__init__(in_dict=False)
        self.clock, self.seconds = clock, seconds
        self.sizes: list[int] = []
        self.written = 0

    def writer(self, state: Any) -> Any:
        self.state = state
        return self

    def write(self, ids: Tensor, u: Tensor, *how: Any) -> Tensor:
        """Draw as the loop would, by calling the network."""
        drawn, ids = [], ids[:, None]
        for darts in u:
            with torch.no_grad():
                scores, self.state = self(ids, self.state)
            ids = draw(next_distribution(scores[:, -1], *how), darts[:, None])
            drawn.append(ids[:, 0])
            self.clock.now += self.seconds(self.written)
            self.written += 1
        self.sizes.append(len(u))
        return torch.stack(drawn)


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        (lambda n: 1e-9, [1, 2, 4, 8, 16, 32, 64, 128, 256, 488]),
        (lambda n: 0.001, [1, 2, 4, 8, 16, 16]),
        (lambda n: 1.0, [1, 1, 1, 1]),
        (lambda n: 0.0005 if n < 200 else 0.1, None),
    ],
)
def test_blocks_follow_the_clock(
    monkeypatch: pytest.MonkeyPatch,
    seconds: Callable[[int], float],
    first: list[int] | None,
) -> None:
    net = Slow(Clock(monkeypatch), seconds)
    text = generate_text(net, "ab", 1000, seed=1)
    assert text == plainly(AnyNetwork(in_dict=False), "ab", 1000, seed=1)
    assert sum(net.sizes) == 999
    if first is None:  # it slows down: the block under way is the last that is long
        slow = [size for size in net.sizes[net.sizes.index(max(net.sizes)) :]]
        assert slow == sorted(slow, reverse=True) and slow[-1] == 1
    else:
        assert net.sizes[: len(first)] == first


def test_a_stream_that_is_left_has_not_written_far_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Slow(Clock(monkeypatch), lambda n: 0.01)
    stream = stream_text(net, "ab", 10**9)
    text = [next(stream) for _ in range(50)]
    assert len(text) == 50 and net.written < 53


def test_a_writer_that_meets_what_is_not_finite_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Slow(Clock(monkeypatch), lambda n: 0.001)
    monkeypatch.setattr(net, "logits", torch.tensor([[0.0, math.nan]]), raising=False)
    monkeypatch.setattr(net, "write", lambda ids, u, *how: torch.full(u.shape, -1))
    stream = stream_text(net, "ab", 10)
    next(stream)
    with pytest.raises(InvalidValueError, match="one is nan; look for weights"):
        next(stream)


INFERENCE = {
    "all inside": "make write",
    "made inside": "make",
    "written inside": "write",
}


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("inside", INFERENCE)
def test_inference_mode_writes_the_same(inside: str, engine: str) -> None:
    wanted = network(engine=engine).generate_text("ab", 40, seed=2)
    with torch.inference_mode("make" in INFERENCE[inside]):
        net = network(engine=engine)
    with torch.inference_mode("write" in INFERENCE[inside]):
        assert net.generate_text("ab", 40, seed=2) == wanted
        ids = net.vocab.encode("ab")[None]
        again = generate_ids(net, ids, 40, seed=2)
    assert net.vocab.decode(again[0]) == wanted


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_stream_may_leave_inference_mode(engine: str) -> None:
    net = network(engine=engine)
    with torch.inference_mode():
        stream = stream_text(net, "ab", 40, seed=2)
        text = "ab" + next(stream) + next(stream)
    assert text + "".join(stream) == net.generate_text("ab", 40, seed=2)


def test_the_default_device_and_type_do_not_matter() -> None:
    net = network()
    wanted, ids = net.generate_text("ab", 20, seed=2), net.vocab.encode("ab")[None]
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            again = generate_ids(net, ids, 20, seed=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert net.vocab.decode(again[0]) == wanted


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
    stream = stream_text(net, "abc", 2000)
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
    assert growth(lambda n: last.extend(stream_text(net, "a", n))) < 30
    assert growth(lambda n: net.generate_text("a", n)) < 30
    assert growth(lambda n: generate_ids(net, ids, n)) < 30


# Until a stop


class Parrot(torch.nn.Module):
    """A network that says a text, over and over, and counts what it has read."""

    def __init__(self, text: str, symbols: str = "ab") -> None:
        super().__init__()
        self.vocab, self.text, self.reads = hlstm.Vocabulary(symbols), text, 0

    def forward(self, ids: Tensor, place: Any = None) -> tuple[Tensor, Any]:
        """The state is the place in the text."""
        place, self.reads = place or 0, self.reads + 1
        logits = torch.zeros(*ids.shape, len(self.vocab))
        logits[..., self.vocab.index[self.text[place % len(self.text)]]] = 1
        return logits, place + 1


def cut_off(text: str, stops: list[str]) -> tuple[str, int]:
    """The text before the first stop, and how many characters it takes to know."""
    ends = {s: text.index(s) + len(s) for s in stops if s in text}
    if not ends:
        return text, len(text)
    first = min(ends.values())
    return text[: min(text.index(s) for s in ends if ends[s] == first)], first


def known(text: str, stops: list[str], n: int) -> int:
    """How many of n characters can be in no stop that may still come."""
    starts = range(n)
    open_ = [j for j in starts if any(s.startswith(text[j:n]) for s in stops)]
    return min(open_, default=n)


WORDS = st.text("ab", min_size=1, max_size=5)


@given(st.text("ab", min_size=1, max_size=20), st.lists(WORDS, min_size=1, max_size=3))
def test_a_text_ends_before_the_first_stop(text: str, stops: list[str]) -> None:
    wanted, drawn = cut_off(text, stops)
    net, length = Parrot(text), len(text)
    found = generate_text(net, "ab", length, 0, stop=stops, with_prompt=False)
    assert (found, net.reads) == (wanted, drawn)
    net = Parrot(text)
    stream = stream_text(net, "ab", length, 0, stop=stops)
    for k, character in enumerate(wanted):
        assert next(stream) == character
        # As soon as no stop can hold it, and not before.
        assert net.reads == drawn or (
            known(text, stops, net.reads - 1) <= k < known(text, stops, net.reads)
        )
    assert next(stream, None) is None and net.reads == drawn


def test_one_stop_is_a_list_of_one() -> None:
    assert generate_text(Parrot("aab"), "b", 9, 0, stop="ab") == "ba"
    assert generate_text(Parrot("aab"), "b", 9, 0, stop=("ab",)) == "ba"
    assert generate_text(Parrot("ab"), "b", 9, 0, stop="a", with_prompt=False) == ""


def test_the_prompt_is_no_part_of_a_stop() -> None:
    assert generate_text(Parrot("bbab"), "aba", 9, 0, stop="ab") == "ababb"
    assert "".join(stream_text(Parrot("bbab"), "aba", 9, 0, stop="ab")) == "bb"


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_stops_end_a_text_that_is_the_same_otherwise(engine: str) -> None:
    net = network(engine=engine)
    whole = net.generate_text("ab", 300, seed=4)[2:]
    for stop in (whole[150:152], whole[250:260], [whole[200:203], whole[120:124]]):
        stops = [stop] if isinstance(stop, str) else stop
        wanted, _ = cut_off(whole, stops)
        text = generate_text(net, "ab", 300, seed=4, stop=stop)
        assert text == "ab" + wanted and len(wanted) < 299
        assert "".join(stream_text(net, "ab", 300, seed=4, stop=stop)) == wanted


# Several texts


def one_by_one(net: Any, prompts: list[str], length: int, seed: int) -> list[str]:
    """What a batch writes, by calling the network on each prompt alone."""
    generator, alone = torch.Generator().manual_seed(seed), len(prompts)
    u = [
        torch.rand(alone, 1, generator=generator, dtype=torch.float64)
        for _ in range(length)
    ]
    texts = []
    for row, text in enumerate(prompts):
        ids, state = net.vocab.encode(text)[None], None
        for darts in u:
            with torch.no_grad():
                logits, state = net(ids, state)
            ids = draw(next_distribution(logits[:, -1], 0.8), darts[row : row + 1])
            text += net.vocab.decode(ids[0])
        texts.append(text)
    return texts


class Named(NamedTuple):
    h: Tensor


class InNames(AnyNetwork):
    """Its state is a tuple of names."""

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, h = super().forward(ids, None if state is None else state.h)
        return logits, Named(h)


class NoMemory(AnyNetwork):
    """It sees one character, and has no state."""

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.head(self.embedding(ids)), None


MAKES: dict[str, Callable[[], Any]] = {
    "compiled": network,
    "readable": lambda: network(engine="reference"),
    "a tensor": lambda: AnyNetwork(in_dict=False),
    "a dict": lambda: AnyNetwork(in_dict=True),
    "names": lambda: InNames(in_dict=False),
    "nothing": lambda: NoMemory(in_dict=False),
}
PROMPTS = ["abc", "d", "\nab", "hgfedcba", "d"]


@pytest.mark.parametrize("make", MAKES)
def test_prompts_of_any_lengths_are_one_batch(make: str) -> None:
    net = MAKES[make]().double().eval()
    texts = generate_text(net, PROMPTS, 40, seed=7)
    assert texts == one_by_one(net, PROMPTS, 40, seed=7)
    assert texts[1] != texts[4], "each text has its own darts"
    assert generate_text(net, tuple(PROMPTS), 40, seed=7) == texts
    bare = generate_text(net, PROMPTS, 40, seed=7, with_prompt=False)
    assert [p + t for p, t in zip(PROMPTS, bare, strict=True)] == texts
    assert generate_text(net, PROMPTS, 0) == PROMPTS
    assert generate_text(net, ["abc"], 40, seed=7) == [
        generate_text(net, "abc", 40, seed=7)
    ]


def test_a_batch_reads_prompts_of_one_length_together() -> None:
    net = network(engine="reference")
    watched = Watched(net)
    generate_text(net, PROMPTS, 3)
    assert watched.read == [(2, 3), (2, 1), (1, 8), (5, 1), (5, 1)]


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_each_text_of_a_batch_ends_by_itself(engine: str) -> None:
    net = network(engine=engine)
    whole = generate_text(net, PROMPTS, 60, seed=7, with_prompt=False)
    stops = [text[k : k + 2] for text, k in zip(whole, (50, 40, 3), strict=False)]
    found = generate_text(
        net, PROMPTS, 60, seed=7, with_prompt=False, stop=stops, min_p=0
    )
    assert found == [cut_off(text, stops)[0] for text in whole]
    assert len({*map(len, found)}) > 1


def test_nothing_is_drawn_after_the_last_text_has_ended() -> None:
    net = network(engine="reference")
    whole = generate_text(net, ["ab", "b"], 60, seed=7, with_prompt=False)
    watched = Watched(net)
    generate_text(net, ["ab", "b"], 60, seed=7, stop="a")
    last = max(cut_off(text, ["a"])[1] for text in whole)
    assert last < 60 and len(watched.read) == last + 1


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_samples_continue_one_prompt(engine: str) -> None:
    net = network(engine=engine)
    texts = generate_text(net, "ab", 30, seed=1, num_samples=4)
    assert texts == generate_text(net, 4 * ["ab"], 30, seed=1) and len({*texts}) == 4
    assert generate_text(net, "ab", 30, seed=1, num_samples=1) == [
        generate_text(net, "ab", 30, seed=1)
    ]
    ids = net.vocab.encode("ab").expand(4, -1)
    rows = generate_ids(net, ids, 30, seed=1)
    assert [net.vocab.decode(row) for row in rows] == texts
    free = generate_text(net, length=9, seed=1, num_samples=2)
    assert [len(text) for text in free] == [9, 9]
    assert free == [
        text[1:] for text in generate_text(net, "\n", 9, seed=1, num_samples=2)
    ]


@pytest.mark.parametrize("state", [torch.zeros(2, 3), torch.zeros(4), 7, "a"])
def test_a_state_that_cannot_be_joined_is_named(state: Any) -> None:
    net = NoMemory(in_dict=False)
    forward = net.forward
    setattr(net, "forward", lambda ids, _: (forward(ids)[0], state))  # noqa: B010
    with pytest.raises(InvalidValueError, match="prompts of one length"):
        generate_text(net, ["a", "ab"], 3)
    assert len(generate_text(net, ["ab", "ba"], 3)) == 2, "and of one length it goes"


# Scores


@pytest.mark.parametrize("make", MAKES)
def test_the_probabilities_of_all_texts_add_up_to_one(make: str) -> None:
    net = MAKES[make]()
    pairs = map("".join, itertools.product(net.vocab.symbols, repeat=2))
    total = sum(score_text(net, pair, "ab").sum().exp().item() for pair in pairs)
    assert total == pytest.approx(1, abs=1e-5)


def test_scores_are_the_logarithms_of_what_is_predicted() -> None:
    net, text = network(), "ab\ncdefghij" * 200
    scores = score_text(net, text, "ba")
    with torch.no_grad():
        logits, _ = net(net.vocab.encode("ba" + text)[None])
    log_p = logits[0, 1:-1].double().log_softmax(-1)
    wanted = log_p.gather(-1, net.vocab.encode(text)[:, None])[:, 0]
    assert scores.dtype == torch.float64 and scores.shape == (2200,)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-5)
    one, other = (
        score_text(net, text[:9], "ba"),
        score_text(net, text[9:], "ba" + text[:9]),
    )
    torch.testing.assert_close(torch.cat([one, other]), scores, rtol=0, atol=1e-5)
    assert torch.equal(score_text(net, text), score_text(net, text, "\n"))
    assert score_text(net, "").shape == (0,)


def test_scores_far_down_are_finite() -> None:
    net = saying([0.0, -5000.0, 3e38], torch.float32)
    assert score_text(net, "abc", "a").tolist() == pytest.approx([-3e38, -3e38, 0])
    net = saying([0.0, -5000.0], torch.float32)
    assert score_text(net, "ab", "a").tolist() == [0, -5000]


def test_bad_texts_to_score_are_named() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"U\+00E9 .* first at position 2"):
        score_text(net, "abé")
    with pytest.raises(InvalidValueError, match="the prompt is empty"):
        score_text(net, "ab", "")
    for no_text in (b"ab", 7, None, ["a"]):
        with pytest.raises(InvalidTypeError, match="text is a str"):
            score_text(net, no_text)  # type: ignore[arg-type]
    torch.nn.init.constant_(net.head.bias, math.nan)
    with pytest.raises(InvalidValueError, match="one is nan; look for weights"):
        score_text(net, "ab")


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
    generate_ids(net, ids, 5)
    assert trace(net) == before
    torch.rand(3), random.random(), np.random.rand()
    assert net.generate_text("abc", 30, seed=3) == first, "nor is it left one"
    assert network().generate_text("abc", 30, seed=3) == first, "dropout is off"


def test_scoring_leaves_no_trace(net_of_mode: hlstm.DeepRNN) -> None:
    net = net_of_mode
    before = trace(net)
    scores = score_text(net, "abc", "d")
    assert trace(net) == before and not scores.requires_grad
    assert torch.equal(scores, score_text(network(), "abc", "d")), "dropout is off"


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
    stream = stream_text(net, "abc", 10, seed=0)
    assert trace(net) == before
    for _ in range(3):
        next(stream)
        assert trace(net) == before, "not even between two characters"
    del stream
    gc.collect()
    assert trace(net) == before


def test_the_owner_may_change_the_mode_between_two_characters() -> None:
    net = network(dropout=0.5).eval()
    stream = stream_text(net, "abc", 10, seed=0)
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
