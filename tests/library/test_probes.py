"""What the chapter Inside leaves out: labels by hand, correlations and least squares by NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hlstm.checks import HlstmError
from hlstm.probes import (
    RIDGES,
    best_units,
    checked,
    correlation,
    probe,
    text_labels,
)

TEXT = 'The end.\n\nMARIA:\nAy, "I (do)" so.\nNo: no.\n\nSIR TOBY:\nO!\n'


@given(st.text('aB :\n"()', min_size=1, max_size=40))
def test_labels_are_what_one_sees_looking_back(text: str) -> None:
    labels = text_labels(text)
    wanted: dict[str, list[float]] = {name: [] for name in labels}
    for t in range(len(text)):
        past = text[: t + 1]
        word = len(past) - len(past.rstrip("aB"))
        # A name is open from a blank line, or the start, to the next colon.
        opened = past.rfind("\n\n") + 2 if "\n\n" in past else 0
        colon = past.find(":", opened)
        if opened == t + 1:
            colon = -1
        ends, start = [], 0
        while (end := past.find(":", start)) >= 0:
            ends.append(end)
            blank = past.find("\n\n", end)
            if blank < 0:
                break
            start = blank + 2
        seen = {
            "position in line": t - past.rfind("\n"),
            "position in word": word,
            "in a name": colon < 0,
            "capital": past[-1].isupper(),
            "word in capitals": word > 1 and past[-word:].isupper(),
            "since the name": t - ends[-1] if ends else t + 1,
            "in quotes": past.count('"') % 2 == 1,
        }
        for name in wanted:
            wanted[name].append(float(seen.get(name, math.nan)))
    for name in wanted.keys() - {"in brackets"}:
        assert labels[name].tolist() == wanted[name], name


def test_brackets_are_counted() -> None:
    assert text_labels("a)(b[c])d")["in brackets"].int().tolist() == [
        *(0, 0, 1, 1, 1, 1, 1, 0, 0)
    ]


def test_labels_that_never_change_are_left_out() -> None:
    assert set(text_labels("aaa")) == {
        *("position in line", "since the name", "position in word")
    }
    assert text_labels("") == {}
    assert len(text_labels(TEXT)) == 8


def test_correlation_is_numpys() -> None:
    torch.manual_seed(0)
    values, label = torch.randn(2, 50, 3).double(), torch.randn(50).double()
    values[0, :, 1] = 7  # the same everywhere
    ours = correlation(values, label)
    for k in range(2):
        for u in range(3):
            if (k, u) == (0, 1):
                assert ours[k, u] == 0
            else:
                both = np.corrcoef(values[k, :, u].numpy(), label.numpy())
                assert math.isclose(ours[k, u], both[0, 1], abs_tol=1e-12)


def test_one_half_chooses_and_the_other_judges() -> None:
    torch.manual_seed(0)
    label = torch.randn(400)
    values = 0.1 * torch.randn(1, 400, 3)
    values[0, :, 0] += 0.1 * label
    values[0, :200, 1] -= label[:200]  # follows best, but in the first half only
    values[0, 200:, 2] += label[200:]
    (found,) = best_units(values, label)
    assert found.layer == 0 and found.unit == 1
    assert found.found < -0.9 and abs(found.held) < 0.3


def test_labels_that_were_shuffled_are_not_followed() -> None:
    torch.manual_seed(0)
    values, label = torch.randn(2, 4000, 50), torch.randn(4000)
    assert all(abs(unit.held) < 0.1 for unit in best_units(values, label))


def test_a_probe_reads_what_is_a_weighted_sum_and_nothing_else() -> None:
    torch.manual_seed(0)
    features = torch.randn(4000, 5)
    number = features @ torch.tensor([1.0, -2, 0, 0.5, 3]) + 4
    targets = {
        "sum": number,
        "sign": features[:, 0] > 0,
        "class": features[:, :3].argmax(1),
        "product": features[:, 0] * features[:, 1],
        "noise": torch.randn(4000),
        "constant": torch.ones(4000),
    }
    scores = probe(features, targets)
    assert scores["sum"] > 0.999
    # A sign has a correlation of √(2/π) with its number.
    assert abs(scores["sign"] - 2 / math.pi) < 0.05
    assert 0.3 < scores["class"] < 0.7
    assert abs(scores["product"]) < 0.05 and abs(scores["noise"]) < 0.05
    assert math.isnan(scores["constant"])


def test_a_probe_is_ridge_regression_with_the_ridge_that_is_best_elsewhere() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(80, 30).double(), torch.randn(80).double()
    y += x[:, 0]
    turn = torch.arange(80) % 4
    first, quarter, last = turn < 2, turn == 2, turn == 3
    X = (x - x[first].mean(0)).numpy()
    X /= np.sqrt((X[first] ** 2).mean())
    Y = (y - y[first].mean()).numpy()

    def r_squared(ridge: float, part: Tensor) -> float:
        w = np.linalg.solve(
            X[first].T @ X[first] / 40 + ridge * np.eye(30), X[first].T @ Y[first] / 40
        )
        left = ((Y[part] - X[part] @ w) ** 2).sum()
        return float(1 - left / (Y[part] ** 2).sum())

    best = max(RIDGES, key=lambda ridge: r_squared(ridge, quarter))
    assert RIDGES[0] < best < RIDGES[-1]
    assert abs(probe(x, {"y": y})["y"] - r_squared(best, last)) < 1e-3


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(HlstmError, match=r"'y' has the shape \(3,\), .* 9"):
        probe(torch.zeros(9, 2), {"y": torch.zeros(3)})
    with pytest.raises(HlstmError, match="at least 8 places, and got 7"):
        probe(torch.zeros(7, 2), {"y": torch.zeros(7)})
    with pytest.raises(HlstmError, match="one entry for each"):
        checked({"y": torch.zeros(4, 1)}, 4)
