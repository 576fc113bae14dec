"""Every part of a network is called: hooks fire, and what works through them holds."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import hlstm
from hlstm.engine import can_write

VOCAB = hlstm.Vocabulary("abcdefg")
V, H, L = len(VOCAB), 6, 2
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
# Where a part lies in a network.
PLACES: dict[str, Callable[[hlstm.DeepRNN], nn.Module]] = {
    "net": lambda net: net,
    "net.lstm": lambda net: net.lstm,
    "net.dropout": lambda net: net.dropout,
    "net.head": lambda net: net.head,
}
ENGINES = ["auto", "reference"]


def network(engine: str = "auto", **options: Any) -> hlstm.DeepRNN:
    torch.manual_seed(0)
    # A weight norm divides by the norm of a part, which must not be zero.
    options = {"forget_bias": 1.0} | options
    return hlstm.DeepRNN(VOCAB, H, L, engine=engine, **options).double()


def some_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


# Hooks


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", PLACES)
def test_hooks_fire_once_a_call(place: str, engine: str) -> None:
    net, calls = network(engine), []
    part = PLACES[place](net)
    part.register_forward_pre_hook(lambda module, given: calls.append("before"))
    part.register_forward_hook(lambda module, given, made: calls.append("after"))
    net(some_ids(2, 5))
    assert calls == ["before", "after"]
    calls.clear()
    net.generate_text("abc", 4, seed=0)
    assert calls == ["before", "after"] * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recorder_sees_what_each_part_makes(engine: str) -> None:
    net, seen = network(engine), {}
    for place, part in PLACES.items():
        part(net).register_forward_hook(
            lambda module, given, made, place=place: seen.update({place: (given, made)})
        )
    ids = some_ids(2, 5)
    logits, (h, c) = net(ids)
    assert seen["net"][0][0] is ids and seen["net.lstm"][0][0] is ids
    assert seen["net"][1][0] is logits and seen["net.head"][1] is logits
    output, state = seen["net.lstm"][1]
    assert output.shape == (2, 5, H) and state[0] is h and state[1] is c
    assert seen["net.dropout"][0][0] is output
    torch.testing.assert_close(output[:, -1], h[-1], **CLOSE)
    torch.testing.assert_close(net.head(output), logits, **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hook_may_change_what_a_part_makes(engine: str) -> None:
    ids, net = some_ids(2, 5), network(engine)
    plain, _ = net(ids)
    text = net.generate_text("a", 20, temperature=0.0)
    with net.head.register_forward_hook(lambda module, given, made: -made):
        torch.testing.assert_close(net(ids)[0], -plain, **CLOSE)
        assert net.generate_text("a", 20, temperature=0.0) != text
    with net.lstm.register_forward_hook(
        lambda module, given, made: (torch.zeros_like(made[0]), made[1])
    ):
        assert torch.equal(net(ids)[0], net.head.bias.expand(2, 5, V))
        likeliest = VOCAB.symbols[int(net.head.bias.argmax())]
        assert net.generate_text("a", 5, temperature=0.0) == "a" + 5 * likeliest
    assert net.generate_text("a", 20, temperature=0.0) == text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pre_hook_may_change_what_a_part_reads(engine: str) -> None:
    net, ids = network(engine), some_ids(2, 5)
    shifted = (ids + 1) % V
    expected, _ = net(shifted)
    text = net.generate_text("b", 1, temperature=0.0)
    net.lstm.register_forward_pre_hook(
        lambda module, given: ((given[0] + 1) % V, *given[1:])
    )
    torch.testing.assert_close(net(ids)[0], expected, **CLOSE)
    assert net.generate_text("a", 1, temperature=0.0)[1:] == text[1:]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", ["net.lstm", "net.head"])
def test_backward_hooks_fire(place: str, engine: str) -> None:
    net, shapes = network(engine), []

    def record(module: nn.Module, by_input: Any, by_output: Any) -> None:
        shapes.append(tuple(by_output[0].shape))

    PLACES[place](net).register_full_backward_hook(record)
    with warnings.catch_warnings():  # characters have no gradient, and PyTorch says so
        warnings.simplefilter("ignore")
        net(some_ids(2, 5))[0].sum().backward()
    assert shapes == [(2, 5, V if "head" in place else H)]


@pytest.fixture
def everywhere() -> Iterator[list[str]]:
    """Names of the modules that a global hook has seen."""
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, made: seen.append(type(module).__name__)
    )
    yield seen
    handle.remove()


def test_global_hooks_fire(everywhere: list[str]) -> None:
    network().generate_text("abc", 3, seed=0)
    assert everywhere == ["LSTM", "InvertedDropout", "Linear", "DeepRNN"] * 3


# What works through hooks and parametrizations: two steps of training, and a text


def prune_part(part: nn.Module, name: str) -> None:
    prune.random_unstructured(part, name, amount=0.5)


def old_weight_norm(part: nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(part, name)


def old_spectral_norm(part: nn.Module, name: str) -> None:
    nn.utils.spectral_norm(part, name)


def new_weight_norm(part: nn.Module, name: str) -> None:
    parametrizations.weight_norm(part, name)


def new_spectral_norm(part: nn.Module, name: str) -> None:
    parametrizations.spectral_norm(part, name)


class Halved(nn.Module):
    """Make half of a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the half."""
        return 0.5 * weight


def own_parametrization(part: nn.Module, name: str) -> None:
    parametrize.register_parametrization(part, name, Halved())


CHANGES = [
    prune_part,
    old_weight_norm,
    old_spectral_norm,
    new_weight_norm,
    new_spectral_norm,
    own_parametrization,
]
WEIGHTS = [
    ("net.lstm", "weight_hh_l0"),
    ("net.lstm", "weight_ih_l1"),
    ("net.lstm", "bias_ih_l0"),
    ("net.head", "weight"),
]


class Theirs(nn.Module):
    """The same network, of PyTorch's parts and one-hot vectors."""

    def __init__(self, net: hlstm.DeepRNN) -> None:
        super().__init__()
        self.lstm = nn.LSTM(V, H, L, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(H, V, dtype=torch.float64)
        self.load_state_dict(net.state_dict())

    def forward(self, ids: Tensor) -> tuple[Tensor, Any]:
        """Return logits and state."""
        output, state = self.lstm(nn.functional.one_hot(ids, V).double())
        return self.head(output), state


def two_steps(net: nn.Module) -> list[Tensor]:
    """The losses of two steps, and all parameters and gradients after them."""
    ids = some_ids(3, 9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        logits, _ = net(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = dict(sorted(net.named_parameters()))
    grads = [p.grad for p in found.values() if p.grad is not None]
    assert len(grads) == len(found)
    return [*losses, *(p.detach() for p in found.values()), *grads]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("place", "name"), WEIGHTS)
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_train_as_in_torch(
    change: Callable[[nn.Module, str], None], place: str, name: str, engine: str
) -> None:
    if "spectral" in change.__name__ and name.startswith("bias"):
        pytest.skip("a vector has no spectral norm")
    net = network(engine)
    theirs = Theirs(net)
    for whole in (net, theirs):
        torch.manual_seed(2)
        change(whole.lstm if place == "net.lstm" else whole.head, name)
        # A spectral norm changes at each reading while it trains, and nn.LSTM reads often.
        whole.train(change is not new_spectral_norm)
    torch.testing.assert_close(two_steps(net), two_steps(theirs), **CLOSE)


@pytest.mark.parametrize(("place", "name"), WEIGHTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_text_is_written_with_changed_weights(
    change: Callable[[nn.Module, str], None], place: str, name: str
) -> None:
    if "spectral" in change.__name__ and name.startswith("bias"):
        pytest.skip("a vector has no spectral norm")
    net, plain = network(), network()
    change(PLACES[place](net), name)
    state = net(some_ids(1, 3))[1]
    assert net.writer(state) is None
    net.eval()(some_ids(1, 3))
    # The weight as it is used, in a network without hooks.
    used = getattr(PLACES[place](net), name)
    with torch.no_grad():
        getattr(PLACES[place](plain), name).copy_(used)
    options: dict[str, Any] = {"length": 40, "temperature": 1.5, "seed": 3}
    assert net.generate_text("abc", **options) == plain.generate_text("abc", **options)


class Counted(nn.Module):
    """Count how often a weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight."""
        self.count += 1
        return weight


@pytest.mark.parametrize(("place", "name"), WEIGHTS)
def test_a_weight_is_read_once_a_call(place: str, name: str) -> None:
    net, counted = network(), Counted()
    parametrize.register_parametrization(PLACES[place](net), name, counted)
    counted.count = 0
    net(some_ids(2, 5))
    assert counted.count == 1


def test_pruned_weights_stay_pruned() -> None:
    net = network()
    prune_part(net.lstm, "weight_hh_l0")
    two_steps(net)
    mask = net.lstm.get_buffer("weight_hh_l0_mask")
    weight = net.lstm.get_parameter("weight_hh_l0_orig")
    assert weight.grad is not None and not weight.grad[mask == 0].any()
    assert weight.grad[mask == 1].any()
    prune.remove(net.lstm, "weight_hh_l0")
    assert not net.lstm.get_parameter("weight_hh_l0")[mask == 0].any()


# The compiled writer steps back wherever calling the network would do otherwise


class Turned(hlstm.LSTM):
    """A subclass that computes something else."""

    def forward(self, input: Any, hx: Any = None, *, embedding: Any = None) -> Any:
        """Turn the output round."""
        output, state = super().forward(input, hx, embedding=embedding)
        return -3 * output, state


class Wilder(hlstm.DeepRNN):
    """A subclass that computes something else."""

    def forward(self, ids: Tensor, state: Any = None) -> Any:
        """Turn the logits round."""
        logits, state = super().forward(ids, state)
        return -logits, state


def turned(net: hlstm.DeepRNN) -> None:
    lstm = Turned(V, H, L, batch_first=True, dtype=torch.float64)
    lstm.load_state_dict(net.lstm.state_dict())
    net.lstm = lstm


def negated(net: hlstm.DeepRNN) -> None:
    forward = net.forward
    net.forward = lambda ids, state=None: (  # type: ignore[method-assign]
        -forward(ids, state)[0],
        forward(ids, state)[1],
    )


def patched_head(net: hlstm.DeepRNN) -> None:
    forward = net.head.forward
    net.head.forward = lambda input: -forward(input)  # type: ignore[method-assign]


def patched_weights(net: hlstm.DeepRNN) -> None:
    weights = net.lstm.layer_weights
    net.lstm.layer_weights = lambda k: (  # type: ignore[method-assign]
        -9 * weights(k)[0],
        weights(k)[1],
        weights(k)[2],
    )


def deeper_head(net: hlstm.DeepRNN) -> None:
    net.head = nn.Sequential(net.head, nn.Softmin(-1))  # type: ignore[assignment]


def wilder(net: hlstm.DeepRNN) -> None:
    net.__class__ = Wilder


def scaled_dropout(net: hlstm.DeepRNN) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -3 * x

    net.dropout = Scaled()  # type: ignore[assignment]


OTHERWISE = [
    turned,
    negated,
    patched_head,
    patched_weights,
    deeper_head,
    wilder,
    scaled_dropout,
]


def step_by_step(net: hlstm.DeepRNN, prompt: str, length: int) -> str:
    """Write the likeliest characters by calling the network, and nothing else."""
    text = prompt
    with torch.no_grad():
        for _ in range(length):
            logits, _ = net(VOCAB.encode(text)[None])
            text += VOCAB.symbols[int(logits[0, -1].argmax())]
    return text


@pytest.mark.parametrize("change", OTHERWISE)
def test_a_changed_network_writes_what_it_computes(
    change: Callable[[hlstm.DeepRNN], None],
) -> None:
    net = network().eval()
    plain = net.generate_text("abc", 20, temperature=0.0)
    assert plain == step_by_step(net, "abc", 20)
    change(net)
    assert net.writer(net(some_ids(1, 3))[1]) is None
    text = net.generate_text("abc", 20, temperature=0.0)
    assert text == step_by_step(net, "abc", 20)
    assert text != plain


def test_a_class_that_was_patched_writes_what_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network().eval()
    plain = net.generate_text("abc", 20, temperature=0.0)
    forward = hlstm.DeepRNN.forward
    monkeypatch.setattr(
        hlstm.DeepRNN,
        "forward",
        lambda self, ids, state=None: (-forward(self, ids, state)[0], state),
    )
    h = torch.zeros(L, 1, H, dtype=torch.float64)
    assert net.writer((h, h)) is None
    text = net.generate_text("abc", 1, temperature=0.0)
    assert text == step_by_step(net, "abc", 1) != plain[:4]


def test_global_hooks_change_a_text(everywhere: list[str]) -> None:
    net = network()
    assert net.writer(net(some_ids(1, 3))[1]) is None


def test_autocast_keeps_its_own_arithmetic() -> None:
    net = network().float()
    state = net(some_ids(1, 3))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net.writer(state) is None


def test_a_head_without_bias_writes_on() -> None:
    net = network()
    net.head = nn.Linear(H, V, bias=False, dtype=torch.float64)
    assert net.generate_text("abc", 20, 0.0) == step_by_step(net, "abc", 20)


def test_a_stack_without_biases_writes_on() -> None:
    net = network()
    net.lstm = hlstm.LSTM(V, H, L, bias=False, batch_first=True, dtype=torch.float64)
    assert net.generate_text("abc", 20, 0.0) == step_by_step(net, "abc", 20)


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_another_engine_writes_by_itself(engine: str) -> None:
    net = network(engine)
    assert net.writer(net(some_ids(1, 3))[1]) is None
    assert net.generate_text("abc", 20, 0.0) == step_by_step(net, "abc", 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_unchanged_network_has_a_writer(dtype: torch.dtype) -> None:
    net = network().to(dtype)
    state = net(some_ids(1, 3))[1]
    layers = [net.lstm.layer_weights(k) for k in range(L)]
    able = can_write(layers, (net.head.weight, net.head.bias))
    assert (net.writer(state) is not None) == able
    # Hooks that were taken away again change nothing.
    net.lstm.register_forward_hook(lambda module, given, made: None).remove()
    assert (net.writer(state) is not None) == able
