"""Configurations and devices: what is wrong is named, and so is what is right."""

import dataclasses
import difflib
import json
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm

FIELDS = {f.name: f.type for f in dataclasses.fields(hlstm.TrainConfig)}
INTEGERS = [name for name, kind in FIELDS.items() if kind is int]
NUMBERS = [name for name, kind in FIELDS.items() if kind is float]
AT_LEAST_1 = ["batch_size", "sequence_length", "steps", "keep"]
NOT_NEGATIVE = ["warmup_steps", "eval_every", "save_every", "weight_decay"]


def test_the_names_are_all_covered() -> None:
    assert set(INTEGERS) | set(NUMBERS) == set(FIELDS)
    free = {"learning_rate", "max_norm", "seed"}
    assert set(AT_LEAST_1) | set(NOT_NEGATIVE) | free == set(FIELDS)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [True, "32", 32.0, None, [32], np.int64(32), torch.tensor(32), math.nan]
)
def test_an_integer_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} is an integer, and got ") as error:
        hlstm.TrainConfig.from_dict({name: value})
    assert f"{value!r}, a {type(value).__name__}" in str(error.value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "0.1", None, 1j, [0.1], torch.tensor(0.1)])
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} is a number, and got ") as error:
        hlstm.TrainConfig(**{name: value})
    assert f"{value!r}, a {type(value).__name__}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        *((name, value, "at least 1") for name in AT_LEAST_1 for value in (0, -1)),
        *((name, -1, "not negative") for name in NOT_NEGATIVE),
        *(("weight_decay", x, "not negative") for x in (-1e-300, math.nan, math.inf)),
        *(("learning_rate", x, "positive") for x in (0, -1.0, math.nan, math.inf)),
        *(("max_norm", x, "positive") for x in (0, -1.0, math.nan, -math.inf)),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any, range_: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {range_}") as error:
        hlstm.TrainConfig(**{name: value})
    assert str(error.value).endswith(f"and got {value}")


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
    with pytest.raises(ValueError, match="steps is at least 1"):
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
    except (TypeError, ValueError) as error:
        assert any(name in str(error) or repr(name) in str(error) for name in mapping)


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
    assert hlstm.pick_device() == torch.device(auto)
    for name in named:
        assert hlstm.pick_device(name) == torch.device(name)
    for name in {"cpu", "cuda", "cuda:0", "cuda:2", "mps", "gpu", "CUDA", "", "meta"}:
        if name not in named:
            with pytest.raises(ValueError, match=f"^no device '{name}'") as error:
                hlstm.pick_device(name)
            assert f"finds {', '.join(named)} on this machine" in str(error.value)
    with pytest.raises(ValueError, match="^no device None"):
        hlstm.pick_device(None)  # type: ignore[arg-type]
