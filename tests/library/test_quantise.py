"""Weights of one byte, beyond the cases that the supplement to chapter 10 prints."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hlstm

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
ROWS = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1)
)


@given(ROWS)
def test_no_weight_moves_by_more_than_half_its_scale(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    values, scale = hlstm.quantise_rows(weight)
    assert values.dtype == torch.int8 and scale.dtype == torch.float32
    assert int(values.min()) >= -127
    exact = values.double() * scale.double()[:, None]
    # The smallest float32 is the scale's own rounding error where weights are as small.
    slack = scale.double() * (0.5 + 1e-5) + 127 * 1.5e-45
    assert ((exact - weight.double()).abs().amax(1) <= slack).all()


def test_the_largest_weight_of_a_row_is_127_or_the_row_is_zero() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 9) * torch.logspace(-30, 30, 50)[:, None]
    weight[7] = 0
    values, scale = hlstm.quantise_rows(weight)
    largest = values.abs().amax(1)
    assert (largest == 127).sum() == 49 and largest[7] == 0 and scale[7] == 0


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3), r"\(3,\)"),
        (torch.zeros(2, 0), r"\(2, 0\)"),
        (torch.zeros(2, 2, dtype=torch.long), "int64"),
        (torch.tensor([[1.0, torch.nan]]), "1 numbers that are not finite"),
        (torch.tensor([[1e300, -1e300]], dtype=torch.float64), "2 numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(
    weight: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hlstm.quantise_rows(weight)


def network(layers: int = 2) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(hlstm.Vocabulary("\n abc—"), hidden_size=5, num_layers=layers)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_network_comes_back_rounded(tmp_path: Path, layers: int) -> None:
    net, path = network(layers).train(), tmp_path / "net.safetensors"
    hlstm.save_int8(net, path)
    back = hlstm.load_int8(path)
    assert back.vocab == net.vocab and not back.training and net.training
    for name, tensor in net.state_dict().items():
        rounded = tensor
        if tensor.dim() == 2:
            rounded = hlstm.dequantise_rows(hlstm.quantise_rows(tensor))
            assert not torch.equal(rounded, tensor)
        assert torch.equal(back.state_dict()[name], rounded), name


def test_rounding_twice_changes_nothing(tmp_path: Path) -> None:
    for name in "ab":
        net = hlstm.load_int8(tmp_path / "a") if name == "b" else network()
        hlstm.save_int8(net, tmp_path / name)
    first, second = (hlstm.load_int8(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.allclose(first[k], second[k], rtol=1e-6, atol=0) for k in first)


@pytest.mark.parametrize("how", ["empty", "text", "cut", "whole", "no scale"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "net.safetensors"
    hlstm.save_int8(network(), path)
    content = path.read_bytes()
    if how == "whole":
        network().save(path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"ROMEO:\n" * 99,
                "cut": content[:-9],
                "no scale": content.replace(b"head.weight.scale", b"head.weight.smale"),
            }[how]
        )
    with pytest.raises(hlstm.CheckpointError, match=r"net\.safetensors"):
        hlstm.load_int8(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.load_int8(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hlstm.save_int8(network(), tmp_path / "nowhere" / "net")


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net"
    hlstm.save_int8(network(), path)
    content = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        hlstm.save_int8(network(), path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_load_model_names_the_function_that_reads_the_file(tmp_path: Path) -> None:
    hlstm.save_int8(network(), tmp_path / "net")
    with pytest.raises(hlstm.CheckpointError, match="read it with hlstm.load_int8"):
        hlstm.load_model(tmp_path / "net")


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.head.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        hlstm.save_int8(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_the_pretrained_network_fits_into_a_megabyte(tmp_path: Path) -> None:
    net, path = hlstm.load_pretrained("shakespeare"), tmp_path / "net"
    hlstm.save_int8(net, path)
    assert path.stat().st_size <= 1_000_000
    ids = net.vocab.encode(hlstm.load_corpus("shakespeare")[-20_000:])
    cost = hlstm.evaluate(hlstm.load_int8(path), ids) - hlstm.evaluate(net, ids)
    assert abs(cost) < 0.01
