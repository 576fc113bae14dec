"""Dropout: what it keeps, where its mask repeats, and the modes of a network."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hlstm
from hlstm.checks import InvalidTypeError, InvalidValueError
from hlstm.dropout import draw_mask, drop_and_scale, evaluating

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shared", [None, 0, 1, -1])
def test_a_mask_repeats_along_the_shared_dimension(shared: int | None) -> None:
    x = torch.rand(40, 50, 6) + 1
    drop = hlstm.InvertedDropout(0.3, shared)
    kept = drop(x) != 0
    torch.testing.assert_close(drop.eval()(x), x, rtol=0, atol=0)
    assert abs(kept.float().mean() - 0.7) < 0.1
    torch.testing.assert_close(drop.train()(x).max(), x.max() / 0.7, rtol=0.05, atol=0)
    for dim in range(3):
        repeats = bool((kept == kept.narrow(dim, 0, 1)).all())
        assert repeats == (shared is not None and dim == shared % 3)
    assert f"p=0.3, shared_dim={shared}" in str(drop)


def test_dropout_scales_what_it_keeps() -> None:
    x = random(200)
    y = hlstm.InvertedDropout(0.25)(x)
    y.sum().backward()
    factors = (y / x).detach()
    assert set(factors.round(decimals=12).tolist()) == {0.0, round(4 / 3, 12)}
    torch.testing.assert_close(x.grad, factors, **CLOSE)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_its_ends(p: float) -> None:
    x = torch.rand(50) + 1
    y = hlstm.InvertedDropout(p)(x)
    assert torch.equal(y, x * (1 - p))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_names_a_wrong_probability(p: float) -> None:
    with pytest.raises(InvalidValueError, match=f"from 0 to 1, and got {p}"):
        hlstm.InvertedDropout(p)
    with pytest.raises(InvalidValueError, match=f"from 0 to 1, and got {p}"):
        drop_and_scale(torch.ones(3), p)


@pytest.mark.parametrize(
    ("p", "number"),
    [
        (np.float32(0.25), 0.25),
        (np.float64(0.25), 0.25),
        (Fraction(1, 4), 0.25),
        (torch.tensor(0.25), 0.25),
        (np.int64(1), 1.0),
        (0, 0.0),
    ],
)
def test_a_probability_is_any_number(p: Any, number: float) -> None:
    drop = hlstm.InvertedDropout(p)
    assert drop.p == number and type(drop.p) is float
    torch.manual_seed(1)
    expected = drop(torch.ones(50))
    torch.manual_seed(1)
    assert torch.equal(drop_and_scale(torch.ones(50), p), expected)


@pytest.mark.parametrize("p", ["0.5", True, None, 0.5j, [0.5], torch.ones(2)])
def test_a_probability_that_is_no_number_is_named(p: Any) -> None:
    words = "p, the probability to drop, is a number from 0 to 1, and got"
    with pytest.raises(InvalidTypeError, match=words):
        hlstm.InvertedDropout(p)
    with pytest.raises(InvalidTypeError, match=words):
        drop_and_scale(torch.ones(3), p)


def test_a_shared_dimension_is_any_integer() -> None:
    last: Any = np.int64(-1)
    assert hlstm.InvertedDropout(0.5, last).shared_dim == -1
    mask = drop_and_scale(torch.ones(40, 3), 0.5, last)
    assert torch.equal(mask, mask[:, :1].expand(40, 3))


@pytest.mark.parametrize("shared", [1.5, True, "0", Fraction(1)])
def test_a_shared_dimension_that_is_no_integer_is_named(shared: Any) -> None:
    words = "shared_dim is an integer"
    with pytest.raises(InvalidTypeError, match=words):
        hlstm.InvertedDropout(0.5, shared)
    with pytest.raises(InvalidTypeError, match=words):
        drop_and_scale(torch.ones(3, 4), 0.5, shared)


@pytest.mark.parametrize("shared", [2, -3])
def test_a_dimension_that_the_input_lacks_is_named(shared: int) -> None:
    words = f"shared_dim is an integer from -2 to 1, and got {shared}"
    with pytest.raises(InvalidValueError, match=words):
        hlstm.InvertedDropout(0.5, shared)(torch.ones(3, 4))


def test_compile_captures_dropout_whose_rate_changes() -> None:
    torch.compiler.reset()
    drop = hlstm.InvertedDropout(0.5, 1)
    compiled = torch.compile(drop, backend="eager", fullgraph=True)
    for p in (0.5, 0.25, 0.75):
        drop.p = p
        kept = compiled(torch.ones(200, 3)) != 0
        assert abs(kept.float().mean() - (1 - p)) < 0.15
        assert torch.equal(kept, kept[:, :1].expand(200, 3))


def test_evaluating_puts_every_module_back_also_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    net[0].eval()
    before = [module.training for module in net.modules()]
    with pytest.raises(KeyError), evaluating(net):
        assert not any(module.training for module in net.modules())
        raise KeyError
    assert [module.training for module in net.modules()] == before


def test_evaluating_needs_a_module() -> None:
    with pytest.raises(InvalidTypeError, match="net is a torch.nn.Module"):
        with evaluating(len):  # type: ignore[arg-type]
            pass


# The masks themselves


PROBABILITIES = [2**-16, 2e-5, 0.1, 0.3, 1 / 3, 0.5, 0.9, 1 - 1e-5, 1 - 1e-9, 1.0]


@pytest.mark.parametrize("p", PROBABILITIES)
def test_a_value_of_16_bits_is_kept_with_the_right_probability(
    p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value comes once, and u goes evenly through [0, 1): nothing is left to chance."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.int64)
    monkeypatch.setattr(Tensor, "random_", lambda words, *ends: words.copy_(values))
    shares = []
    for k in range(32):
        u = torch.tensor((k + 0.5) / 32, dtype=torch.float64)
        monkeypatch.setattr(torch, "rand", lambda *size, u=u, **options: u)
        mask = draw_mask([256, 256], p, torch.empty(0))
        assert bool(((mask == 0) | (mask == 1)).all())
        shares.append(mask.double().mean().item())
    assert abs(sum(shares) / 32 - (1 - p)) <= 1 / 32 / 2**16
    assert max(shares) - min(shares) <= 1 / 2**16


def test_hardly_anything_is_dropped_where_p_is_tiny() -> None:
    for p, most in ((0.0, 0), (1e-12, 0), (1e-5, 40)):
        assert (draw_mask([1_000_000], p, torch.empty(0)) == 0).sum() <= most


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.3, 1 / 3, 0.7])
def test_the_share_that_is_kept_is_right(p: float) -> None:
    N = 100_000
    kept = draw_mask([N], p, torch.empty(0)).double()
    assert abs(kept.mean() - (1 - p)) < 5 * (p * (1 - p) / N) ** 0.5
    # Neighbours, of which four come from one number, know nothing of each other.
    for step in range(1, 6):
        both = (kept[step:] * kept[:-step]).mean()
        q = (1 - p) ** 2
        assert abs(both - q) < 5 * (3 * q / N) ** 0.5


@pytest.mark.parametrize("shape", [[], [0], [3, 0], [1], [7], [2, 3, 5]])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_masks_have_any_shape_and_type(shape: list[int], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    y = drop_and_scale(x, 0.3)
    assert y.shape == x.shape and y.dtype == dtype
    # What is kept is rounded once, also where numbers are coarse.
    scaled = torch.tensor(1 / 0.7, dtype=torch.float64).to(dtype)
    assert set(y.flatten().tolist()) <= {0.0, scaled.item()}


def test_a_seed_gives_a_mask_and_the_generator_moves_on() -> None:
    torch.manual_seed(3)
    first, second = (draw_mask([50], 0.5, torch.empty(0)) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, draw_mask([50], 0.5, torch.empty(0)))


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_masks_under_vmap(randomness: str) -> None:
    rows = torch.ones(2, 200)
    y = torch.vmap(lambda x: drop_and_scale(x, 0.5), randomness=randomness)(rows)
    assert torch.equal(y[0], y[1]) == (randomness == "same")
    assert abs((y != 0).double().mean() - 0.5) < 0.15


def test_a_mask_on_a_device_without_numbers() -> None:
    assert drop_and_scale(torch.ones(3, device="meta"), 0.5).device.type == "meta"
