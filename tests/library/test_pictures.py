"""What the chapter Inside leaves out of its figures: what they show is what they return."""

import math
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import hlstm
from hlstm import inspect, pictures
from hlstm.checks import InvalidTypeError, InvalidValueError

TEXT = "ab.\n\nBA:\nab ba, a bb.\nba a.\n\nAB:\nb, aa: ab.\n"
VOCAB = hlstm.Vocabulary.from_text(TEXT)


def network(seed: int = 0, **options: Any) -> hlstm.DeepRNN:
    """A small untrained network whose weights are large enough to matter."""
    torch.manual_seed(seed)
    net = hlstm.DeepRNN(VOCAB, **({"hidden_size": 5, "num_layers": 2} | options))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return net


@pytest.fixture
def nets() -> dict[str, hlstm.DeepRNN]:
    """A network, and another beside it."""
    return {"mine": network(), "other": network(1)}


@pytest.fixture
def ax() -> Any:
    """Axes of a figure that nobody shows."""
    return Figure().add_subplot()


def lines(ax: Any) -> dict[str, np.ndarray]:
    """What the lines of axes show, by their labels, (2, N) each."""
    return {line.get_label(): np.stack(line.get_data()) for line in ax.lines}


def test_a_strip_shows_gates_and_states(ax: Any) -> None:
    net = network()
    gates, (h, c) = inspect.gates_over_text(net, TEXT)
    rows = pictures.draw_gates(net, TEXT, 1, 3, ax)
    parts = (*gates, c.tanh(), h)
    assert rows.equal(torch.stack([part[1, :, 3] for part in parts]))
    assert (torch.tensor(ax.images[0].get_array()) == rows).all()
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        *TEXT.replace("\n", "¶").replace(" ", "␣")
    ]
    assert ax.images[0].colorbar.ax.get_ylabel() == "activation"


def test_a_square_shows_connectivity(ax: Any) -> None:
    net = network()
    square = pictures.draw_connectivity(net, TEXT[:9], ax)
    assert square.equal(inspect.connectivity(net, TEXT[:9]))
    shown = torch.tensor(ax.images[0].get_array().filled(torch.nan))
    wanted = square.where(square > 0, torch.nan)
    assert torch.allclose(10**shown, wanted, equal_nan=True)


def test_a_text_is_broken_into_rows(ax: Any) -> None:
    net, text = network(), "abab\nab\nabababa"
    values = pictures.draw_unit(net, text, 0, 2, ax, width=4)
    _, c = inspect.states_over_text(net, text)
    assert values.equal(c[0, :, 2].tanh())
    page = ax.images[0].get_array()
    words = {tuple(reversed(each.get_position())): each.get_text() for each in ax.texts}
    rows = ["abab", "¶", "ab¶", "abab", "aba"]
    wanted = {(y, x): s for y, row in enumerate(rows) for x, s in enumerate(row)}
    assert words == wanted and page.shape == (5, 4)
    place = [*wanted].index((3, 1))
    assert math.isclose(page[3, 1], values[place], rel_tol=1e-6)


def test_marks_show_saturation(nets: dict[str, hlstm.DeepRNN]) -> None:
    axes = Figure().subplots(1, 3)
    found = pictures.draw_saturation(nets, TEXT, axes)
    for name, net in nets.items():
        for gate, shares in inspect.saturation(net, TEXT).items():
            assert found[name][gate].equal(shares)
    shut, opened = found["mine"]["f"][:, 1]
    assert np.array_equal(
        lines(axes[1])["layer 1"], torch.stack([opened, shut]).numpy()
    )
    shut, opened = found["other"]["f"][:, 0]
    assert np.array_equal(lines(axes[1])["other"], torch.stack([opened, shut]).numpy())


def test_lines_show_timescales(nets: dict[str, hlstm.DeepRNN]) -> None:
    axes = Figure().subplots(1, 2)
    found = pictures.draw_timescales(nets, TEXT, axes)
    for name, net in nets.items():
        assert found[name].equal(inspect.timescales(net, TEXT))
    for k, panel in enumerate(axes):
        shown = lines(panel)
        both = np.concatenate([shown["others"], shown["full"]], 1)
        assert np.allclose(np.sort(both[1]), found["mine"][k].sort().values)
        assert np.allclose(shown["other"][1], found["other"][k].sort().values)


