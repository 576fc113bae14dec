"""Configurations, texts and devices: what is wrong is named, and what is right is taken."""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hlstm
from hlstm import training
from hlstm.checks import (
    HlstmError,
    InvalidIndexError,
    InvalidTypeError,
    InvalidValueError,
)

FIELDS = {f.name: f.type for f in dataclasses.fields(hlstm.TrainConfig)}
INTEGERS = [name for name, kind in FIELDS.items() if kind is int]
NUMBERS = [name for name, kind in FIELDS.items() if kind is float]
AT_LEAST_1 = ["batch_size", "sequence_length", "steps", "keep_checkpoints"]
NOT_NEGATIVE = ["warmup_steps", "eval_every", "save_every", "weight_decay"]


def test_the_names_are_all_covered() -> None:
    assert set(INTEGERS) | set(NUMBERS) == set(FIELDS)
    free = {"learning_rate", "max_norm", "seed"}
    assert set(AT_LEAST_1) | set(NOT_NEGATIVE) | free == set(FIELDS)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value",
    [True, "32", 32.0, None, [32], math.nan, np.True_, np.float64(3), Fraction(3)]
    + [torch.tensor(True), torch.tensor(3.0), torch.tensor([3, 3]), 1j, b"3"],
)
def test_an_integer_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} is an integer") as error:
        hlstm.TrainConfig.from_dict({name: value})
    assert f"and got {value!r}, a {type(value).__name__}" in str(error.value)


@pytest.mark.parametrize("name", INTEGERS)
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
    "value", [np.float32(0.5), Fraction(1, 2), torch.tensor(0.5), np.float64(0.5), 2]
)
def test_a_number_may_be_of_numpy_or_pytorch(name: str, value: Any) -> None:
    found = getattr(hlstm.TrainConfig(**{name: value}), name)
    assert type(found) is float and found == float(value)


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        *((name, value, ", 1 or larger,") for name in AT_LEAST_1 for value in (0, -1)),
        *((name, -1, ", 0 or larger,") for name in NOT_NEGATIVE),
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
        hlstm.TrainConfig(**{name: 1})
    for name in NOT_NEGATIVE:
        hlstm.TrainConfig(**{name: 0})
    assert hlstm.TrainConfig(max_norm=math.inf, learning_rate=1, seed=-(10**30))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.integers(1, 10**6) if kind is int else st.floats(1e-6, 1e6)
            for name, kind in FIELDS.items()
        },
    )
)
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


def test_the_function_and_the_trainer_are_one_run() -> None:
    config = hlstm.TrainConfig(2, 4, steps=11, eval_every=4, warmup_steps=2)
    nets = small_net(), small_net()
    ours = training.train(nets[0], IDS, config, IDS[:20], progress=False)
    theirs = hlstm.Trainer(nets[1], config, progress=False).fit(IDS, IDS[:20])
    assert dataclasses.replace(ours, seconds=0) == dataclasses.replace(
        theirs, seconds=0
    )
    assert ours.val_step == [4, 8, 11] and len(ours.loss) == 11
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_any_network_of_the_protocol_can_be_trained() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look_up = torch.nn.Embedding(5, 4)
            self.rnn = torch.nn.LSTM(4, 4, batch_first=True)
            self.head = torch.nn.Linear(4, 5)

        def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            output, state = self.rnn(self.look_up(ids), state)
            return self.head(output), state

    history = training.train(Plain(), IDS, CONFIG, IDS, progress=False)
    assert len(history.loss) == 3 and len(history.val_loss) == 1


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
        (0, True, "cpu", ["cpu", "mps"]),
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
