"""Each diagnosis fires on the broken run, and stays silent on the healthy one."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hlstm
from hlstm import doctor
from hlstm.doctor import Diagnosis, examine
from hlstm.gates import State
from hlstm.sampling import boltzmann
from hlstm.text import windows
from hlstm.training import History, TrainConfig, window_loss

TEXT = hlstm.load_corpus("shakespeare")[:12_000]
VOCAB = hlstm.Vocabulary.from_text(TEXT)
V = len(VOCAB)
CONFIG = TrainConfig(batch_size=8, sequence_length=24, steps=80, warmup_steps=5)


def fresh(**how: object) -> hlstm.DeepRNN:
    """A small network, the same each time."""
    torch.manual_seed(0)
    return hlstm.DeepRNN(VOCAB, 32, 1, **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def texts() -> tuple[Tensor, Tensor]:
    """What is learnt from, and what is held out."""
    return hlstm.train_val_split(VOCAB.encode(TEXT))


@pytest.fixture(scope="module")
def folder(
    texts: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a healthy run."""
    path = tmp_path_factory.mktemp("runs") / "healthy"
    hlstm.Trainer(fresh(), CONFIG, progress=False).fit(*texts, path)
    return path


@pytest.fixture(scope="module")
def net(folder: Path) -> hlstm.DeepRNN:
    """The healthy network."""
    return hlstm.load_run(folder)


def history(loss: list[float], **more: list[float]) -> History:
    """What a run measured, with usual gradients."""
    usual = {"grad_norm": [0.5] * len(loss), "learning_rate": [0.01] * len(loss)}
    return History(**{"loss": loss, **usual, **more})  # type: ignore[arg-type]


FALLING = [4 * math.exp(-k / 50) + 1 for k in range(100)]
HEALTHY = history(FALLING, val_step=[50, 100], val_loss=[2.5, 1.6])


def test_a_diagnosis_is_read_as_three_lines() -> None:
    assert str(Diagnosis("It hurts.", "a thorn", "Pull.")).splitlines() == [
        "It hurts.",
        "  found: a thorn",
        "  cure:  Pull.",
    ]


# It does not learn


def test_softmax(net: hlstm.DeepRNN) -> None:
    logits, _ = net(VOCAB.encode(TEXT[:30])[None])
    assert doctor.diagnose_softmax(logits) is None
    found = doctor.diagnose_softmax(logits.softmax(-1))
    assert found and f"{math.log(math.e + V - 1) - 1:.2f}" in found.finding


def test_logarithms_of_probabilities_are_logits_too(net: hlstm.DeepRNN) -> None:
    logits, _ = net(VOCAB.encode(TEXT[:30])[None])
    assert doctor.diagnose_softmax(logits.log_softmax(-1)) is None


@pytest.mark.parametrize("carry", [True, False])
def test_carried_state(net: hlstm.DeepRNN, carry: bool) -> None:
    states: list[State | None] = [None]

    @torch.no_grad()
    def read(window: Tensor) -> Tensor:
        logits, end = net(window, states[-1])
        states.append(end if carry else None)
        return logits

    one, two = VOCAB.encode(TEXT[:60]).view(2, 1, 30)
    assert (doctor.diagnose_carried_state(read, one, two) is None) == carry


def test_order() -> None:
    ordered = list(windows(VOCAB.encode(TEXT), 4, 16))
    assert doctor.diagnose_order(ordered) is None
    assert doctor.diagnose_order(ordered[::-1])
    assert doctor.diagnose_order(ordered[:1]) is None  # nothing to compare


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (3, 0, 1, 2), (1, 2, 3, 0)])
def test_gate_order(
    net: hlstm.DeepRNN, texts: tuple[Tensor, Tensor], order: tuple[int, ...]
) -> None:
    foreign = copy.deepcopy(net)
    with torch.no_grad():
        for p in foreign.lstm.parameters():
            p.copy_(torch.cat([p.chunk(4)[k] for k in order]))
    before = copy.deepcopy(foreign.state_dict())
    found = doctor.diagnose_gate_order(foreign, texts[0])
    assert found and ", ".join("ifgo"[k] for k in order) in found.cure
    assert all(torch.equal(t, before[k]) for k, t in foreign.state_dict().items())
    assert doctor.diagnose_gate_order(net, texts[0]) is None


