"""Configurations, texts and devices: what is wrong is named, and what is right is taken."""

import copy
import dataclasses
import difflib
import itertools
import json
import math
import os
import types
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hlstm
from hlstm import device, training
from hlstm.checks import (
    HlstmError,
    InvalidIndexError,
    InvalidTypeError,
    InvalidValueError,
)
from hlstm.clipping import NonFiniteGradientError

FIELDS = {f.name: f.type for f in dataclasses.fields(hlstm.TrainConfig)}
INTEGERS = [name for name, kind in FIELDS.items() if kind is int]
NUMBERS = [name for name, kind in FIELDS.items() if kind is float]
AT_LEAST_1 = ["batch_size", "sequence_length", "steps", "keep_checkpoints"]
NOT_NEGATIVE = ["warmup_steps", "eval_every", "save_every", "weight_decay"]
SHARES = ["ema", "reset"]


def test_the_names_are_all_covered() -> None:
    assert {*INTEGERS, *NUMBERS, "eval_every", "precision"} == set(FIELDS)
    free = {"learning_rate", "max_norm", "seed", "precision", "accumulate"}
    assert {*AT_LEAST_1, *NOT_NEGATIVE, *SHARES} | free == set(FIELDS)


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_is_not_none(name: str) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} is an integer.* got None, a"):
        hlstm.TrainConfig.from_dict({name: None})


@pytest.mark.parametrize("name", [*INTEGERS, "eval_every"])
@pytest.mark.parametrize(
    "value",
    [True, "32", 32.0, [32], math.nan, np.True_, np.float64(3), Fraction(3)]
    + [torch.tensor(True), torch.tensor(3.0), torch.tensor([3, 3]), 1j, b"3"],
)
def test_an_integer_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} is an integer") as error:
        hlstm.TrainConfig.from_dict({name: value})
    assert f"and got {value!r}, a {type(value).__name__}" in str(error.value)


@pytest.mark.parametrize("name", [*INTEGERS, "eval_every"])
@pytest.mark.parametrize(
    "value", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3), torch.tensor([3])]
)
def test_an_integer_may_be_of_numpy_or_pytorch(name: str, value: Any) -> None:
    found = getattr(hlstm.TrainConfig(**{name: value}), name)
    assert type(found) is int and found == 3


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [True, "0.1", None, 1j, [0.1], np.True_, torch.tensor([0.1, 0.2]), b"1"]
)
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} is a number") as error:
        hlstm.TrainConfig(**{name: value})
    assert f"and got {value!r}, a {type(value).__name__}" in str(error.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [np.float32(0.5), Fraction(1, 2), torch.tensor(0.5), np.float64(0.5), 1]
)
def test_a_number_may_be_of_numpy_or_pytorch(name: str, value: Any) -> None:
    found = getattr(hlstm.TrainConfig(**{name: value}), name)
    assert type(found) is float and found == float(value)


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        *((name, value, ", 1 or larger,") for name in AT_LEAST_1 for value in (0, -1)),
        *((name, -1, ", 0 or larger,") for name in NOT_NEGATIVE),
        *((name, x, " from 0 to 1,") for name in SHARES for x in (-0.1, 1.1, math.nan)),
        *(("accumulate", x, " from 1 to 32,") for x in (-1, 0, 33)),
        *(
            ("weight_decay", x, "0 or l")
            for x in (-1e-300, math.nan, math.inf, 10**400)
        ),
        *(("learning_rate", x, " above 0,") for x in (0, -1.0, math.nan, math.inf)),
        *(("learning_rate", x, " above 0,") for x in (10**400, Fraction(1, 10**400))),
        *(("max_norm", x, " above 0,") for x in (0, -1.0, math.nan, -math.inf)),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any, range_: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{name} is an? ") as error:
        hlstm.TrainConfig(**{name: value})
    assert range_ in str(error.value) and f"and got {value!r}"[:60] in str(error.value)


@pytest.mark.parametrize("value", [math.inf, np.inf, np.float32(np.inf)])
def test_the_largest_norm_may_be_infinite(value: Any) -> None:
    found = hlstm.TrainConfig(max_norm=value).max_norm
    assert type(found) is float and found == math.inf