def test_lines_show_medians_by_distance(
    nets: dict[str, hlstm.DeepRNN], ax: Any
) -> None:
    found = pictures.draw_distances(nets, TEXT * 4, 5, 7, ax=ax)
    for name, net in nets.items():
        wanted = inspect.connectivity_by_distance(net, TEXT * 4, 5, 7)
        assert found[name].equal(wanted)
        shown = lines(ax)[name]
        assert shown[0].tolist() == [1, 2, 3, 4, 5]
        assert np.allclose(shown[1], wanted.median(0).values)


def test_marks_show_the_size_of_changes(
    nets: dict[str, hlstm.DeepRNN], ax: Any
) -> None:
    found = pictures.draw_change(nets, TEXT * 4, 5, 7, ax=ax)
    for name, net in nets.items():
        wanted = inspect.loss_after_change(net, TEXT * 4, 5, 7)
        assert found[name].equal(wanted)
        assert np.allclose(lines(ax)[name][1], wanted.abs().mean(0))


def test_marks_show_probes(nets: dict[str, hlstm.DeepRNN], ax: Any) -> None:
    text = TEXT * 3
    targets = inspect.text_labels(text)
    found = pictures.draw_probes(nets, text, targets, window=2, ax=ax)
    assert set(found) == {"mine", "other", "window"}
    for name, net in nets.items():
        wanted = inspect.probe_layers(net, text, targets)
        for k in range(2):
            shown = lines(ax)[f"layer {k}, {name}"]
            scores = [wanted[target][k] for target in targets]
            assert np.allclose(shown[0], scores, equal_nan=True)
    bars = [bar.get_width() for bar in ax.patches]
    near = inspect.probe_window(nets["mine"], text, 2, targets)
    assert np.allclose(bars, [*near.values()], equal_nan=True)
    assert [label.get_text() for label in ax.get_yticklabels()] == [*targets]


def test_lines_show_how_long_a_beginning_is_known(
    nets: dict[str, hlstm.DeepRNN], ax: Any
) -> None:
    found = pictures.draw_beginnings(nets, "AB", [TEXT] * 16, (1, 3), ax=ax)
    for name, net in nets.items():
        wanted = inspect.memory_of_beginnings(net, "AB", [TEXT] * 16, (1, 3))
        assert found[name].equal(wanted)
        for k in range(2):
            shown = lines(ax)[f"layer {k}, {name}"]
            assert shown[0].tolist() == [1, 3]
            assert np.allclose(shown[1], wanted[:, k])


def test_one_call_draws_a_network_of_ones_own() -> None:
    """Every figure of the chapter, of a network of one layer, on axes of its own."""
    mpl.use("svg")
    import matplotlib.pyplot as plt

    net, text = network(num_layers=1), TEXT * 4
    calls = (
        lambda: pictures.draw_gates(net, "ab"),
        lambda: pictures.draw_unit(net, "ab"),
        lambda: pictures.draw_connectivity(net, "ab a"),
        lambda: pictures.draw_saturation(net, text),
        lambda: pictures.draw_timescales(net, text),
        lambda: pictures.draw_distances(net, text, 3, 2),
        lambda: pictures.draw_change(net, text, 3, 2),
        lambda: pictures.draw_probes(net, text),
        lambda: pictures.draw_beginnings(net, "AB", [TEXT] * 8, (1, 2)),
    )
    for call in calls:
        before = len(plt.get_fignums())
        found = call()
        assert len(plt.get_fignums()) == before + 1
        assert not isinstance(found, dict) or "network" in found
        plt.close("all")


def test_a_figure_without_matplotlib_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(InvalidValueError, match="pip install matplotlib"):
        pictures.draw_connectivity(network(), "ab")


def test_what_cannot_be_drawn_is_refused(ax: Any) -> None:
    net = network()
    with pytest.raises(InvalidValueError, match="^layer"):
        pictures.draw_gates(net, TEXT, layer=2)
    with pytest.raises(InvalidValueError, match="^unit"):
        pictures.draw_unit(net, TEXT, 0, 5)
    with pytest.raises(InvalidValueError, match="^width"):
        pictures.draw_unit(net, TEXT, 0, 0, None, 0)
    with pytest.raises(InvalidValueError, match="needs 3 axes, and got 1"):
        pictures.draw_saturation(net, TEXT, ax)
    with pytest.raises(InvalidTypeError, match="net is a DeepRNN, and got a Linear"):
        pictures.draw_saturation({"mine": torch.nn.Linear(2, 2)}, TEXT)  # type: ignore[dict-item]
