"""The exercises in code of the chapter on the network, for `hlstm.exercises`."""

import torch
from torch.nn import functional as F

from hlstm.exercises import Exercise

size = Exercise(
    "network.3",
    "Parameters of a network",
    "A layer has 4H rows in each of its two matrices, and two biases of 4H. How wide is the "
    "input of the first layer, and of the others?",
    gradients=False,
)


@size.inputs
def some_sizes():
    yield from ((76, 256, 2), (65, 8, 1), (3, 5, 4))


@size.solution
def count_parameters(V, H, L):
    layers = 4 * H * (V + H + 2) + (L - 1) * 4 * H * (2 * H + 2)
    return layers + V * (H + 1)


@size.wrong(
    "Each layer has two biases, b_ih and b_hh, as in PyTorch: 4H more for each layer."
)
def one_bias(V, H, L):
    return count_parameters(V, H, L) - 4 * H * L


@size.wrong("Only the first layer reads characters. The others read H numbers.")
def all_read_characters(V, H, L):
    return 4 * H * (V + H + 2) * L + V * (H + 1)


@size.wrong("The head is missing: V rows of H weights, and a bias for each.")
def no_head(V, H, L):
    return count_parameters(V, H, L) - V * (H + 1)


@size.wrong("The head has a bias too, V numbers.")
def no_head_bias(V, H, L):
    return count_parameters(V, H, L) - V


ahead = Exercise(
    "network.4",
    "Does it see ahead?",
    "Change the last character alone. Which of the logits may change in a network that is "
    "causal?",
    gradients=False,
)


@ahead.inputs
def some_networks():
    table = torch.randn(10, 4)
    for kind in ("causal", "mean of all", "next", "the one before"):
        yield kind, torch.randint(0, 9, (2, 6)), table


@ahead.probe
def is_caught(answer, kind, ids, table):
    def net(ids):
        x = table[ids]
        if kind == "causal":
            return x.cumsum(1)
        if kind == "mean of all":
            return x.mean(1, keepdim=True).expand_as(x)
        return x.roll(-1, 1) if kind == "next" else F.pad(x[:, :-1], (0, 0, 1, 0))

    return bool(answer(net, ids))


@ahead.solution
def sees_ahead(net, ids):
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % 10
    return not torch.equal(net(ids)[:, :-1], net(other)[:, :-1])


@ahead.wrong(
    "The last place may change when its own character does. Compare the places before it."
)
def last_place_too(net, ids):
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % 10
    return not torch.equal(net(ids), net(other))


@ahead.wrong(
    "Changing the first character may change all that follows: that is memory. Change a later "
    "one, and look at earlier places."
)
def first_character(net, ids):
    other = ids.clone()
    other[:, 0] = (other[:, 0] + 1) % 10
    return not torch.equal(net(ids)[:, 1:], net(other)[:, 1:])


@ahead.wrong(
    "The answer is turned: True is for the network that looks at what comes later."
)
def turned(net, ids):
    return not sees_ahead(net, ids)


loss = Exercise(
    "network.5",
    "The loss of a batch",
    "cross_entropy takes rows of logits, (N, V), and N targets, and does the softmax itself.",
)


@loss.inputs
def some_logits():
    for B, T, V in ((2, 3, 5), (4, 4, 4)):
        yield torch.randn(B, T, V), torch.randint(V, (B, T))


@loss.solution
def next_character_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@loss.wrong(
    "The softmax is done twice: cross_entropy takes logits. The loss is then too high and "
    "hardly falls."
)
def softmax_twice(logits, targets):
    return next_character_loss(logits.softmax(-1), targets)


@loss.wrong(
    "The targets are in the wrong order: the logits go stream by stream, the targets step by "
    "step. Flatten both alike."
)
def mixed(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.T.flatten())


@loss.wrong("This is a sum. The loss is the mean over all characters of the batch.")
def summed(logits, targets):
    return next_character_loss(logits, targets) * targets.numel()


@loss.wrong("The sign is turned: the loss is minus the logarithm of the probability.")
def turned_sign(logits, targets):
    return -next_character_loss(logits, targets)
