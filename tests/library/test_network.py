"""A network whole: training and writing on real text, what a file holds, other defaults."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import hlstm
from hlstm.checks import InvalidValueError
from hlstm.layer import layer_shapes
from hlstm.network import network_shapes
from hlstm.ngrams import witten_bell
from hlstm.training import TrainingError


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return vocabulary().encode(hlstm.load_corpus("shakespeare")[:40_000])


@cache
def vocabulary() -> hlstm.Vocabulary:
    return hlstm.Vocabulary.from_text(hlstm.load_corpus("shakespeare"))


def network(dropout: float = 0.0) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(vocabulary(), hidden_size=16, num_layers=2, dropout=dropout)


def test_training_learns_and_repeats_itself(ids: torch.Tensor) -> None:
    config = hlstm.TrainConfig(batch_size=8, sequence_length=16, steps=80)
    runs = []
    for _ in range(2):
        net = network()
        before = hlstm.evaluate(net, ids[-4000:])
        history = hlstm.Trainer(net, config, progress=False).fit(
            ids[:-4000], ids[-4000:]
        )
        assert history.val_loss[-1] < before - 0.8
        runs.append(history)
    assert runs[0].loss == runs[1].loss
    assert runs[0].val_loss == runs[1].val_loss


def test_training_passes_the_end_of_a_short_text(ids: torch.Tensor) -> None:
    config = hlstm.TrainConfig(batch_size=4, sequence_length=16, steps=40)
    history = hlstm.Trainer(network(), config, progress=False).fit(ids[:500])
    assert len(history.loss) == 40
    assert history.loss[-1] < history.loss[0]


def test_evaluation_does_not_depend_on_the_window(ids: torch.Tensor) -> None:
    net = network(dropout=0.5).train()
    net.head.eval()
    modes = [module.training for module in net.modules()]
    losses = [hlstm.evaluate(net, ids[:3000], 4, T) for T in (7, 100, 5000)]
    assert max(losses) - min(losses) < 1e-5
    assert [module.training for module in net.modules()] == modes


def test_a_text_too_short_for_the_batch_is_refused(ids: torch.Tensor) -> None:
    trainer = hlstm.Trainer(network(), hlstm.TrainConfig(batch_size=32), progress=False)
    with pytest.raises(ValueError, match="train_ids has 40 characters"):
        trainer.fit(ids[:40])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights(
    ids: torch.Tensor, poison: float
) -> None:
    net = network()
    with torch.no_grad():
        net.head.bias[3] = poison
    before = {k: v.clone() for k, v in net.state_dict().items()}
    config = hlstm.TrainConfig(batch_size=4, sequence_length=8, steps=3)
    with pytest.raises(TrainingError, match="step 1 of 3: the loss is"):
        hlstm.Trainer(net, config, progress=False).fit(ids)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) or name == "head.bias"


def test_an_unknown_pretrained_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="shakespeare"):
        hlstm.load_pretrained("marlowe")


def test_the_pretrained_network_beats_the_best_ngram() -> None:
    net = hlstm.load_pretrained("shakespeare")
    ids = net.vocab.encode(hlstm.load_corpus("shakespeare"))
    train_ids, val_ids = hlstm.train_val_split(ids)
    val_ids = val_ids[:100_000]
    ngram = -witten_bell(train_ids, val_ids, len(net.vocab), 6)[-1].log().mean()
    assert hlstm.evaluate(net, val_ids) < float(ngram)


def test_text_at_moderate_temperature_reads_like_a_play() -> None:
    corpus = hlstm.load_corpus("shakespeare")
    known = set(corpus.lower().replace("\n", " ").split(" "))
    text = hlstm.load_pretrained().generate_text("ROMEO:\n", 2000, 0.8, seed=1)
    words = text.lower().split()
    assert sum(word in known for word in words) / len(words) > 0.85
    speakers = [
        line for line in text.split("\n") if line.endswith(":") and line.isupper()
    ]
    assert len(speakers) >= 3
    assert max(map(len, text.split("\n"))) < 120


# What a file says of a network, and what it cannot say


SMALL = hlstm.Vocabulary("abcde")


def small(dropout: float = 0.0, layers: int = 2, **options: Any) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    return hlstm.DeepRNN(SMALL, 4, layers, dropout, **options)


def without_biases(net: hlstm.DeepRNN) -> None:
    net.lstm = hlstm.LSTM(5, 4, 2, bias=False, batch_first=True)


def without_head_bias(net: hlstm.DeepRNN) -> None:
    net.head = nn.Linear(4, 5, bias=False)


def shared_mask(net: hlstm.DeepRNN) -> None:
    net.dropout = hlstm.InvertedDropout(0.25, shared_dim=1)


def dropout_apart(net: hlstm.DeepRNN) -> None:
    net.dropout.p, net.lstm.dropout = 0.25, 0.5


def plain_loop(net: hlstm.DeepRNN) -> None:
    net.lstm.engine = "reference"


def frozen(net: hlstm.DeepRNN) -> None:
    net.lstm.requires_grad_(False)


DESCRIBED: list[Callable[[hlstm.DeepRNN], None]] = [
    lambda net: None,
    without_biases,
    without_head_bias,
    shared_mask,
    dropout_apart,
    plain_loop,
    frozen,
]


@pytest.mark.parametrize("change", DESCRIBED)
def test_what_is_saved_is_loaded(
    change: Callable[[hlstm.DeepRNN], None], tmp_path: Path
) -> None:
    net = small()
    change(net)
    net.save(tmp_path / "net.safetensors")
    loaded = hlstm.load_model(tmp_path / "net.safetensors")
    assert loaded.describe() == net.describe() == json.loads(json.dumps(net.describe()))
    weights, ours = loaded.state_dict(), net.state_dict()
    assert list(weights) == list(ours)
    for name, tensor in ours.items():
        assert torch.equal(weights[name], tensor)
    assert str(loaded) == str(net.eval())
    ids = torch.randint(5, (2, 6))
    torch.testing.assert_close(loaded(ids), net(ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_a_file_keeps_the_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    net = small().to(dtype)
    net.save(tmp_path / "net.safetensors")
    loaded = hlstm.load_model(tmp_path / "net.safetensors")
    for a, b in zip(net.parameters(), loaded.parameters(), strict=True):
        assert a.dtype == b.dtype == dtype and torch.equal(a, b)


def plain_dropout(net: hlstm.DeepRNN) -> None:
    net.dropout = nn.Dropout(0.5)  # type: ignore[assignment]


def other_head(net: hlstm.DeepRNN) -> None:
    net.head = nn.Sequential(nn.Linear(4, 5))  # type: ignore[assignment]


def other_stack(net: hlstm.DeepRNN) -> None:
    net.lstm = nn.LSTM(5, 4, 2, batch_first=True)  # type: ignore[assignment]


def no_head(net: hlstm.DeepRNN) -> None:
    del net.head


def time_first(net: hlstm.DeepRNN) -> None:
    net.lstm.batch_first = False


def wider_head(net: hlstm.DeepRNN) -> None:
    net.head = nn.Linear(4, 6)


def other_module(net: hlstm.DeepRNN) -> None:
    net.extra = nn.Linear(1, 1)


def pruned(net: hlstm.DeepRNN) -> None:
    prune.random_unstructured(net.head, "weight", amount=0.5)


def normed(net: hlstm.DeepRNN) -> None:
    parametrizations.weight_norm(net.lstm, "weight_hh_l0")


def not_a_number(net: hlstm.DeepRNN) -> None:
    nn.init.constant_(net.head.bias, float("nan"))


def complex_weights(net: hlstm.DeepRNN) -> None:
    net.head.to(torch.complex64)


def tied(net: hlstm.DeepRNN) -> None:
    net.lstm.weight_hh_l1 = net.lstm.weight_hh_l0


def without_numbers(net: hlstm.DeepRNN) -> None:
    net.to("meta")


def impossible_dropout(net: hlstm.DeepRNN) -> None:
    net.dropout.p = 1.5


NOT_DESCRIBED: dict[Callable[[hlstm.DeepRNN], None], str] = {
    plain_dropout: "net.dropout is .*.Dropout, and a file .*.InvertedDropout",
    other_head: "net.head is .*.Sequential, and a file .*.Linear",
    other_stack: "net.lstm is torch.*.LSTM, and a file describes hlstm.stack.LSTM",
    no_head: "net.head is builtins.NoneType",
    time_first: "net.lstm has batch_first=False",
    wider_head: r"not those of a DeepRNN of these sizes: \['head.weight', 'head.bias'\]",
    other_module: r"of these sizes: \['extra.weight', 'extra.bias'\]",
    pruned: r"\['head.weight', 'head.weight_orig', 'head.weight_mask'\]; make pruning",
    normed: "net.lstm is .*.ParametrizedLSTM, .* make parametrizations permanent",
    not_a_number: "head.bias has numbers that are not finite",
    complex_weights: "head.weight is torch.complex64, not floating point",
    tied: "share memory, as tied layers do",
    without_numbers: "no numbers",
    impossible_dropout: "net.dropout.p is a number from 0 to 1, and got 1.5",
}


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("change", NOT_DESCRIBED)
def test_what_cannot_be_loaded_is_not_saved(
    change: Callable[[hlstm.DeepRNN], None], tmp_path: Path
) -> None:
    net, path = small(), tmp_path / "net.safetensors"
    small().save(path)
    before = path.read_bytes()
    change(net)
    with pytest.raises(InvalidValueError, match=NOT_DESCRIBED[change]):
        net.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_is_made_permanent_is_saved(tmp_path: Path) -> None:
    net = small()
    pruned(net)
    normed(net)
    prune.remove(net.head, "weight")
    nn.utils.parametrize.remove_parametrizations(net.lstm, "weight_hh_l0")
    net.save(tmp_path / "net.safetensors")
    loaded = hlstm.load_model(tmp_path / "net.safetensors")
    assert (loaded.head.weight == 0).sum() == 10


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_shapes_are_those_of_the_network(layers: int, bias: bool) -> None:
    net = small(layers=layers)
    if not bias:
        net.lstm = hlstm.LSTM(5, 4, layers, bias=False, batch_first=True)
        without_head_bias(net)
    found = [(name, tuple(p.shape)) for name, p in net.named_parameters()]
    assert list(network_shapes(5, 4, layers, bias, bias).items()) == found
    assert len(layer_shapes(5, 4, layers, bias)) == len(found) - 1 - bias


def test_a_subclass_is_saved_by_its_parts(tmp_path: Path) -> None:
    class Mine(hlstm.DeepRNN):
        """A network with a method more."""

    Mine(SMALL, 4).save(tmp_path / "net.safetensors")
    assert type(hlstm.load_model(tmp_path / "net.safetensors")) is hlstm.DeepRNN


# Other defaults of PyTorch


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """New tensors are made on the device without numbers."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def learn(net: hlstm.DeepRNN, ids: torch.Tensor) -> list[torch.Tensor]:
    """Two steps of training; the losses, and all weights after them."""
    optimizer, losses, state = torch.optim.SGD(net.parameters(), lr=0.5), [], None
    for _ in range(2):
        logits, state = net(ids[:, :-1], state)
        state = (state[0].detach(), state[1].detach())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(p.detach().clone() for p in net.parameters())]


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_network_computes_where_its_weights_are(
    engine: str, request: pytest.FixtureRequest
) -> None:
    nets = [small(0.5, engine=engine) for _ in range(2)]
    ids, learnt, texts = torch.randint(5, (3, 9)), [], []
    for net in nets:
        torch.manual_seed(1)
        learnt.append(learn(net, ids))
        texts.append(net.generate_text("abc", 30, seed=0))
        request.getfixturevalue("elsewhere")
    assert texts[0] == texts[1]
    assert {t.device.type for t in learnt[1]} == {"cpu"}
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


def test_a_network_is_made_on_the_default_device(elsewhere: None) -> None:
    net = small()
    assert {p.device.type for p in net.parameters()} == {"meta"}
    logits, (h, c) = net(torch.zeros(2, 6, dtype=torch.long))
    assert logits.shape == (2, 6, 5) and logits.device.type == h.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_network_has_the_default_dtype(engine: str, dtype: torch.dtype) -> None:
    plain, ids = small(engine=engine), torch.randint(5, (3, 9))
    torch.set_default_dtype(dtype)
    try:
        net = small(engine=engine)
        assert {p.dtype for p in net.parameters()} == {dtype}
        logits, (h, c) = net(ids)
        assert {t.dtype for t in (logits, h, c)} == {dtype}
        logits.float().sum().backward()
        assert len(net.generate_text("abc", 30, seed=0)) == 33
        # A network in float32 goes on as before.
        learn(plain, ids)
        assert len(plain.generate_text("abc", 30, seed=0)) == 33
        assert {p.dtype for p in plain.parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
