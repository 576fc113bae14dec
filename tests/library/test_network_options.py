"""What DeepRNN may be told: what is dropped, a tied head, and where training starts."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hlstm
from hlstm import sampling
from hlstm.checks import InvalidIndexError, InvalidTypeError, InvalidValueError
from hlstm.files import CheckpointError, save_tensors
from hlstm.network import is_as_written, network_shapes

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
VOCAB = hlstm.Vocabulary("abcdefg\n")
V, H, L = len(VOCAB), 6, 2
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "dropout": {"dropout": 0.5},
    "dropout before the head": {"dropout_head": 0.5},
    "dropout between": {"dropout": 0.5, "dropout_head": 0.0},
    "weight drop": {"weight_drop": 0.4},
    "locked": {"dropout": 0.5, "locked": True},
    "tied": {"tied": True},
    "all": {
        "dropout": 0.2,
        "dropout_head": 0.3,
        "weight_drop": 0.4,
        "locked": True,
        "tied": True,
        "column_bound": 2.0,
        "forget_bias": 3.0,
        "engine": "reference",
    },
}
SAID = pytest.mark.parametrize("name", OPTIONS)


def network(name: str = "nothing", layers: int = L, **more: Any) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(VOCAB, H, layers, **OPTIONS[name], **more).double()


def some_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


# Where training starts


def test_columns_are_drawn_from_the_bound() -> None:
    for bound in (1.0, 0.01, 7):
        net = hlstm.DeepRNN(VOCAB, 64, column_bound=bound)
        columns = net.lstm.get_parameter("weight_ih_l0")
        assert columns.abs().max() <= bound and columns.abs().max() > 0.9 * bound
        assert abs(columns.std() * math.sqrt(3) / bound - 1) < 0.1
        for name, p in net.named_parameters():
            if "weight" in name and name != "lstm.weight_ih_l0":
                assert 0.9 / 8 < p.abs().max() <= 1 / 8, name
    default = hlstm.DeepRNN(VOCAB, 64).lstm.get_parameter("weight_ih_l0")
    assert 1.5 < default.abs().max() <= 1.7


def test_without_a_bound_weights_are_those_of_torch() -> None:
    torch.manual_seed(0)
    net = hlstm.DeepRNN(VOCAB, H, 2, column_bound=None, forget_bias=0.0)
    torch.manual_seed(0)
    lstm, head = nn.LSTM(V, H, 2, batch_first=True), nn.Linear(H, V)
    for name, p in lstm.named_parameters():
        mine = net.lstm.get_parameter(name)
        if name.startswith("bias"):  # the forget biases are set
            assert not mine[H : 2 * H].any()
            rest = [k for k in range(4 * H) if not H <= k < 2 * H]
            assert torch.equal(mine[rest], p[rest])
        else:
            assert torch.equal(mine, p)
    assert torch.equal(net.head.weight, head.weight)


@pytest.mark.parametrize("bias", [1.0, 0.0, -2, 2.5])
def test_forget_biases_start_where_they_are_told_to(bias: float) -> None:
    lstm = hlstm.DeepRNN(VOCAB, H, forget_bias=bias).lstm
    for k in range(2):
        _, _, summed = lstm.layer_weights(k)
        assert summed is not None
        torch.testing.assert_close(summed[H : 2 * H], torch.full((H,), float(bias)))


WRONG = [
    ({"dropout_head": 1.5}, InvalidValueError, "dropout_head is a number from 0 to 1,"),
    ({"dropout_head": "0"}, InvalidTypeError, "dropout_head is a number from 0 to 1,"),
    ({"weight_drop": -1}, InvalidValueError, "weight_drop is a number from 0 to 1,"),
    ({"locked": 1}, InvalidTypeError, "locked is True or False, and got 1, a int"),
    ({"tied": None}, InvalidTypeError, "tied is True or False, and got None"),
    (
        {"column_bound": 0},
        InvalidValueError,
        "column_bound is a number above 0, and got",
    ),
    ({"column_bound": math.inf}, InvalidValueError, "column_bound is a number above 0"),
    ({"column_bound": True}, InvalidTypeError, "column_bound is a number above 0, and"),
    (
        {"forget_bias": math.nan},
        InvalidValueError,
        "forget_bias is a number, and got nan",
    ),
    ({"forget_bias": None}, InvalidTypeError, "forget_bias is a number, and got None"),
]


@pytest.mark.parametrize(("options", "kind", "words"), WRONG)
def test_what_is_no_option_is_named(
    options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        hlstm.DeepRNN(VOCAB, H, **options)


# What is dropped


def test_where_dropout_is() -> None:
    for layers in (1, 2):
        net = network("dropout", layers)
        assert (net.lstm.dropout, net.dropout.p) == (0.5 if layers > 1 else 0.0, 0.5)
    net = network("dropout between")
    assert (net.lstm.dropout, net.dropout.p) == (0.5, 0.0)
    net = network("dropout before the head")
    assert (net.lstm.dropout, net.dropout.p) == (0.0, 0.5)
    net = network("locked")
    assert net.lstm.locked and net.dropout.shared_dim == 1


@SAID
def test_options_for_training_change_no_evaluation(name: str) -> None:
    net = network(name).eval()
    plain = hlstm.DeepRNN(VOCAB, H, L, tied=net.tied).double().eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(some_ids(2, 5)), plain(some_ids(2, 5)), **CLOSE)


def test_a_locked_mask_before_the_head_is_the_same_at_each_step() -> None:
    net = network("locked")
    seen: list[Tensor] = []
    net.dropout.register_forward_hook(lambda part, given, made: seen.append(made))
    net(some_ids(9, 7))
    kept = seen[0] != 0  # (B, T, H)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert 0 < kept[:, 0].double().mean() < 1


@SAID
def test_copies_are_the_network(name: str) -> None:
    net, ids = network(name), some_ids(2, 5)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert str(twin) == str(net) and twin.describe() == net.describe()
        logits = []
        for one in (net, twin):
            torch.manual_seed(2)
            logits.append(one(ids)[0])
        assert torch.equal(*logits)


def test_compile_captures_a_network_with_all_options() -> None:
    net, ids = network("all"), some_ids(2, 3)
    torch._dynamo.reset()
    compiled: Any = torch.compile(net, backend="aot_eager", fullgraph=True)
    logits, _ = compiled(ids)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(compiled.eval()(ids), net.eval()(ids), **CLOSE)


@SAID
def test_autocast_learns(name: str) -> None:
    net, ids = network(name).float(), some_ids(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits, (h, c) = net(ids)
    F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
    for p in net.parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32
        assert p.grad.isfinite().all()
    exact = net.eval()(ids)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(ids)[0].float(), exact, rtol=0, atol=0.1)


# A tied head


def untied(net: hlstm.DeepRNN) -> hlstm.DeepRNN:
    """The network whose columns are those of a tied one."""
    plain = hlstm.DeepRNN(VOCAB, H, net.lstm.num_layers).double()
    weights = net.state_dict()
    columns = weights["lstm.weight_ih_l0"] @ weights["head.weight"].T
    plain.load_state_dict(weights | {"lstm.weight_ih_l0": columns})
    return plain


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("engine", ["auto", "reference", "torch"])
def test_a_tied_network_is_one_with_other_columns(engine: str, layers: int) -> None:
    net = network("tied", layers, engine=engine)
    plain, ids = untied(net), some_ids(3, 9)
    assert net.lstm.get_parameter("weight_ih_l0").shape == (4 * H, H)
    state = None
    for part in ids.split(4, dim=1):
        logits, after = net(part, state)
        expected, after_plain = plain(part, state)
        torch.testing.assert_close(logits, expected, **CLOSE)
        torch.testing.assert_close(after, after_plain, **CLOSE)
        state = after
    for one in (net, plain):
        one(ids)[0].sin().sum().backward()
    columns = plain.lstm.get_parameter("weight_ih_l0").grad
    by_head = plain.head.weight.grad
    assert columns is not None and by_head is not None
    weight = net.lstm.get_parameter("weight_ih_l0")
    head, inward = net.head.weight.grad, weight.grad
    torch.testing.assert_close(head, by_head + columns.T @ weight, **CLOSE)
    torch.testing.assert_close(inward, columns @ net.head.weight, **CLOSE)


def test_a_tied_network_refuses_as_any_other() -> None:
    net = network("tied")
    for wrong in (-1, V):
        with pytest.raises(InvalidIndexError, match=f"outside 0 … {V - 1}"):
            net(torch.tensor([[0, wrong]]))
    with pytest.raises(InvalidValueError, match=r"ids is \(B, T\) int64"):
        net(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        net(torch.zeros(2, 0, dtype=torch.long))
    logits, _ = net(torch.zeros(0, 3, dtype=torch.long))
    assert logits.shape == (0, 3, V)


@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_of_a_tied_network(layers: int) -> None:
    net = network("tied", layers)
    found = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert found == network_shapes(V, H, layers, tied=True)
    assert found != network_shapes(V, H, layers)


# Files


@SAID
def test_every_option_comes_back(name: str, tmp_path: Path) -> None:
    net, path = network(name), tmp_path / "net"
    net.save(path)
    again = hlstm.load_model(path)
    assert again.describe() == net.describe()
    assert str(again) == str(net.eval()) and again.tied == net.tied
    torch.testing.assert_close(again(some_ids(2, 5)), net(some_ids(2, 5)), **CLOSE)
    torch.manual_seed(3)
    logits = net.train()(some_ids(2, 5))[0]
    torch.manual_seed(3)
    assert torch.equal(again.train()(some_ids(2, 5))[0], logits)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@SAID
def test_every_option_comes_back_rounded(name: str, tmp_path: Path) -> None:
    net, path = network(name), tmp_path / "net"
    hlstm.save_int8(net, path)
    again = hlstm.load_int8(path)
    assert again.describe() == net.describe() and str(again) == str(net.eval())
    ids = some_ids(2, 5)
    torch.testing.assert_close(again(ids)[0], net(ids)[0], rtol=0, atol=0.05)


def test_where_training_starts_is_in_no_file() -> None:
    net = hlstm.DeepRNN(VOCAB, H, column_bound=3.0, forget_bias=2.0)
    assert net.describe() == hlstm.DeepRNN(VOCAB, H).describe()


NEW = ("weight_drop", "locked", "tied")


def test_a_file_of_before_lacks_the_new_words(tmp_path: Path) -> None:
    net, path = network("dropout"), tmp_path / "net"
    said = net.describe()
    assert set(NEW) < set(said)
    for name in NEW:
        del said[name]
    save_tensors(path, net.state_dict(), said)
    again = hlstm.load_model(path)
    assert again.describe() == net.describe()


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"weight_drop": 2.0}, "says weight_drop is 2.0, and it is a number in"),
        ({"weight_drop": None}, "says weight_drop is None, and it is a number in"),
        ({"locked": 1}, "says locked is 1, and it is true or false"),
        ({"tied": "no"}, "says tied is 'no', and it is true or false"),
        ({"tied": True}, r"has lstm.weight_ih_l0 of shape \(24, 8\), not \(24, 6\)"),
    ],
)
def test_a_description_that_lies_is_refused(
    claim: dict[str, Any], words: str, tmp_path: Path
) -> None:
    net, path = network(), tmp_path / "net"
    save_tensors(path, net.state_dict(), net.describe() | claim)
    with pytest.raises(CheckpointError, match=words):
        hlstm.load_model(path)


def tie(net: hlstm.DeepRNN) -> None:
    net.tied = True


def lock(net: hlstm.DeepRNN) -> None:
    net.lstm.locked = 1  # type: ignore[assignment]


def drop_more(net: hlstm.DeepRNN) -> None:
    net.lstm.weight_drop = 1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tie, "not those of a DeepRNN of these sizes: .'lstm.weight_ih_l0'"),
        (lock, "locked is True or False, and got 1"),
        (drop_more, "weight_drop is a number from 0 to 1, and got 1.5"),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(
    change: Any, words: str, tmp_path: Path
) -> None:
    net = network()
    change(net)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=words):
        net.save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


GREEDY = "ROMEO:\nWhat should be so much a man and the strange to the world\nTh"


def test_the_network_of_the_package_writes_as_ever() -> None:
    """At each step the likeliest character is far ahead of the next, on any machine."""
    net = hlstm.load_pretrained()
    assert not net.tied and net.lstm.weight_drop == 0 and not net.lstm.locked
    text = net.generate_text("ROMEO:\n", 60, temperature=0.0)
    assert text == GREEDY
    logits = net(net.vocab.encode(text)[None])[0][0, 6:-1]
    first, second = logits.topk(2).values.T
    assert (first - second).min() > 1e-3


# Texts


def by_calling(net: hlstm.DeepRNN, prompt: str, length: int) -> str:
    """Write the likeliest characters by calling the network, and nothing else."""
    text = prompt
    with torch.no_grad():
        for _ in range(length):
            logits, _ = net.eval()(VOCAB.encode(text)[None])
            text += VOCAB.symbols[int(logits[0, -1].argmax())]
    return text


@SAID
def test_a_text_is_that_of_the_plain_loop(name: str) -> None:
    net = network(name)
    written = net.generate_text("abc", 15, temperature=0.0)
    assert net.training and written == by_calling(net, "abc", 15)
    drawn = []
    for engine in ("reference", "auto"):
        net.lstm.engine = engine
        drawn.append(net.generate_text(["abc", "g"], 40, 1.3, seed=4))
    assert drawn[0] == drawn[1]


@SAID
@pytest.mark.parametrize("training", [True, False])
def test_the_writer_scores_as_the_network(name: str, training: bool) -> None:
    net, ids = network(name), some_ids(3, 12)
    net.lstm.engine = "auto"
    assert is_as_written(net)
    logits, _ = net.eval()(ids)
    _, state = net(ids[:, :4])
    writer = net.train(training).writer(state)
    if writer is None:
        pytest.skip("there is no compiled code here")
    for t in range(4, 12):
        writer.write(ids[:, t], torch.zeros(1, 3, dtype=torch.float64))
        torch.testing.assert_close(writer.logits, logits[:, t], rtol=0, atol=1e-11)


def test_methods_are_the_functions_of_sampling() -> None:
    net = network()
    how: dict[str, Any] = {"length": 30, "temperature": 1.2, "seed": 1, "min_p": 0.01}
    several = net.generate_text("ab", num_samples=3, with_prompt=False, stop="g", **how)
    assert isinstance(several, list) and len(several) == 3
    assert several == sampling.generate_text(
        net, "ab", num_samples=3, with_prompt=False, stop="g", **how
    )
    streamed = "".join(net.stream_text("ab", **how))
    assert "ab" + streamed == net.generate_text("ab", **how)
    scores = net.score(streamed, "ab")
    ids = VOCAB.encode("ab" + streamed)
    log_p = net.eval()(ids[None])[0][0].log_softmax(-1)
    expected = log_p[1:-1].gather(-1, ids[2:, None])[:, 0]
    torch.testing.assert_close(scores, expected, **CLOSE)
    assert scores.dtype == torch.float64
