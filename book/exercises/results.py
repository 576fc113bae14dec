"""The exercises in code of the chapter on results, for `hlstm.exercises`."""

import math

import torch

from hlstm.exercises import Exercise

paired = Exercise(
    "results.4",
    "Pairs of runs",
    "Take the difference of each pair first. Then the standard error of their mean: the "
    "standard deviation, with n − 1, over the root of n.",
)


@paired.inputs
def some_runs():
    for n in (3, 8):
        luck = 0.1 * torch.randn(n)
        yield 1.5 + luck + 0.01 * torch.randn(n), 1.45 + luck + 0.01 * torch.randn(n)


@paired.solution
def effect(without, with_it):
    change = with_it - without
    return change.mean(), change.std() / math.sqrt(len(change))


@paired.wrong(
    "The error is that of two groups that have nothing in common. The runs are pairs of one "
    "seed, and much of their luck cancels: take differences first."
)
def as_two_groups(without, with_it):
    n = len(without)
    return (with_it - without).mean(), ((without.var() + with_it.var()) / n).sqrt()


@paired.wrong(
    "This is the spread of a single difference. The mean of n differences is known better, by "
    "the root of n."
)
def of_one(without, with_it):
    change = with_it - without
    return change.mean(), change.std()


@paired.wrong(
    "The squares are divided by n. The mean was taken from the same numbers, so it is n − 1; "
    "with three seeds that matters."
)
def biased(without, with_it):
    change = with_it - without
    return change.mean(), change.std(correction=0) / math.sqrt(len(change))


@paired.wrong("The sign is turned: a loss that falls is a change below zero.")
def sign_turned(without, with_it):
    return effect(with_it, without)


ensemble = Exercise(
    "results.5",
    "The loss of an ensemble",
    "The ensemble's probability is the mean of the members' probabilities. Its loss is minus "
    "the logarithm of that, averaged over characters.",
)


@ensemble.inputs
def some_members():
    for M, N, V in ((3, 5, 4), (2, 4, 6)):
        yield 2 * torch.randn(M, N, V), torch.randint(V, (N,))


@ensemble.solution
def ensemble_loss(logits, targets):
    p = torch.softmax(logits, dim=-1).mean(0)
    return -torch.log(p[torch.arange(len(targets)), targets]).mean()


@ensemble.wrong(
    "That is the mean of the members' losses. An ensemble mixes first, and is judged then: "
    "its loss is lower."
)
def mean_loss(logits, targets):
    log_p = torch.log_softmax(logits, dim=-1)
    return -log_p[:, torch.arange(len(targets)), targets].mean()


@ensemble.wrong(
    "The logits are averaged. That is a geometric mean of probabilities, normalised again, and "
    "another ensemble than the one asked for."
)
def mean_logits(logits, targets):
    log_p = torch.log_softmax(logits.mean(0), dim=-1)
    return -log_p[torch.arange(len(targets)), targets].mean()


@ensemble.wrong("The sum over characters is not divided by their number.")
def summed(logits, targets):
    return ensemble_loss(logits, targets) * len(targets)


bytes_ = Exercise(
    "results.6",
    "Nats per character, bits per byte",
    "How many nats is the whole text? How many bits are these? How many bytes share them?",
    gradients=False,
)


@bytes_.inputs
def some_losses():
    yield 1.4, "To be, or not to be"
    yield 2.0, "Où est Élise ?"


@bytes_.solution
def bits_per_byte(nats, text):
    return nats * len(text) / len(text.encode()) / math.log(2)


@bytes_.wrong("These are nats per byte: a bit is ln 2 nats.")
def nats_per_byte(nats, text):
    return nats * len(text) / len(text.encode())


@bytes_.wrong(
    "These are bits per character. In UTF-8 a character has one byte or more, and the bits "
    "are shared by them."
)
def per_character(nats, text):
    return nats / math.log(2)


@bytes_.wrong(
    "There are at least as many bytes as characters, so the number of each byte is the "
    "smaller one."
)
def ratio_turned(nats, text):
    return nats * len(text.encode()) / len(text) / math.log(2)