@pytest.mark.parametrize("kind", [hlstm.LSTM, hlstm.LSTMCell, torch.nn.LSTM])
def test_forget_bias(kind: type[torch.nn.Module]) -> None:
    module = kind(3, 4)
    assert doctor.diagnose_forget_bias(hlstm.set_forget_bias_(module, 0.0), 30)
    found = doctor.diagnose_forget_bias(hlstm.set_forget_bias_(module, 0.0), 10)
    assert found and "0.50" in found.finding and "1e-03" in found.finding
    hlstm.set_forget_bias_(module, math.log(30))
    assert doctor.diagnose_forget_bias(module, 30) is None
    assert doctor.diagnose_forget_bias(torch.nn.Linear(2, 2), 30) is None


def test_the_lowest_forget_gate_in_a_stack_is_not_the_fault() -> None:
    """One layer that remembers is enough."""
    stack = hlstm.set_forget_bias_(hlstm.LSTM(3, 4, 2), 0.0)
    with torch.no_grad():
        stack.get_parameter("bias_ih_l1")[4:8] = 4.0
    assert doctor.diagnose_forget_bias(stack, 30) is None


def test_recurrent_dropout() -> None:
    cell = hlstm.LSTMCell(3, 16)
    x, state = torch.ones(1, 3), (torch.zeros(1, 16), torch.ones(1, 16))
    assert doctor.diagnose_recurrent_dropout(cell, x, state) is None
    found = doctor.diagnose_recurrent_dropout(
        lambda x, s: cell(x, (s[0], F.dropout(s[1], 0.5))), x, state
    )
    assert found


# It learns too well


def test_targets() -> None:
    ids = VOCAB.encode(TEXT[:401])
    x, y = ids[:-1].view(4, 100), ids[1:].view(4, 100)
    assert doctor.diagnose_targets(x, y) is None
    found = doctor.diagnose_targets(x, x)
    assert found and "inputs" in found.finding
    found = doctor.diagnose_targets(x[:, :-1], y[:, 1:])  # two ahead
    assert found and "%" in found.finding


def test_one_letter_again_and_again_is_ambiguous_and_found() -> None:
    same = torch.zeros(2, 9, dtype=torch.long)
    assert doctor.diagnose_targets(same, same)


def test_low_loss(texts: tuple[Tensor, Tensor]) -> None:
    assert doctor.diagnose_low_loss(0.05, *texts, V)
    assert doctor.diagnose_low_loss(2.0, *texts, V) is None
    assert doctor.diagnose_low_loss(math.inf, *texts, V) is None


def test_leak(texts: tuple[Tensor, Tensor]) -> None:
    train, val = texts
    assert doctor.diagnose_leak(train, val) is None
    assert doctor.diagnose_leak(train, train[1000:2000])
    found = doctor.diagnose_leak(train, torch.cat([val[:600], train[77:677]]))
    assert found and "50%" in found.finding
    assert doctor.diagnose_leak(train, val[:20]) is None  # too short to tell


def test_overfitting() -> None:
    assert doctor.diagnose_overfitting(HEALTHY) is None
    rising = replace(HEALTHY, val_step=[20, 50, 100], val_loss=[2.0, math.nan, 2.5])
    found = doctor.diagnose_overfitting(rising)
    assert found and "after step 20" in found.finding
    both = replace(rising, loss=FALLING[::-1])  # the training loss rises too
    assert doctor.diagnose_overfitting(both) is None
    assert doctor.diagnose_overfitting(history(FALLING)) is None


# It blows up


def test_undetached(net: hlstm.DeepRNN) -> None:
    x = VOCAB.encode(TEXT[:20])[None]
    _, state = net(x)
    longer = net(x, state)[1]
    assert doctor.diagnose_undetached(state)
    assert doctor.count_operations(longer[0]) > doctor.count_operations(state[0]) > 0
    assert doctor.diagnose_undetached([part.detach() for part in longer]) is None


def test_clipping() -> None:
    assert doctor.diagnose_clipping(HEALTHY, 1.0) is None
    spike = replace(HEALTHY, grad_norm=[0.5] * 99 + [40.0])
    found = doctor.diagnose_clipping(spike)
    assert found and "80 times" in found.finding and "max_norm=1," in found.cure
    assert doctor.diagnose_clipping(spike, 1.0) is None
    found = doctor.diagnose_clipping(HEALTHY, 0.1)
    assert found and "100%" in found.finding
    assert doctor.diagnose_clipping(history([1.0]), 1.0) is None  # too short to tell