def test_values_at_the_edge_are_accepted() -> None:
    for name in AT_LEAST_1:
        hlstm.TrainConfig.from_dict({name: 1})
    for name in NOT_NEGATIVE:
        hlstm.TrainConfig.from_dict({name: 0})
    for name in SHARES:
        hlstm.TrainConfig.from_dict({name: 0})
        hlstm.TrainConfig.from_dict({name: 1})
    hlstm.TrainConfig(batch_size=7, accumulate=7)
    hlstm.TrainConfig(eval_every=None)
    assert hlstm.TrainConfig(max_norm=math.inf, learning_rate=1, seed=-(10**30))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(1, 10**6) for name in INTEGERS},
    **{name: st.floats(1e-6, 1e6) for name in NUMBERS},
    **{name: st.floats(0, 1) for name in SHARES},
    "eval_every": st.none() | st.integers(0, 10**6),
    "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
    "batch_size": st.integers(32, 10**6),
    "accumulate": st.integers(1, 32),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_a_configuration_goes_to_json_and_back(values: dict[str, Any]) -> None:
    config = hlstm.TrainConfig.from_dict(values)
    written = json.dumps(dataclasses.asdict(config))
    assert hlstm.TrainConfig.from_dict(json.loads(written)) == config
    assert dataclasses.replace(hlstm.TrainConfig(), **values) == config
    for name, value in values.items():
        assert getattr(config, name) == value
    with pytest.raises(ValueError, match="steps is an integer, 1 or larger"):
        dataclasses.replace(config, steps=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(list(FIELDS)) | st.text(), ANYTHING))
def test_any_mapping_gives_a_configuration_or_a_name(mapping: dict[str, Any]) -> None:
    try:
        hlstm.TrainConfig.from_dict(mapping)
    except HlstmError as error:
        assert isinstance(error, TypeError | ValueError)
        assert any(name in str(error) or repr(name) in str(error) for name in mapping)


@pytest.mark.parametrize("nothing", [None, 5, "steps", [("steps", 1)]])
def test_what_is_no_mapping_is_refused(nothing: Any) -> None:
    with pytest.raises(InvalidTypeError, match="hyperparameters are a dict, and got"):
        hlstm.TrainConfig.from_dict(nothing)


@pytest.mark.parametrize("nothing", [None, "net", 5])
def test_what_is_no_network_is_refused(nothing: Any) -> None:
    with pytest.raises(InvalidTypeError, match="^net is a DeepRNN, and got a "):
        hlstm.Trainer(nothing)
    with pytest.raises(InvalidTypeError, match="^net is a torch.nn.Module, and got "):
        hlstm.evaluate(nothing, IDS, 2)


@pytest.mark.parametrize("name", FIELDS)
def test_a_misspelt_name_finds_its_field(name: str) -> None:
    for wrong in (
        name + "s",
        name.replace("_", ""),
        name[:-1],
        name.upper().lower()[1:],
    ):
        near = difflib.get_close_matches(wrong, FIELDS, 1)
        if wrong in FIELDS or not near:
            continue
        with pytest.raises(ValueError, match=f"'{wrong}'; did you mean '{near[0]}'"):
            hlstm.TrainConfig.from_dict({wrong: 1})
    with pytest.raises(ValueError, match="^no hyperparameter 'qqq'; There are: batch"):
        hlstm.TrainConfig.from_dict({"qqq": 1})
    with pytest.raises(ValueError, match="no hyperparameter 3"):
        hlstm.TrainConfig.from_dict({3: 1})  # type: ignore[dict-item]


# Texts

VOCAB = hlstm.Vocabulary("abcde")
IDS = [3, 1, 4, 1, 0, 2, 4, 3, 0, 1, 2, 2] * 4
CONFIG = hlstm.TrainConfig(2, 4, steps=3)


TEXTS = {
    "a list": IDS,
    "a tuple": tuple(IDS),
    "a list of NumPy's": [np.int64(k) for k in IDS],
    "bytes in an array": bytearray(IDS),
    "a strided tensor": torch.tensor([IDS, IDS]).T[:, 0],
    "a strided array": np.array([IDS, IDS]).T[:, 0],
    "a reversed array": np.array(IDS[::-1])[::-1],
    "the other byte order": np.array(IDS, dtype=">i8"),
    "a read-only array": np.frombuffer(bytes(IDS), dtype=np.uint8),
    **{f"NumPy {t}": np.array(IDS, dtype=t) for t in "bBhHiIlLq"},
    **{
        f"{t}": torch.tensor(IDS, dtype=t)
        for t in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        + (torch.uint16, torch.uint32, torch.uint64)
    },
}


def small_net() -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(VOCAB, 3, 2)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_may_be_in_whatever_holds_integers(kind: str) -> None:
    value: Any = TEXTS[kind]
    found = training.take_text("ids", value, small_net(), 2)
    assert found.dtype == torch.long and found.tolist() == IDS
    assert hlstm.evaluate(small_net(), value, 2) == hlstm.evaluate(
        small_net(), torch.tensor(IDS), 2
    )
    losses = [
        fit(small_net(), text, text).loss
        for text in (torch.tensor(IDS), value)
        for fit in (by_trainer, by_function)
    ]
    assert all(loss == losses[0] for loss in losses)


