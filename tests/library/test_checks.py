"""Refusals: one rule for integers and numbers, one family of errors, messages of a line."""

import math
import operator
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm
from hlstm import checks
from hlstm.checks import HlstmError, InvalidTypeError, InvalidValueError


class Mute:
    """Something whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [5, np.int64(5), np.uint8(5), np.array(5), torch.tensor(5), torch.tensor([5])],
)
def test_integers_of_every_library(value: Any) -> None:
    number = checks.as_integer("length", value, 0, 5)
    assert number == 5 and type(number) is int


NO_INTEGERS = [
    True,
    np.True_,
    torch.tensor(True),
    5.0,
    np.float64(5),
    torch.tensor(5.0),
    torch.tensor([5, 6]),
    torch.tensor(5, device="meta"),
    Fraction(5),
    Decimal(5),
    "5",
    b"5",
    None,
    [5],
    5j,
    Mute(),
]


@pytest.mark.parametrize("value", NO_INTEGERS, ids=checks.shown)
def test_what_is_no_integer(value: Any) -> None:
    words = f"^length is an integer, 1 or larger, and got .*, a {type(value).__name__}$"
    with pytest.raises(InvalidTypeError, match=words) as refused:
        checks.as_integer("length", value, 1)
    assert isinstance(refused.value, TypeError)


@pytest.mark.parametrize(
    ("least", "most", "value", "words"),
    [
        (0, None, -1, "n is an integer, 0 or larger, and got -1"),
        (
            0,
            2**64 - 1,
            2**64,
            f"n is an integer from 0 to {2**64 - 1}, and got {2**64}",
        ),
        (1, 3, np.int64(4), r"n is an integer from 1 to 3, and got (np.int64\()?4"),
        (None, 3, 4, "n is an integer, 3 or smaller, and got 4"),
        (0, 1, 10**5000, "n is an integer from 0 to 1, and got <int>"),
    ],
    ids=checks.shown,
)
def test_integers_out_of_range(
    least: int | None, most: int | None, value: Any, words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words) as refused:
        checks.as_integer("n", value, least, most)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), np.array(0.5)),
        *(Fraction(1, 2), torch.tensor(0.5), torch.tensor([0.5])),
        torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True),
    ],
    ids=checks.shown,
)
def test_numbers_of_every_library(value: Any) -> None:
    number = checks.as_number("p", value, 0, 1)
    assert number == 0.5 and type(number) is float


NO_NUMBERS = [
    *(True, np.True_, torch.tensor(True), "0.5", b"0.5", None, [0.5], 0.5j),
    *(torch.tensor([0.5, 0.5]), torch.tensor(0.5j), Mute(), np.array([0.5, 0.5])),
    torch.tensor(0.5, device="meta"),
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=checks.shown)
def test_what_is_no_number(value: Any) -> None:
    words = f"p is a number from 0 to 1, and got .*, a {type(value).__name__}$"
    with pytest.raises(InvalidTypeError, match=words):
        checks.as_number("p", value, 0, 1)


@pytest.mark.parametrize(
    ("limits", "value", "words"),
    [
        ({"above": 0}, 0, "p is a number above 0, and got 0"),
        ({"above": 0, "most": 1}, 1.5, "p is a number above 0, up to 1, and got 1.5"),
        ({"least": 0}, -0.1, "p is a number, 0 or larger, and got -0.1"),
        ({"most": 1}, 2, "p is a number, 1 or smaller, and got 2"),
        ({}, float("nan"), "p is a number, and got nan"),
        ({}, float("-inf"), "p is a number, and got -inf"),
        ({}, 10**400, "p is a number, and got 1000"),
        ({}, 10**5000, "p is a number, and got <int>"),
        ({}, -Fraction(10**400), "p is a number, and got"),
        ({"above": 0}, Fraction(1, 10**400), "p is a number above 0, and got"),
    ],
    ids=checks.shown,
)
def test_numbers_out_of_range(limits: dict[str, Any], value: Any, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words) as refused:
        checks.as_number("p", value, **limits)
    assert len(str(refused.value)) < 200


@given(st.integers(), st.integers(), st.integers())
def test_an_integer_passes_where_it_lies_in_the_range(
    value: int, least: int, most: int
) -> None:
    if least <= value <= most:
        assert checks.as_integer("n", value, least, most) == value
    else:
        with pytest.raises(InvalidValueError):
            checks.as_integer("n", value, least, most)


def test_infinity_is_a_number_where_the_range_ends_there() -> None:
    for infinity in (math.inf, np.float32("inf"), torch.tensor(math.inf)):
        assert checks.as_number("x", infinity, above=0, most=math.inf) == math.inf
        with pytest.raises(InvalidValueError, match="x is a number above 0, and got"):
            checks.as_number("x", infinity, above=0)
    for bad in (-math.inf, math.nan, 10**400):
        with pytest.raises(InvalidValueError, match="x is a number above 0, and got"):
            checks.as_number("x", bad, above=0, most=math.inf)


@given(st.floats() | st.fractions() | st.integers())
def test_a_number_is_what_python_makes_of_it(value: Any) -> None:
    try:
        expected = float(value)
    except OverflowError:
        expected = float("inf")
    if abs(expected) < float("inf"):
        assert checks.as_number("p", value) == expected
    else:
        with pytest.raises(InvalidValueError):
            checks.as_number("p", value)


@given(st.text() | st.binary() | st.lists(st.text()))
def test_a_value_is_shown_on_one_line(value: Any) -> None:
    text = checks.shown(value)
    assert len(text) <= 80 and "\n" not in text


def test_a_value_whose_repr_fails_is_shown_by_its_type() -> None:
    assert checks.shown(Mute()) == "<Mute>"


def test_refusals_are_of_one_family() -> None:
    for kind in (
        checks.InvalidTypeError,
        checks.InvalidValueError,
        checks.InvalidIndexError,
    ):
        assert issubclass(kind, HlstmError)
    assert not issubclass(HlstmError, (ValueError, TypeError))


# A network's arguments keep to the rule

VOCAB = hlstm.Vocabulary("abc")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocab": "abc"}, "vocab is a Vocabulary, and got a str"),
        ({"hidden_size": 0}, "hidden_size is an integer, 1 or larger, and got 0"),
        ({"hidden_size": 8.0}, "hidden_size is an integer.* got 8.0, a float"),
        ({"hidden_size": True}, "hidden_size is an integer.* got True, a bool"),
        ({"num_layers": "2"}, "num_layers is an integer.* got '2', a str"),
        ({"dropout": 1.5}, "dropout is a number from 0 to 1, and got 1.5"),
        ({"dropout": float("nan")}, "dropout is a number from 0 to 1, and got nan"),
        ({"dropout": "0.5"}, "dropout is a number from 0 to 1, and got '0.5', a str"),
        ({"hidden_size": 2**22}, "make one of the sizes smaller"),
    ],
)
def test_a_network_names_the_argument(options: dict[str, Any], words: str) -> None:
    with pytest.raises(HlstmError, match=words):
        hlstm.DeepRNN(**({"vocab": VOCAB} | options))


def test_a_network_takes_numbers_of_numpy() -> None:
    net = hlstm.DeepRNN(VOCAB, np.int64(4), np.int32(2), np.float32(0.25))  # type: ignore[arg-type]
    assert net.lstm.hidden_size == 4 and net.lstm.num_layers == 2
    assert net.lstm.dropout == net.dropout.p == 0.25


@pytest.mark.parametrize(
    ("ids", "kind", "words"),
    [
        ([[0, 1]], TypeError, "ids is a tensor .* and got a list"),
        ("abc", TypeError, "ids is a tensor .* and got a str"),
        (torch.zeros(2, 3), ValueError, "got shape \\(2, 3\\), torch.float32"),
        (torch.zeros(3).long(), ValueError, "got shape \\(3,\\), torch.int64"),
        (torch.tensor([[0, 3]]), IndexError, "ids run from 0 to 3, outside 0 … 2"),
    ],
)
def test_a_network_names_wrong_characters(
    ids: Any, kind: type[Exception], words: str
) -> None:
    for engine in ("auto", "reference"):
        with pytest.raises(kind, match=words) as refused:
            hlstm.DeepRNN(VOCAB, 4, engine=engine)(ids)
        assert isinstance(refused.value, HlstmError)


def test_memory_is_counted_before_it_is_taken() -> None:
    """The number that is compared is that of the parameters made."""
    net = hlstm.DeepRNN(VOCAB, 7, 3)
    size = sum(p.numel() for p in net.parameters())
    with pytest.MonkeyPatch.context() as patch:
        pages = {"SC_PHYS_PAGES": 4 * size - 1, "SC_PAGE_SIZE": 1}
        patch.setattr(checks.os, "sysconf", pages.__getitem__, raising=False)
        with pytest.raises(InvalidValueError, match=f"need {4 * size:,} bytes"):
            hlstm.DeepRNN(VOCAB, 7, 3)
        pages["SC_PHYS_PAGES"] += 1
        hlstm.DeepRNN(VOCAB, 7, 3)
        torch.set_default_dtype(torch.float64)
        try:
            with pytest.raises(InvalidValueError, match=f"need {8 * size:,} bytes"):
                hlstm.DeepRNN(VOCAB, 7, 3)
        finally:
            torch.set_default_dtype(torch.float32)


# Which inputs are characters


@pytest.mark.parametrize(
    ("input", "ids", "batched"),
    [
        (torch.zeros(6, 3, 5), False, True),
        (torch.zeros(6, 5), False, False),
        (torch.zeros(6, 3).long(), True, True),
        (torch.zeros(6).long(), True, False),
        (torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 5)]), False, True),
        (torch.nn.utils.rnn.pack_sequence([torch.zeros(3).long()]), True, True),
    ],
)
def test_characters_have_one_dimension_less(
    input: Any, ids: bool, batched: bool
) -> None:
    assert checks.holds_ids(input) == ids
    assert checks.is_batched(input) == batched


def test_indices_pass_operator_index() -> None:
    """What the rule takes can be used as an index."""
    value = checks.as_integer("n", np.int64(1))
    assert operator.index(value) == 1


CHECKS: list[Callable[[], object]] = [
    lambda: checks.check_id_type("abc"),  # type: ignore[arg-type]
    lambda: checks.check_id_type(torch.tensor(0.0)),
    lambda: checks.check_ids(torch.tensor(0)),
    lambda: checks.check_memory(10**6, 10**9, 1),
]


@pytest.mark.parametrize("call", CHECKS)
def test_checks_raise_our_errors(call: Callable[[], object]) -> None:
    with pytest.raises(HlstmError):
        call()


def test_checks_of_equations_say_what_holds(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    checks.agree((x, [1, np.ones(2)]), (x + 0.5, [1, np.ones(2)]), 0.5, eq="4.3")
    checks.agree(math.inf, math.inf, eq=("4.3", "4.4", "4.5"))
    checks.holds(x[0] < x[1], eq=("4.3", "4.4"))
    checks.holds(np.bool_(True), eq="4.3")
    assert capsys.readouterr().out.splitlines() == [
        "(4.3) holds: largest difference 5.0e-01",
        "(4.3), (4.4) and (4.5) hold: largest difference 0",
        "(4.3) and (4.4) hold",
        "(4.3) holds",
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (torch.ones(2), torch.tensor([1.0, 1.1]), r"fails: largest difference 1.0e-01"),
        (math.nan, 1.0, "largest difference nan"),
        ((1.0, math.nan, 2.0), (1.0, 1.0, 2.0), "largest difference nan"),
        (math.inf, 1.0, "largest difference inf"),
        (torch.ones(2), torch.ones(2, 1), r"cannot be compared: shape \(2,\)"),
        (torch.ones(2), 1.0, r"and \(\)"),
        ((1, 2), (1,), "2 values, and 1"),
    ],
)
def test_checks_of_equations_name_what_fails(
    ours: object,
    theirs: object,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError, match=words) as caught:
        checks.agree(ours, theirs, 1e-2, eq="4.3")
    assert str(caught.value).startswith("(4.3) ")
    assert capsys.readouterr().out == ""


def test_a_false_statement_names_its_equation() -> None:
    with pytest.raises(AssertionError, match=r"\(4.3\) does not hold"):
        checks.holds(torch.tensor(False), eq="4.3")
    with pytest.raises(InvalidValueError, match="eq names one equation"):
        checks.holds(True, eq=())