def test_learning_rate() -> None:
    assert doctor.diagnose_learning_rate(HEALTHY) is None
    assert doctor.diagnose_learning_rate(history(FALLING + FALLING[::-1]))
    found = doctor.diagnose_learning_rate(history([4.1] * 100))
    assert found and "lowest is 4.10" in found.finding
    fine_tuned = history([1.3] * 100)
    assert doctor.diagnose_learning_rate(fine_tuned)
    assert doctor.diagnose_learning_rate(fine_tuned, V) is None
    noisy = [loss + 0.2 * (-1) ** k for k, loss in enumerate(FALLING)]
    assert doctor.diagnose_learning_rate(history(noisy)) is None
    spike = [*FALLING[:50], 9.0, *FALLING[50:]]  # one bad window
    assert doctor.diagnose_learning_rate(history(spike)) is None
    assert doctor.diagnose_learning_rate(history([])) is None
    assert doctor.diagnose_learning_rate(history([math.nan] * 40)) is None


def test_nan_is_found_where_it_began() -> None:
    x, y = VOCAB.encode(TEXT[:41])[None].split([40, 1], 1)
    net = fresh()
    loss = net(x)[0].mean()
    loss.backward()
    assert doctor.diagnose_nan(net, loss) is None and doctor.diagnose_nan(net) is None
    found = doctor.diagnose_nan(net, loss * math.nan)
    assert found and "all weights are finite" in found.finding
    assert net.head.weight.grad is not None
    net.head.weight.grad[0, 0] = math.inf
    found = doctor.diagnose_nan(net, loss)
    assert found and "head.weight" in found.finding and "gradient" in found.finding
    with torch.no_grad():
        net.lstm.get_parameter("weight_hh_l0")[0, :2] = math.nan
    found = doctor.diagnose_nan(net, loss * math.nan)
    assert found and "2 of the" in found.finding and "weight_hh_l0" in found.finding


def test_nonfinite() -> None:
    assert doctor.diagnose_nonfinite(HEALTHY) is None
    worse = replace(HEALTHY, val_loss=[math.inf, math.nan])
    found = doctor.diagnose_nonfinite(worse)
    assert found and "held-out loss is inf at step 50" in found.finding
    both = replace(worse, loss=[*FALLING[:10], math.nan, *FALLING[11:]])
    found = doctor.diagnose_nonfinite(both)
    assert found and "training loss is nan at step 11" in found.finding


# Good loss, bad text


def test_evaluation() -> None:
    net, ids = fresh(dropout_head=0.5), VOCAB.encode(TEXT[:20])
    assert doctor.diagnose_evaluation(net.train(), ids)
    assert doctor.diagnose_evaluation(net.eval(), ids[None]) is None
    assert not net.training


@pytest.mark.parametrize("tau", [0.5, 0.8, 1.0, 1.5])
def test_temperature(tau: float) -> None:
    assert doctor.diagnose_temperature(lambda z: boltzmann(z, tau), tau) is None
    found = doctor.diagnose_temperature(lambda z: boltzmann(z / tau, tau), tau)
    assert (found is None) == (tau == 1)
    assert found is None or "twice" in found.finding
    assert doctor.diagnose_temperature(lambda z: boltzmann(z * tau, 1), tau + 0.1)


def test_vocabulary(net: hlstm.DeepRNN) -> None:
    assert doctor.diagnose_vocabulary(net, TEXT) is None
    renamed = copy.deepcopy(net)
    renamed.vocab = hlstm.Vocabulary(VOCAB.symbols[::-1])
    assert doctor.diagnose_vocabulary(renamed, TEXT)
    found = doctor.diagnose_vocabulary(net, "Grüße")
    assert found and "'ßü'" in found.finding
    assert doctor.diagnose_vocabulary(fresh(), TEXT) is None  # untrained is not swapped


def test_sampler(net: hlstm.DeepRNN) -> None:
    own = net.generate_text(length=300, seed=5)
    assert doctor.diagnose_sampler(net, own) is None
    symbols = torch.randint(V, (300,), generator=torch.Generator().manual_seed(0))
    assert doctor.diagnose_sampler(net, VOCAB.decode(symbols))
    hot = net.generate_text(length=300, temperature=1.0, seed=5)
    assert doctor.diagnose_sampler(net, hot, 1.0) is None


