"""What an LSTM drops while it learns: recurrent weights, and one mask for all steps."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence
from torch.utils.checkpoint import checkpoint

import hlstm
from hlstm import stack
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.dropout import drop_and_scale
from hlstm.layer import reference_layer

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
OPTIONS: list[dict[str, Any]] = [
    {"weight_drop": 0.4},
    {"dropout": 0.5, "locked": True},
    {"dropout": 0.3, "weight_drop": 0.4, "locked": True},
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def stacked(**options: Any) -> hlstm.LSTM:
    torch.manual_seed(1)
    return hlstm.LSTM(5, 7, 2, dtype=torch.float64, **options)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS)
def test_evaluation_is_that_of_torch(options: dict[str, Any]) -> None:
    mine = stacked(**options).eval()
    theirs = nn.LSTM(5, 7, 2, dtype=torch.float64)
    theirs.load_state_dict(mine.state_dict())
    x, hx = random(6, 3, 5), (random(2, 3, 7), random(2, 3, 7))
    torch.testing.assert_close(mine(x, hx), theirs(x, hx), **CLOSE)
    assert torch.equal(mine(x, hx)[0], stacked().eval()(x, hx)[0])


@pytest.mark.parametrize("options", OPTIONS)
def test_training_is_not(options: dict[str, Any]) -> None:
    mine, x = stacked(**options), random(6, 3, 5)
    first = mine(x)[0]
    assert not torch.equal(first, mine(x)[0])
    assert not torch.equal(first, mine.eval()(x)[0])


@pytest.mark.parametrize("engine", ["auto", "reference", "torch"])
def test_recurrent_weights_have_one_mask_a_call(engine: str) -> None:
    mine, x = stacked(weight_drop=0.4, engine=engine), random(6, 3, 5)
    zero = torch.zeros(3, 7, dtype=torch.float64)
    torch.manual_seed(2)
    got, (h, c) = mine(x)
    torch.manual_seed(2)
    expected, masked = x, []
    for k in range(2):
        weight_ih, weight_hh, bias = mine.layer_weights(k)
        masked.append(drop_and_scale(weight_hh, 0.4))
        layer = weight_ih, masked[-1], bias
        expected, h_k, c_k = reference_layer(expected, zero, zero, layer)
        torch.testing.assert_close((h[k], c[k]), (h_k, c_k), **CLOSE)
    torch.testing.assert_close(got, expected, **CLOSE)
    mine.zero_grad()
    used = torch.autograd.grad(expected.sin().sum(), masked)
    got.sin().sum().backward()
    for k, (weight, by_used) in enumerate(zip(masked, used, strict=True)):
        p = mine.get_parameter(f"weight_hh_l{k}")
        factor = (weight / p).detach()
        assert set(factor.flatten().round(decimals=9).tolist()) <= {
            0.0,
            round(1 / 0.6, 9),
        }
        assert (factor == 0).any() and p.grad is not None
        torch.testing.assert_close(p.grad, factor * by_used, **CLOSE)


def test_at_one_nothing_recurs() -> None:
    mine, other = stacked(weight_drop=1.0), stacked()
    for k in range(2):
        nn.init.zeros_(other.get_parameter(f"weight_hh_l{k}"))
    x = random(6, 3, 5)
    torch.testing.assert_close(mine(x), other(x), **CLOSE)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """What each layer reads."""
    seen: list[Tensor] = []
    run_layer = stack.run_layer

    def record(engine: str, x: Tensor, *rest: Any) -> Any:
        seen.append(x)
        return run_layer(engine, x, *rest)

    monkeypatch.setattr(stack, "run_layer", record)
    yield seen


@pytest.mark.parametrize("layout", ["time first", "batch first", "alone", "characters"])
def test_a_locked_mask_is_the_same_at_each_step(
    layout: str, read: list[Tensor]
) -> None:
    mine = stacked(dropout=0.5, locked=True, batch_first=layout == "batch first")
    shape = {"alone": (6, 5), "batch first": (20, 6, 5)}.get(layout, (6, 20, 5))
    x = torch.randint(5, (6, 20)) if layout == "characters" else random(*shape)
    mine(x)
    kept = read[1] != 0  # (T, B, H)
    assert kept.shape == (6, 1 if layout == "alone" else 20, 7)
    assert torch.equal(kept, kept[:1].expand_as(kept))
    if layout != "alone":
        assert 0.3 < kept[0].double().mean() < 0.7
        assert not torch.equal(kept, kept[:, :1].expand_as(kept))


def test_an_unlocked_mask_is_not(read: list[Tensor]) -> None:
    stacked(dropout=0.5)(random(6, 20, 5))
    kept = read[1] != 0
    assert not torch.equal(kept, kept[:1].expand_as(kept))


def test_a_locked_mask_goes_with_its_sequence(read: list[Tensor]) -> None:
    mine = stacked(dropout=0.5, locked=True)
    lengths = [3, 6, 1, 4, 6]
    packed = pack_sequence([random(n, 5) for n in lengths], enforce_sorted=False)
    mine(packed)
    lines = unpack_sequence(packed._replace(data=read[1]))
    assert [len(line) for line in lines] == lengths
    for line in lines:
        assert torch.equal(line != 0, (line != 0)[:1].expand_as(line))
    first = torch.stack([line[0] != 0 for line in lines])
    assert 0 < first.double().mean() < 1
    assert len({tuple(row.tolist()) for row in first}) > 1
    # What is kept is scaled as ever.
    torch.manual_seed(3)
    ratio = stack.drop_steps(
        torch.ones(20, 7, dtype=torch.float64), 0.3, True, packed.batch_sizes
    )
    assert set(ratio.flatten().round(decimals=9).tolist()) == {0.0, round(1 / 0.7, 9)}


@pytest.mark.parametrize("options", OPTIONS)
def test_packed_characters_learn(options: dict[str, Any]) -> None:
    mine = stacked(**options)
    packed = pack_sequence([torch.randint(5, (n,)) for n in (4, 2)])
    output, _ = mine(packed)
    assert isinstance(output, PackedSequence)
    output.data.sum().backward()
    assert all(p.grad is not None for p in mine.parameters())


WRONG = [
    (
        {"weight_drop": 1.5},
        InvalidValueError,
        "weight_drop is a number from 0 to 1, and",
    ),
    ({"weight_drop": "0.5"}, InvalidTypeError, "weight_drop is a number from 0 to 1"),
    ({"weight_drop": None}, InvalidTypeError, "weight_drop is a number from 0 to 1"),
    ({"locked": 1}, InvalidTypeError, "locked is True or False, and got 1, a int"),
    ({"locked": None}, InvalidTypeError, "locked is True or False, and got None"),
]


@pytest.mark.parametrize(("options", "kind", "words"), WRONG)
def test_what_is_no_option_is_named(
    options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        hlstm.LSTM(5, 7, **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_copies_have_the_options(options: dict[str, Any]) -> None:
    mine = stacked(**options)
    for twin in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert str(twin) == str(mine)
        for name, value in options.items():
            assert f"{name}={value}" in str(twin)
        x, outputs = random(6, 3, 5), []
        for module in (mine, twin):
            torch.manual_seed(4)
            outputs.append(module(x)[0])
        assert torch.equal(*outputs)
    assert "weight_drop" not in str(stacked()) and "locked" not in str(stacked())


def test_compile_captures_the_masks_in_one_graph() -> None:
    mine, x = stacked(**OPTIONS[-1]), random(3, 3, 5)
    torch._dynamo.reset()
    compiled: Any = torch.compile(mine, backend="aot_eager", fullgraph=True)
    first, second = compiled(x)[0], compiled(x)[0]
    assert not torch.equal(first, second)
    first.sum().backward()
    gradients = [p.grad for p in mine.parameters()]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)
    torch.testing.assert_close(compiled.eval()(x), mine.eval()(x), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
def test_vmap_drops_by_itself_in_each_model(options: dict[str, Any]) -> None:
    mine = stacked(**options)
    weights, _ = torch.func.stack_module_state([mine, mine])

    x = torch.ones(4, 2, 5, dtype=torch.float64)

    def call(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(mine, weights, (x,))[0]

    for randomness, equal in (("different", False), ("same", True)):
        a, b = torch.vmap(call, randomness=randomness)(weights)
        assert torch.equal(a, b) == equal


@pytest.mark.parametrize("options", OPTIONS)
def test_autocast_drops_too(options: dict[str, Any]) -> None:
    mine = stacked(**options).float()
    x = torch.randn(6, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(5)
        output, (h, c) = mine(x)
    assert {output.dtype, h.dtype, c.dtype} == {torch.bfloat16}
    output.float().sum().backward()
    for p in mine.parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32
    torch.manual_seed(5)
    torch.testing.assert_close(output.float(), mine(x)[0], rtol=0, atol=0.05)


@pytest.mark.parametrize("options", OPTIONS)
def test_activations_that_are_computed_again_have_the_same_masks(
    options: dict[str, Any],
) -> None:
    mine, x, gradients = stacked(**options), random(6, 3, 5), []
    for run in (mine, lambda x: checkpoint(mine, x, use_reentrant=False)):
        mine.zero_grad()
        torch.manual_seed(6)
        run(x)[0].sum().backward()
        gradients.append([p.grad for p in mine.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], **CLOSE)
