"""The exercises in code of the chapter on counting, for `hlstm.exercises`."""

import math

import torch

from hlstm.exercises import Exercise

scores = Exercise(
    "counting.3",
    "Nats, bits, perplexity",
    "The loss is a mean of logarithms. One bit is ln 2 nats. A perplexity of 8 is a guess "
    "among 8 equally likely characters: which loss is that?",
)


@scores.inputs
def some_chances():
    yield (torch.full((4,), 0.125),)
    yield (torch.rand(10),)


@scores.solution
def three_scores(p):
    nats = -torch.log(p).mean()
    return nats, nats / math.log(2), torch.exp(nats)


@scores.wrong(
    "A nat is more than a bit: 1 nat is 1/ln 2 = 1.44 bits. Divide by ln 2, do not multiply."
)
def bits_turned(p):
    nats, _, perplexity = three_scores(p)
    return nats, nats * math.log(2), perplexity


@scores.wrong(
    "The perplexity is e to the loss in nats, or 2 to the loss in bits; you have mixed the two."
)
def bases_mixed(p):
    nats, bits, _ = three_scores(p)
    return nats, bits, 2**nats


@scores.wrong(
    "This is the logarithm of a mean. The loss is the mean of logarithms, which punishes a "
    "single confident error."
)
def log_of_mean(p):
    nats = -torch.log(p.mean())
    return nats, nats / math.log(2), torch.exp(nats)


kneser_ney = Exercise(
    "counting.4",
    "Kneser and Ney",
    "Three sums over the table give all that is needed: how often a context came (along a "
    "row), how many kinds followed it (along a row), and after how many kinds of contexts a "
    "symbol came (along a column).",
)


@kneser_ney.inputs
def some_tables():
    for V in (3, 6):
        counts = torch.randint(0, 4, (V, V)).double()
        counts[:, 0] += 1  # each context was seen
        yield counts, 0.75
    yield torch.tensor([[0.0, 9.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), 0.5


@kneser_ney.solution
def kneser_ney_bigrams(counts, discount):
    seen = (counts > 0).to(counts.dtype)
    total = counts.sum(1, keepdim=True)
    spread = seen.sum(0) / seen.sum()
    kept = (counts - discount).clamp(min=0) / total
    return kept + discount * seen.sum(1, keepdim=True) / total * spread


@kneser_ney.wrong(
    "This spreads what was taken by how often a symbol came. Kneser and Ney ask after how "
    "many different contexts it came: a symbol that always follows the same one gets little."
)
def by_frequency(counts, discount):
    seen = (counts > 0).to(counts.dtype)
    total = counts.sum(1, keepdim=True)
    kept = (counts - discount).clamp(min=0) / total
    unigram = counts.sum(0) / counts.sum()
    return kept + discount * seen.sum(1, keepdim=True) / total * unigram


@kneser_ney.wrong(
    "The sums run along the wrong axis for what is spread: what counts is the number of "
    "contexts before a symbol, a sum over rows."
)
def wrong_axis(counts, discount):
    seen = (counts > 0).to(counts.dtype)
    total = counts.sum(1, keepdim=True)
    kept = (counts - discount).clamp(min=0) / total
    spread = seen.sum(1) / seen.sum()
    return kept + discount * seen.sum(1, keepdim=True) / total * spread


@kneser_ney.wrong(
    "The rows do not add up to one. A discount was taken from each kind that followed the "
    "context, so as many discounts have to be given back."
)
def one_discount(counts, discount):
    seen = (counts > 0).to(counts.dtype)
    total = counts.sum(1, keepdim=True)
    kept = (counts - discount).clamp(min=0) / total
    return kept + discount / total * seen.sum(0) / seen.sum()


cache = Exercise(
    "counting.5",
    "A cache of speaker names",
    "Count how often each name is among the recent ones, make a distribution of it, and mix "
    "it with the other one so that the sum stays 1.",
)


@cache.inputs
def some_scenes():
    for recent in ([2, 2, 0], [1, 3, 1, 3, 1, 0], []):
        yield torch.softmax(torch.randn(4), 0), recent, 0.75


@cache.solution
def with_cache(p, recent, share):
    if not recent:
        return p
    found = torch.bincount(torch.tensor(recent), minlength=len(p)) / len(recent)
    return share * found + (1 - share) * p


@cache.wrong(
    "The share is that of the cache; the distribution p gets the rest, 1 − share."
)
def share_turned(p, recent, share):
    return with_cache(p, recent, 1 - share) if recent else p


@cache.wrong(
    "Each recent name counts once here. Who spoke three times of the last four is likelier "
    "than who spoke once."
)
def once_each(p, recent, share):
    return with_cache(p, sorted(set(recent)), share)


@cache.wrong(
    "The sum is more than one. Where the cache gets a share, p has to give that share away."
)
def added(p, recent, share):
    return with_cache(p, recent, share) + share * p if recent else p
