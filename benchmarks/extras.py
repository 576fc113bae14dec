"""Ideas that were tried and are no option of the library, as hooks on its network.

A hook leaves the network a plain `hlstm.DeepRNN`, which is kept and resumed like any other;
after `Trainer.resume` the hooks are hung up again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hlstm
from hlstm.dropout import drop_and_scale
from hlstm.gates import State, gate_activations, update_state
from hlstm.layer import pick_columns
from hlstm.text import windows


def drop_characters(net: hlstm.DeepRNN, p: float) -> None:
    """Drop whole input characters while learning: such a one adds a column of zeros."""

    def hook(lstm: nn.Module, args: tuple[Tensor, Any]) -> tuple[Tensor, Any] | None:
        if not lstm.training:
            return None
        ids, state = args
        kept = drop_and_scale(torch.ones(*ids.shape, 1, device=ids.device), p)
        return hlstm.one_hot(ids, len(net.vocab)) * kept, state

    net.lstm.register_forward_pre_hook(hook)


def zoneout_step(
    a: Tensor, state: State, weight_hh: Tensor, p: float, training: bool
) -> State:
    """Take a step in which each unit keeps its old h and c with probability p."""
    h, c = state
    gates = gate_activations(torch.addmm(a, h, weight_hh.T))
    new_h, new_c = update_state(gates, c)
    new = h.new_full((2, *h.shape), 1 - p)
    new = new.bernoulli() if training else new
    return torch.lerp(h, new_h, new[0]), torch.lerp(c, new_c, new[1])


def zoneout(net: hlstm.DeepRNN, p: float) -> None:
    """Let units keep old values, after Krueger et al. (2017).

    In evaluation the old value counts p, the new 1 − p: this is no plain LSTM. The loop
    over time is in Python, and slow.
    """

    def hook(
        lstm: hlstm.LSTM, args: tuple[Tensor, State | None], _: object
    ) -> tuple[Tensor, State]:
        x, hx = args
        ends = []
        for k in range(lstm.num_layers):
            weight_ih, weight_hh, bias = lstm.layer_weights(k)
            if k == 0:
                a_in = pick_columns(x, weight_ih, bias)
            else:
                x = drop_and_scale(x, lstm.dropout) if lstm.training else x
                a_in = F.linear(x, weight_ih, bias)
            zeros = a_in.new_zeros(len(x), lstm.hidden_size)
            state = (zeros, zeros) if hx is None else (hx[0][k], hx[1][k])
            hidden = []
            for a in a_in.unbind(1):
                state = zoneout_step(a, state, weight_hh, p, lstm.training)
                hidden.append(state[0])
            x = torch.stack(hidden, 1)
            ends.append(state)
        h, c = (torch.stack(parts) for parts in zip(*ends, strict=True))
        return x, (h, c)

    net.lstm.register_forward_hook(hook)


def smooth_labels(net: hlstm.DeepRNN, epsilon: float) -> None:
    """Learn targets of which a share ε goes to all symbols alike.

    The gradient of the cross-entropy at the logits is (p − y) / N over N characters, that
    of the smoothed one (p − (1 − ε) y − ε / V) / N: what has to be added to 1 − ε of the
    first knows no target. So the loss that is reported stays the plain one.
    """

    def hook(_: nn.Module, __: object, output: tuple[Tensor, State]) -> None:
        logits = output[0]
        if not logits.requires_grad:
            return
        p, count = logits.detach().softmax(-1), logits[..., 0].numel()
        added = epsilon * (p - 1 / p.shape[-1]) / count
        logits.register_hook(lambda gradient: (1 - epsilon) * gradient + added)

    net.register_forward_hook(hook)


HOOKS: dict[str, Callable[[hlstm.DeepRNN, float], None]] = {
    "drop_characters": drop_characters,
    "zoneout": zoneout,
    "label_smoothing": smooth_labels,
}


def hang_up(net: hlstm.DeepRNN, extras: Mapping[str, Any]) -> None:
    """Hang up the hooks that a recipe's extras ask for."""
    for name, hook in HOOKS.items():
        if extras.get(name):
            hook(net, extras[name])


def unshifted_windows(
    ids: Tensor, config: hlstm.TrainConfig, epoch: int = 0, window: int = 0
) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """Walk a text as `hlstm.training.training_windows`, each pass from its first character."""
    while True:
        each = windows(ids, config.batch_size, config.sequence_length)
        for k, (inputs, targets) in enumerate(each):
            if k >= window:
                yield inputs, targets, epoch, k
        epoch, window = epoch + 1, 0


class FixedOffsets(hlstm.Trainer):
    """A trainer whose passes all start at the first character."""

    def fit(self, *texts: Any) -> hlstm.training.History:
        """Train; see `hlstm.Trainer.fit`."""
        with mock.patch.object(hlstm.trainer, "training_windows", unshifted_windows):
            return super().fit(*texts)


def trainer_for(extras: Mapping[str, Any]) -> type[hlstm.Trainer]:
    """Return the kind of trainer that a recipe's extras ask for."""
    return FixedOffsets if extras.get("fixed_offsets") else hlstm.Trainer
