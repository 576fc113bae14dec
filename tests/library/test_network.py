"""Training and sampling with a small network on real text."""

from functools import cache

import pytest
import torch

import hlstm


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
    with pytest.raises(hlstm.TrainingError, match="step 1 of 3: the loss is"):
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
    ngram = (
        -hlstm.ngrams.witten_bell(train_ids, val_ids, len(net.vocab), 6)[-1]
        .log()
        .mean()
    )
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
