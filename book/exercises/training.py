"""The exercises in code of the chapter on training, for `hlstm.exercises`."""

import math

import torch
from torch import nn

from hlstm.exercises import Exercise

decay = Exercise(
    "training.4",
    "No decay for biases",
    "A bias has one dimension, a matrix two. Make two groups, each a dictionary with params "
    "and weight_decay, so that each parameter is in one of them.",
    gradients=False,
)


@decay.inputs
def some_networks():
    yield ("LSTM",)
    yield ("Linear",)


@decay.probe
def decay_of_each(answer, kind):
    net = nn.LSTM(3, 2) if kind == "LSTM" else nn.Linear(3, 2)
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = {name: [] for name in names.values()}
    for group in torch.optim.AdamW(
        answer(net, 0.1), lr=0.01, weight_decay=0
    ).param_groups:
        for parameter in group["params"]:
            found[names[parameter]].append(group["weight_decay"])
    return found


@decay.solution
def groups(net, weight_decay):
    matrices = [p for p in net.parameters() if p.dim() > 1]
    biases = [p for p in net.parameters() if p.dim() == 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]


@decay.wrong(
    "The biases decay as well. A forget bias would be pulled to 0, and the memory made short."
)
def all_of_them(net, weight_decay):
    return [{"params": list(net.parameters()), "weight_decay": weight_decay}]


@decay.wrong(
    "The biases are in no group: the optimiser does not know them, and they never learn."
)
def left_out(net, weight_decay):
    return groups(net, weight_decay)[:1]


@decay.wrong("The two groups are exchanged: the matrices decay, the biases do not.")
def exchanged(net, weight_decay):
    matrices, biases = groups(net, weight_decay)
    return [
        matrices | {"weight_decay": 0.0},
        biases | {"weight_decay": weight_decay},
    ]


early = Exercise(
    "training.5",
    "Stop early",
    "Keep the best loss so far, and count the evaluations since it was found.",
    gradients=False,
)


@early.inputs
def some_histories():
    for losses in (
        [2.0, 1.8, 1.7, 1.75, 1.72, 1.71, 1.9],
        [2.0, 1.5, 1.6, 1.55, 1.5, 1.45, 1.4],
        [2.0, 1.9, 1.8],
        [2.0, 1.0, 1.2, 1.1, 1.05, 1.02, 1.01],
    ):
        yield losses, 3


@early.solution
def stop_at(losses, patience):
    best, waited = math.inf, 0
    for n, loss in enumerate(losses):
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            return n
    return len(losses) - 1


@early.wrong(
    "This compares with the evaluation before. A loss that falls again after a rise looks "
    "like progress, though it is above the best: compare with the best so far."
)
def with_the_last(losses, patience):
    waited = 0
    for n in range(1, len(losses)):
        waited = 0 if losses[n] < losses[n - 1] else waited + 1
        if waited == patience:
            return n
    return len(losses) - 1


@early.wrong(
    "That is the best evaluation. Training has to go on for some more before one knows that "
    "it was the best; its network is the one to keep."
)
def at_the_best(losses, patience):
    return min(range(len(losses)), key=losses.__getitem__)


@early.wrong("One evaluation too late: stop when the count reaches the patience.")
def one_late(losses, patience):
    return stop_at(losses, patience + 1)


@early.wrong(
    "The first rise ends the training. Patience lets some evaluations be no better."
)
def without_patience(losses, patience):
    return stop_at(losses, 1)


schedule = Exercise(
    "training.6",
    "Warm up, then cool",
    "Two cases. In the first the rate grows by equal parts and reaches peak in the last step. "
    "In the second, which share of the way down has step n gone?",
    gradients=False,
)


@schedule.inputs
def some_plans():
    for n in (0, 3, 4, 5, 12, 20):
        yield n, 1.0, 4, 20


@schedule.solution
def rate_at(n, peak, warm, end):
    if n < warm:
        return peak * (n + 1) / warm
    return peak / 2 * (1 + math.cos(math.pi * (n - warm) / (end - warm)))


@schedule.wrong(
    "The first step has the rate 0, and is taken for nothing: count steps from 1 while warming "
    "up, n + 1."
)
def from_zero(n, peak, warm, end):
    return peak * n / warm if n < warm else rate_at(n, peak, warm, end)


@schedule.wrong(
    "The cosine begins where the warm-up ends: its share is (n − warm) / (end − warm). Yours "
    "jumps there."
)
def whole_cosine(n, peak, warm, end):
    if n < warm:
        return rate_at(n, peak, warm, end)
    return peak / 2 * (1 + math.cos(math.pi * n / end))


@schedule.wrong(
    "The cosine runs from 1 to −1, so it needs 1 added and a half: the rate is never negative."
)
def negative(n, peak, warm, end):
    if n < warm:
        return rate_at(n, peak, warm, end)
    return peak * math.cos(math.pi * (n - warm) / (end - warm))


@schedule.wrong(
    "After the warm-up this falls in a line. The cosine stays high longer, and ends flat."
)
def straight(n, peak, warm, end):
    if n < warm:
        return rate_at(n, peak, warm, end)
    return peak * (end - n) / (end - warm)