def by_trainer(net: hlstm.DeepRNN, *texts: Any) -> training.History:
    return hlstm.Trainer(net, CONFIG, progress=False).fit(*texts)


def by_function(net: hlstm.DeepRNN, *texts: Any) -> training.History:
    return training.train(net, texts[0], CONFIG, [*texts, None][1], False)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a str": ("abcde" * 9, InvalidTypeError, "encode a text first"),
    "bytes": (b"abcde" * 9, InvalidTypeError, "encode a text first"),
    "None in a list": ([None] * 40, InvalidTypeError, "list of integers"),
    "floats": (torch.zeros(40), InvalidTypeError, "got torch.float32"),
    "NumPy's floats": (np.zeros(40), InvalidTypeError, "list of integers"),
    "a list of floats": ([0.0] * 40, InvalidTypeError, "list of integers"),
    "one float": ([0] * 39 + [1.0], InvalidTypeError, "list of integers"),
    "truth": (torch.ones(40, dtype=torch.bool), InvalidTypeError, "torch.bool"),
    "truths": ([True] * 40, InvalidTypeError, "torch.bool"),
    "complex": (torch.zeros(40, dtype=torch.cfloat), InvalidTypeError, "complex64"),
    "no text": (object(), InvalidTypeError, "of type object"),
    "rows of several lengths": ([[1], [1, 2]], InvalidTypeError, "list of integers"),
    "one integer": (3, InvalidTypeError, "of type int"),
    "no numbers": (
        torch.zeros(40, dtype=torch.long, device="meta"),
        InvalidTypeError,
        "on meta",
    ),
    "sparse": (torch.zeros(40).long().to_sparse(), InvalidTypeError, "sparse_coo"),
    "a huge integer": ([2**70] * 40, InvalidIndexError, "outside 0"),
    "no dimension": (torch.tensor(3), InvalidValueError, "shape ()"),
    "two dimensions": (torch.zeros(2, 40).long(), InvalidValueError, "shape (2, 40)"),
    "one column": (np.zeros((40, 1), int), InvalidValueError, "shape (40, 1)"),
    "rows": ([[0, 1]] * 40, InvalidValueError, "shape (40, 2)"),
    "nothing": ([], InvalidValueError, "has 0 characters, too few"),
    "too short": ([0, 1, 2], InvalidValueError, "has 3 characters, too few"),
    "a symbol too far": ([0] * 39 + [5], InvalidIndexError, "id 5 is outside 0 … 4"),
    "a negative symbol": ([-1] + [0] * 39, InvalidIndexError, "id -1 is outside"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_text_is_refused_by_name(what: str) -> None:
    value, kind, words = WRONG[what]
    net = small_net()
    before = [p.clone() for p in net.parameters()]
    calls: dict[str, Callable[[], Any]] = {
        "ids": lambda: hlstm.evaluate(net, value, 2),
        "train_ids": lambda: by_trainer(net, value),
        "train_ids ": lambda: by_function(net, value),
        "val_ids": lambda: by_trainer(net, IDS, value),
        "val_ids ": lambda: by_function(net, IDS, value),
    }
    for name, call in calls.items():
        with pytest.raises(kind, match=f"^{name.strip()}\\b") as error:
            call()
        assert words in str(error.value) and len(str(error.value)) < 300
        assert isinstance(error.value, HlstmError)
    pairs = zip(before, net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_held_out_text_that_is_too_short_is_called_so() -> None:
    with pytest.raises(InvalidValueError, match="^val_ids, the held-out text, has 3 c"):
        by_trainer(small_net(), IDS, [0, 1, 2])


@pytest.mark.parametrize("size", ["batch_size", "sequence_length"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_sizes_of_evaluation_are_integers(size: str, value: Any) -> None:
    with pytest.raises(HlstmError, match=f"^{size} is an integer, 1 or larger"):
        hlstm.evaluate(small_net(), IDS, **{"batch_size": 2, size: value})


def test_evaluation_takes_integers_of_numpy() -> None:
    wanted = hlstm.evaluate(small_net(), IDS, 2, 3)
    sizes: list[Any] = [np.int64(2), np.uint8(3)]
    assert hlstm.evaluate(small_net(), IDS, *sizes) == wanted


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20, 21, 47, 48, 100])
def test_separate_windows_each_start_from_zero(length: int) -> None:
    """Every character but the first is guessed once; B is of no matter."""
    net, text = small_net().double().eval(), torch.tensor(IDS)
    losses = []
    for start in range(0, len(text) - 1, length):
        window = text[start : start + length + 1]
        logits, _ = net(window[None, :-1])
        losses += [
            -z.log_softmax(-1)[y] for z, y in zip(logits[0], window[1:], strict=True)
        ]
    wanted = torch.stack(losses).mean().item()
    assert len(losses) == len(text) - 1
    for B in (1, 2, 3, 64):
        found = hlstm.evaluate(net, text, B, length, carry=False)
        assert math.isclose(found, wanted, rel_tol=1e-12)
    with pytest.raises(InvalidValueError, match="^ids has 1 characters, too few"):
        hlstm.evaluate(net, text[:1], 64, carry=False)
    assert hlstm.evaluate(net, text[:2], 64, carry=False) > 0


# Training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_in_half_precision_is_summed_in_more(dtype: torch.dtype) -> None:
    """Each character costs 16 nats, and 8,191 of them more than float16 can hold."""
    net = small_net().to(dtype)
    torch.nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([16.0, 0, 0, 0, 0]))
    ids = torch.tensor([1, 2, 3, 4] * 2048)
    nats = hlstm.evaluate(net, ids, 1, sequence_length=len(ids))
    assert math.isclose(nats, math.log(math.exp(16) + 4), rel_tol=1e-6)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "an average": {"ema": 0.9},
    "resets": {"reset": 0.5},
    "parts": {"accumulate": 2},
    "bfloat16": {"precision": "bfloat16"},
    "all": {"ema": 0.9, "reset": 0.5, "accumulate": 2, "precision": "bfloat16"},
}