def test_loop() -> None:
    assert doctor.diagnose_loop(TEXT[:500]) is None
    found = doctor.diagnose_loop(TEXT[:100] + "and the sea " * 4)
    assert found and "4 times" in found.finding
    assert doctor.diagnose_loop(TEXT[:100] + "e" * 40)
    assert doctor.diagnose_loop("hm" + "." * 10) is None  # three dots are no loop
    assert doctor.diagnose_loop("and the sea " * 2) is None
    assert doctor.diagnose_loop("") is None


@pytest.mark.parametrize("start", range(0, 40, 7))
def test_memorised(start: int) -> None:
    copied = "q" * start + TEXT[1000:1060] + "q" * 50
    found = doctor.diagnose_memorised(copied, TEXT)
    assert found and found.finding.startswith("60 ")
    shorter = "q" * start + TEXT[1000:1059] + "q" * 50
    assert doctor.diagnose_memorised(shorter, TEXT) is None
    assert doctor.diagnose_memorised("", TEXT) is None


# A run's folder


def test_start() -> None:
    assert doctor.diagnose_start(math.log(V) + 0.2, V) is None
    high, low = doctor.diagnose_start(9.0, V), doctor.diagnose_start(1.0, V)
    assert high and low and high.cure != low.cure


@pytest.mark.parametrize("tied", [False, True])
def test_gates(tied: bool) -> None:
    torch.manual_seed(0)
    net, ids = hlstm.DeepRNN(VOCAB, 16, 2, tied=tied), VOCAB.encode(TEXT[:400])
    assert doctor.diagnose_gates(net, ids) is None
    stuck = copy.deepcopy(net)
    with torch.no_grad():
        stuck.lstm.get_parameter("bias_ih_l1")[:] = 50.0
    found = doctor.diagnose_gates(stuck, ids)
    assert found and "layer 1, 100%" in found.finding
    with torch.no_grad():  # output gates shut: nothing leaves layer 0
        net.lstm.get_parameter("bias_ih_l0")[-16:] = -50.0
    found = doctor.diagnose_gates(net, ids)
    assert found and "layer 0" in found.finding and "100% of the units" in found.finding


def test_a_healthy_run_has_no_finding(
    folder: Path, texts: tuple[Tensor, Tensor]
) -> None:
    assert examine(folder) == []
    assert examine(folder, [VOCAB.decode(t) for t in texts]) == []
    assert examine(str(folder), [VOCAB.decode(texts[0])]) == []


def test_a_broken_run_is_told_by_its_folder(
    tmp_path: Path, texts: tuple[Tensor, Tensor]
) -> None:
    """Far too fast, and judged by a part of what it learns from."""
    train = texts[0][:2000]
    config = replace(CONFIG, learning_rate=3.0, batch_size=4)
    hlstm.Trainer(fresh(), config, progress=False).fit(train, train[-800:], tmp_path)
    given = [VOCAB.decode(t) for t in (train, train[-800:])]
    symptoms = {each.symptom for each in examine(tmp_path, given)}
    assert "The training loss rises, or does not fall." in symptoms
    assert "The held-out loss is as low as the training loss." in symptoms
    without = {each.symptom for each in examine(tmp_path)}
    assert "The held-out loss is as low as the training loss." not in without


def test_unknown_characters_are_told_and_the_rest_is_read(
    folder: Path, texts: tuple[Tensor, Tensor]
) -> None:
    found = examine(folder, ["äöü" + VOCAB.decode(texts[0]), "äöü"])
    assert [each.symptom for each in found] == ["The text has unknown characters."]


def test_a_run_that_has_not_begun_is_examined_too(
    tmp_path: Path, texts: tuple[Tensor, Tensor]
) -> None:
    class Stop:
        def on_fit_start(self, trainer: hlstm.Trainer) -> None:
            trainer.stop("at once")

    net = fresh()
    trainer = hlstm.Trainer(net, CONFIG, callbacks=[Stop()], progress=False)
    trainer.fit(*texts, tmp_path)
    assert isinstance(examine(tmp_path), list)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        examine(tmp_path)


def test_the_loss_of_the_gallery_is_bounded_as_it_says() -> None:
    """A perfect answer after two softmaxes costs ln(e + V − 1) − 1."""
    perfect = F.one_hot(torch.tensor([[0]]), V).float()
    loss = window_loss(perfect, torch.tensor([[0]]))
    assert math.isclose(loss.item(), math.log(math.e + V - 1) - 1, rel_tol=1e-6)
