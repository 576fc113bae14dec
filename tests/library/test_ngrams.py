"""What chapter 2 leaves out: the n-gram by brute force, and what is no n-gram."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm
from hlstm.checks import HlstmError, InvalidIndexError
from hlstm.ngrams import witten_bell


def brute_force(train: str, held_out: str, size: int, order: int) -> list[float]:
    """Witten and Bell's interpolation, one character and one context at a time."""
    seen: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order)]
    for t in range(len(train)):
        for k in range(min(order, t + 1)):
            seen[k][train[t - k : t]][train[t]] += 1
    text, start = train + held_out, len(train)
    result = []
    for t in range(start, len(text)):
        p = 1 / size
        for k in range(order):
            if count := seen[k].get(text[t - k : t]):
                c, d = count.total(), len(count)
                p = (count[text[t]] + d * p) / (c + d)
        result.append(p)
    return result


@given(
    st.text("abc", min_size=8, max_size=60), st.text("abcd", min_size=1, max_size=20)
)
def test_witten_bell_equals_counting_by_hand(train: str, held_out: str) -> None:
    vocab = hlstm.Vocabulary("abcd")
    orders = witten_bell(vocab.encode(train), vocab.encode(held_out), 4, 5)
    for n, mine in enumerate(orders, 1):
        expected = brute_force(train, held_out, 4, n)
        assert all(
            math.isclose(a, b, rel_tol=1e-12)
            for a, b in zip(mine.tolist(), expected, strict=True)
        )


@given(st.text("ab", min_size=4, max_size=30), st.text("abc", min_size=1, max_size=8))
def test_counting_on_is_counting_anew_before_each_character(
    train: str, held_out: str
) -> None:
    vocab = hlstm.Vocabulary("abc")
    orders = witten_bell(
        vocab.encode(train), vocab.encode(held_out), 3, 3, adaptive=True
    )
    for n, mine in enumerate(orders, 1):
        for m, p in enumerate(mine.tolist()):
            (expected,) = brute_force(train + held_out[:m], held_out[m], 3, n)
            assert math.isclose(p, expected, rel_tol=1e-12)


def test_impossible_orders_are_refused() -> None:
    ids = torch.zeros(40, dtype=torch.long)
    with pytest.raises(ValueError, match="1 or larger, and got 0"):
        witten_bell(ids, ids, 3, 0)
    with pytest.raises(ValueError, match="1 to the 40 .* got 41"):
        witten_bell(ids, ids, 3, 41)
    with pytest.raises(ValueError, match="30-grams of 76 symbols overflow"):
        witten_bell(ids, ids, 76, 30)


def test_integers_of_every_make_are_taken() -> None:
    train, val = [0, 1, 2, 0, 1], [2, 0]
    expected = witten_bell(torch.tensor(train), torch.tensor(val), 3, 2)
    for make in (list, np.array, lambda ids: torch.tensor(ids, dtype=torch.uint8)):
        found = witten_bell(make(train), make(val), np.int64(3), np.uint8(2))  # type: ignore[arg-type]
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["vocab_size", "max_order"])
def test_a_size_is_an_integer(name: str) -> None:
    ids = torch.zeros(9, dtype=torch.long)
    for bad in (True, 2.0, "2", None, 0, -1):
        sizes = {"vocab_size": 3, "max_order": 2} | {name: bad}
        with pytest.raises(HlstmError, match=f"^{name} is an integer, 1 or larger"):
            witten_bell(ids, ids, **sizes)  # type: ignore[arg-type]


def test_integers_without_a_symbol_are_refused() -> None:
    known, unknown = torch.tensor([0, 2]), torch.tensor([0, 3])
    for train, val in ((unknown, known), (known, unknown)):
        with pytest.raises(InvalidIndexError, match="id 3 is outside 0"):
            witten_bell(train, val, 3, 1)
    with pytest.raises(HlstmError, match="^val_ids is a tensor"):
        witten_bell(known, "ab", 3, 1)  # type: ignore[arg-type]