@pytest.mark.parametrize("what", OPTIONS)
def test_the_function_and_the_trainer_are_one_run(what: str) -> None:
    """With dropout, so that random numbers are drawn in the same order."""
    sizes: dict[str, Any] = {"steps": 11, "eval_every": 4, "warmup_steps": 2}
    config = hlstm.TrainConfig(2, 4, **sizes, **OPTIONS[what])
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(hlstm.DeepRNN(VOCAB, 3, 2, dropout=0.5))
    torch.manual_seed(1)
    ours = training.train(nets[0], IDS, config, IDS[:20], progress=False)
    torch.manual_seed(1)
    theirs = hlstm.Trainer(nets[1], config, progress=False).fit(IDS, IDS[:20])
    assert dataclasses.replace(ours, seconds=0) == dataclasses.replace(
        theirs, seconds=0
    )
    assert ours.val_step == [4, 8, 11] and len(ours.loss) == 11
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


class Plain(torch.nn.Module):
    """PyTorch's own parts under the protocol: ids and state to logits and state."""

    def __init__(self) -> None:
        super().__init__()
        self.look_up = torch.nn.Embedding(5, 4)
        self.rnn = torch.nn.LSTM(4, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.rnn(self.look_up(ids), state)
        return self.head(output), state


def test_any_network_of_the_protocol_can_be_trained() -> None:
    history = training.train(Plain(), IDS, CONFIG, IDS, progress=False)
    assert len(history.loss) == 3 and history.val_step == [1, 2, 3]


@pytest.mark.parametrize("fit", [by_trainer, by_function])
def test_float16_is_refused_for_training(fit: Callable[..., Any]) -> None:
    net = small_net().half()
    with pytest.raises(
        InvalidTypeError, match="is torch.float16, .* net.float"
    ) as error:
        fit(net, IDS)
    assert "net.bfloat16()" in str(error.value)
    assert len(fit(net.float(), IDS).loss) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_other_precisions_train(dtype: torch.dtype) -> None:
    net = small_net().to(dtype)
    history = by_trainer(net, IDS, IDS)
    assert np.isfinite(history.loss).all()
    assert {p.dtype for p in net.parameters()} == {dtype}


@pytest.mark.parametrize("fit", [by_trainer, by_function])
def test_a_network_that_is_frozen_whole_is_refused(fit: Callable[..., Any]) -> None:
    net = small_net().requires_grad_(False)
    with pytest.raises(InvalidValueError, match="all are frozen.*requires_grad_"):
        fit(net, IDS)
    net.head.requires_grad_(True)
    assert len(fit(net, IDS).loss) == 3


@pytest.mark.parametrize("config", [{"steps": 3}, 3, hlstm.TrainConfig])
def test_a_configuration_is_a_configuration(config: Any) -> None:
    with pytest.raises(InvalidTypeError, match="^config is a TrainConfig, and got a "):
        hlstm.Trainer(small_net(), config)


@pytest.mark.parametrize("fit", [by_trainer, by_function])
def test_errors_of_training_are_ours_and_arithmetic(fit: Callable[..., Any]) -> None:
    net = small_net()
    net.head.bias.data.fill_(math.nan)
    with pytest.raises(
        training.TrainingError, match="^step 1 of 3: the loss is nan"
    ) as e:
        fit(net, IDS)
    assert isinstance(e.value, HlstmError) and isinstance(e.value, ArithmeticError)


# One step

WINDOWS = [(x, y) for x, y in hlstm.text.windows(torch.tensor(IDS[:45]), 5, 3)]


def steps(net: torch.nn.Module, **options: Any) -> list[Any]:
    """What three steps return, with a carried state."""
    optimizer, state = training.new_optimizer(net, CONFIG), None
    found = []
    for inputs, targets in WINDOWS:
        *numbers, state = training.train_step(
            net, optimizer, inputs, targets, state, **options
        )
        found += [*numbers, *state]
    assert len(WINDOWS) == 3
    return found


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("max_norm", [0.01, 1.0])
def test_the_parts_of_a_batch_make_the_same_step(parts: int, max_norm: float) -> None:
    """Five streams, which 2, 3 and 4 do not divide."""
    nets, rows = [small_net().double() for _ in range(2)], []
    nets[1].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    whole = steps(nets[0], max_norm=max_norm)
    split = steps(nets[1], max_norm=max_norm, accumulate=parts)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=1e-12
        )
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert len(rows) == 3 * parts and max(rows) == math.ceil(5 / parts)


def test_more_parts_than_streams_are_refused() -> None:
    with pytest.raises(
        InvalidValueError, match="^accumulate .* from 1 to 5, and got 6"
    ):
        steps(small_net(), accumulate=6)


def test_a_step_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and norm are read together, and nothing else is: a GPU would have to finish."""
    reads = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(word in str(call) for word in ("_local_scalar", "nonzero", "equal")):
                reads.append(str(call))
            return call(*args, **kwargs or {})

    to_list = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        reads.append("tolist")
        return to_list(tensor)

    torch.manual_seed(0)
    net, state = Plain(), None
    optimizer = training.new_optimizer(net, CONFIG)
    for max_norm in (1e-3, 1e3):
        for inputs, targets in WINDOWS:
            with monkeypatch.context() as patched, Counting():
                patched.setattr(Tensor, "tolist", counted)
                _, norm, state = training.train_step(
                    net, optimizer, inputs, targets, state, max_norm, accumulate=2
                )
            assert reads == ["tolist"]
            assert (norm > max_norm) == (max_norm < 1)
            reads.clear()


def everything(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [t for parts in optimizer.state.values() for t in parts.values()]
    return [t.detach().clone() for t in (*net.parameters(), *moments)]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_changes_nothing(
    what: str, factor: float, parts: int
) -> None:
    net = small_net()
    optimizer = training.new_optimizer(net, CONFIG)
    inputs, targets = WINDOWS[0]
    training.train_step(net, optimizer, inputs, targets)
    before = everything(net, optimizer)
    if what == "loss":
        # Only the last stream, which is in the last part.
        def hook(_: Any, given: Any, made: Any) -> Any:
            last = torch.zeros_like(made)
            last[-1] = factor
            return made + last

        error: type[Exception] = training.TrainingError
        handle: Any = net.head.register_forward_hook(hook)
        words = "^the loss is nan; no parameter was changed"
    else:
        error, words = NonFiniteGradientError, r"parameter \d of shape \(5,\)"
        handle = net.head.bias.register_hook(lambda g: g * factor)
    with pytest.raises(error, match=words):
        training.train_step(net, optimizer, inputs, targets, accumulate=parts)
    after = everything(net, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    handle.remove()
    assert math.isfinite(training.train_step(net, optimizer, inputs, targets)[0])


def test_a_gradient_whose_squares_overflow_is_clipped() -> None:
    net = small_net()
    net.head.bias.register_hook(lambda g: g * 1e25)
    optimizer = training.new_optimizer(net, CONFIG)
    _, norm, _ = training.train_step(net, optimizer, *WINDOWS[0])
    assert 1e22 < norm < 1e26
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    total = torch.stack([g.double().norm() for g in gradients]).norm().item()
    assert math.isclose(total, 1, rel_tol=1e-5)


def test_a_step_sets_the_rate_of_a_schedule() -> None:
    net, asked = small_net(), []
    optimizer = training.new_optimizer(net, CONFIG)

    def schedule(step: int, config: hlstm.TrainConfig) -> float:
        asked.append((step, config))
        return 0.125 / (1 + step)

    position = training.Position()
    supply = training.training_windows(torch.tensor(IDS), CONFIG)
    for k in range(3):
        window = next(supply)
        *_, position = training.next_step(
            net, optimizer, CONFIG, position, window, schedule
        )
        assert {group["lr"] for group in optimizer.param_groups} == {0.125 / (1 + k)}
    assert asked == [(k, CONFIG) for k in range(3)]


# Decay, averages, resets


def test_only_matrices_decay() -> None:
    net = small_net()
    config = hlstm.TrainConfig(learning_rate=0.5, weight_decay=0.25)
    optimizer = training.new_optimizer(net, config)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        factor = 1 - 0.5 * 0.25 if name.split(".")[-1].startswith("weight") else 1
        torch.testing.assert_close(p.detach(), factor * before[name], rtol=1e-6, atol=0)
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(map(id, net.parameters()))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_an_average_follows_its_equation(decay: float) -> None:
    torch.manual_seed(1)
    net, average = torch.nn.BatchNorm1d(3).double(), torch.nn.BatchNorm1d(3).double()
    wanted = average.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            net.weight.normal_()
            net.running_mean.fill_(step)  # type: ignore[union-attr]
        training.follow_average(average, net, step, decay)
        rho = min(decay, (1 + step) / (10 + step))
        wanted = rho * wanted + (1 - rho) * net.weight.detach()
        torch.testing.assert_close(average.weight.detach(), wanted)
        assert torch.equal(average.running_mean, net.running_mean)  # type: ignore
    assert not average.weight.grad_fn
    assert torch.equal(average.weight, net.weight) == (decay == 0)


def test_a_run_with_an_average_judges_and_leaves_it() -> None:
    config = hlstm.TrainConfig(2, 4, steps=20, eval_every=5, ema=0.9, warmup_steps=2)
    net, raw = small_net(), small_net()
    average = copy.deepcopy(raw)
    history = training.train(net, IDS, config, IDS[:20], progress=False)
    optimizer, position = training.new_optimizer(raw, config), training.Position()
    supply = training.training_windows(torch.tensor(IDS), config)
    losses = []
    for step in range(1, 21):
        *_, position = training.next_step(
            raw, optimizer, config, position, next(supply)
        )
        training.follow_average(average, raw, step, 0.9)
        if step % 5 == 0:
            losses.append(hlstm.evaluate(average, IDS[:20], 2))
    assert history.val_loss == losses
    for p, q, r in zip(
        net.parameters(), average.parameters(), raw.parameters(), strict=True
    ):
        assert torch.equal(p, q) and not torch.equal(p, r)
    assert all(module.training for module in net.modules())


def test_an_average_in_bfloat16_is_refused() -> None:
    net = small_net().bfloat16()
    config = hlstm.TrainConfig(2, 4, steps=2, ema=0.99)
    with pytest.raises(InvalidValueError, match="^ema averages .*net.float") as error:
        training.train(net, IDS, config, progress=False)
    assert 'precision="bfloat16"' in str(error.value)


def test_a_reset_forgets_whole_streams() -> None:
    torch.manual_seed(0)
    h, c = torch.ones(2, 4000, 3), torch.full((2, 4000, 3), 2.0)
    for p in (0.0, 0.2, 1.0):
        new_h, new_c = training.reset_some((h, c), p)
        kept = new_h[0, :, 0]
        assert torch.equal(new_h, kept[None, :, None].expand_as(h))
        assert torch.equal(new_c, 2 * new_h)
        # Five standard deviations of a binomial share.
        assert abs(1 - kept.mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / 4000)
    assert h.min() == 1


@pytest.mark.parametrize("reset", [0.0, 1.0])
def test_a_run_resets_the_carried_state(reset: float) -> None:
    """The states that a network gets: none at the start of a pass, and else as said."""
    net, config = small_net(), hlstm.TrainConfig(2, 4, steps=8, reset=reset)
    started: list[Any] = []
    net.register_forward_pre_hook(lambda _, given: started.append(given[1]))
    training.train(net, IDS, config, progress=False)
    begun = [state is None for state in started]
    assert begun == [k % 6 == 0 for k in range(8)]
    for h, c in filter(None, started):
        assert bool(h.any()) == bool(c.any()) == (reset == 0)


def test_resets_are_drawn_from_the_seed() -> None:
    config = hlstm.TrainConfig(2, 4, steps=12, reset=0.5)
    losses = [
        training.train(small_net(), IDS, config, progress=False).loss for _ in range(2)
    ]
    plain = training.train(small_net(), IDS, dataclasses.replace(config, reset=0.0))
    assert losses[0] == losses[1] != plain.loss


# Precision


def test_float16_needs_what_there_is_not() -> None:
    net, words = small_net(), "bfloat16, and got 'float16': gradients below 6e-8"
    with pytest.raises(InvalidValueError, match=words):
        hlstm.TrainConfig(precision="float16")
    with pytest.raises(InvalidValueError, match=words):
        training.pick_precision("float16", net)
    with pytest.raises(InvalidValueError, match=words):
        steps(net, precision="float16")


@pytest.mark.parametrize("wrong", ["", "half", "BFLOAT16", "float64"])
def test_a_precision_is_one_of_three(wrong: str) -> None:
    words = "^precision is one of auto, float32, bfloat16, and got "
    with pytest.raises(InvalidValueError, match=words + f"'{wrong}'$"):
        hlstm.TrainConfig(precision=wrong)
    no_names: list[Any] = [None, 16, torch.bfloat16, ["auto"]]
    for no_name in no_names:
        with pytest.raises(InvalidTypeError, match=words):
            hlstm.TrainConfig(precision=no_name)


FLAGS = "fpu avx2 avx512f avx512_bf16"


@pytest.mark.parametrize(
    ("flags", "onednn", "own", "picked"),
    [
        (FLAGS, "", "", "bfloat16"),
        ("avx2 amx_bf16", "", "", "bfloat16"),
        ("avx2 avx512f avx512_vnni", "", "", "float32"),
        ("avx2 avx512_bf16_of_tomorrow", "", "", "float32"),
        ("", "", "", "float32"),
        *((FLAGS, level, "", "bfloat16") for level in ("ALL", "DEFAULT")),
        *((FLAGS, f"AVX512_CORE_{x}", "", "bfloat16") for x in ("BF16", "AMX", "FP16")),
        *((FLAGS, level, "", "float32") for level in ("SSE41", "AVX2", "AVX2_VNNI_2")),
        *(
            (FLAGS, level, "", "float32")
            for level in ("AVX512_CORE", "AVX512_CORE_VNNI")
        ),
        (FLAGS, "", "AVX2", "float32"),
        (FLAGS, "ALL", "SSE41", "float32"),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: str, onednn: str, own: str, picked: str
) -> None:
    monkeypatch.setattr(device, "processor", lambda: f"model name: X flags: {flags}")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", onednn)
    monkeypatch.setenv("HLSTM_MAX_CPU_ISA", own)
    device.computes_bfloat16.cache_clear()
    try:
        assert training.pick_precision("auto", small_net()) == picked
        for name in ("float32", "bfloat16"):
            assert training.pick_precision(name, small_net()) == name
        for other in (small_net().double(), small_net().bfloat16()):
            assert training.pick_precision("auto", other) == "float32"
    finally:
        device.computes_bfloat16.cache_clear()


def test_auto_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability in ((7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda _, found=capability: found
        )
        device.computes_bfloat16.cache_clear()
        found = device.computes_bfloat16(torch.device("cuda", 0))
        assert found == (capability >= (8, 0))
    device.computes_bfloat16.cache_clear()
    assert not device.computes_bfloat16(torch.device("mps"))


def test_bfloat16_is_not_for_weights_of_float64() -> None:
    with pytest.raises(InvalidValueError, match="weights of float32.* net.float"):
        steps(small_net().double(), precision="bfloat16")


def test_bfloat16_is_for_products_only() -> None:
    """Weights, gradients, moments and the carried state are float32, and the loss near."""
    nets, made = [small_net() for _ in range(2)], []
    nets[1].head.register_forward_hook(lambda *given: made.append(given[-1].dtype))
    ours, theirs = steps(nets[0]), steps(nets[1], precision="bfloat16")
    assert made == [torch.bfloat16] * 3
    for p in nets[1].parameters():
        assert p.dtype == torch.float32
        assert p.grad is not None and p.grad.dtype == torch.float32
    for a, b in zip(ours, theirs, strict=True):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        assert a.dtype == b.dtype and not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fit", [by_trainer, by_function])
def test_a_run_computes_in_the_precision_of_its_configuration(
    fit: Callable[..., Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, precision=precision)
    monkeypatch.setitem(globals(), "CONFIG", config)
    net, made = small_net(), []
    net.head.register_forward_hook(lambda *given: made.append(given[-1].dtype))
    fit(net, IDS)
    assert made == [getattr(torch, precision)] * 3


# Evaluations and what a run measured


@pytest.mark.parametrize(
    ("steps", "every", "wanted"),
    [
        (20, None, list(range(2, 21, 2))),
        (25, None, [*range(2, 25, 2), 25]),
        (3, None, [1, 2, 3]),
        (1, None, [1]),
        (5, 0, [5]),
        (5, 2, [2, 4, 5]),
        (5, 9, [5]),
    ],
)
def test_when_a_run_is_evaluated(
    steps: int, every: int | None, wanted: list[int]
) -> None:
    config = hlstm.TrainConfig(2, 4, steps=steps, eval_every=every)
    due = [k for k in range(steps + 1) if training.is_due(k, every, config)]
    assert due == wanted
    history = training.train(small_net(), IDS, config, IDS, progress=False)
    assert history.val_step == wanted


def test_a_history_in_other_units() -> None:
    losses = [0.0, 1.0, math.log(65), 800.0, math.nan]
    history = training.History(val_loss=losses)
    bits, perplexity = history.val_bits, history.val_perplexity
    assert bits[:2] == [0.0, 1 / math.log(2)] and math.isclose(bits[2], math.log2(65))
    assert perplexity[0] == 1.0 and math.isclose(perplexity[2], 65)
    assert perplexity[3] == math.inf and math.isnan(perplexity[4])
    assert training.History().val_bits == training.History().val_perplexity == []


def test_a_history_has_the_rate_of_each_step() -> None:
    config = hlstm.TrainConfig(2, 4, steps=9, warmup_steps=3)
    history = training.train(small_net(), IDS, config, progress=False)
    wanted = [training.learning_rate_at(k, config) for k in range(9)]
    assert history.learning_rate == wanted and len(history.grad_norm) == 9


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_speed_is_measured_on_a_copy(
    monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """By a clock that says a quarter of a second for each step, and two for the first."""
    clock = itertools.accumulate([0, 2.0, *[0, 0.25] * 9])
    faked = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(training, "time", faked)
    torch.manual_seed(0)
    net = hlstm.DeepRNN(VOCAB, 3, 2, dropout=0.5).eval()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    random = torch.get_rng_state()
    config = hlstm.TrainConfig(2, 8, ema=ema, learning_rate=1e3)
    assert training.measure_speed(net, config) == 2 * 8 / 0.25
    assert torch.equal(torch.get_rng_state(), random) and not net.training
    after = net.state_dict()
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert all(p.grad is None for p in net.parameters())


# Sizes


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="memory is not known here")
def test_a_network_too_large_for_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vocab = hlstm.Vocabulary("abc")
    all_sizes: list[dict[str, Any]] = [
        {"hidden_size": 10**7},
        {"hidden_size": 3, "num_layers": 10**12},
    ]
    for sizes in all_sizes:
        with pytest.raises(ValueError, match="bytes of memory: make one") as error:
            hlstm.DeepRNN(vocab, **sizes)
        for name, value in sizes.items():
            assert f"{name}={value} " in str(error.value)
    net = hlstm.DeepRNN(vocab, 5, 3)
    needed = sum(p.numel() * p.element_size() for p in net.parameters())
    for memory in (needed, needed - 1):
        pages = {"SC_PHYS_PAGES": memory, "SC_PAGE_SIZE": 1}
        monkeypatch.setattr(os, "sysconf", pages.get)
        if memory == needed:
            assert hlstm.DeepRNN(vocab, 5, 3)
            continue
        with pytest.raises(ValueError, match=f"need {needed:,} bytes for the param"):
            hlstm.DeepRNN(vocab, 5, 3)
    with torch.device("meta"):
        assert hlstm.DeepRNN(vocab, 10**7), "memory is taken elsewhere"


@pytest.mark.parametrize("size", [0, -3, 2.5, "8", None])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hidden_size"):
        hlstm.DeepRNN(hlstm.Vocabulary("abc"), size)


# Devices


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "auto", "named"),
    [
        (0, False, "cpu", ["cpu"]),
        (2, False, "cuda", ["cpu", "cuda", "cuda:0", "cuda:1"]),
        (0, True, "mps", ["cpu", "mps"]),
        (1, True, "cuda", ["cpu", "cuda", "cuda:0", "mps"]),
    ],
)
def test_the_devices_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, auto: str, named: list[str]
) -> None:
    machine(monkeypatch, gpus, mps)
    assert training.pick_device() == torch.device(auto)
    for name in named:
        assert training.pick_device(name) == torch.device(name)
    for name in {"cpu", "cuda", "cuda:0", "cuda:2", "mps", "gpu", "CUDA", "", "meta"}:
        if name not in named:
            with pytest.raises(ValueError, match=f"^no device '{name}'") as error:
                training.pick_device(name)
            assert f"finds {', '.join(named)} on this machine" in str(error.value)
    with pytest.raises(InvalidValueError, match="^no device None"):
        training.pick_device(None)  # type: ignore[arg-type]
