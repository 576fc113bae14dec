"""The exercises in code of the chapter on sampling, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

heat = Exercise(
    "sampling.5",
    "Logits at a temperature",
    "Divide first, then take the softmax over the symbols, the last dimension.",
)


@heat.inputs
def some_logits():
    for tau in (0.5, 2.0):
        yield 2 * torch.randn(3, 4), tau


@heat.solution
def probabilities(logits, tau):
    return torch.softmax(logits / tau, dim=-1)


@heat.wrong(
    "The logits are multiplied by the temperature, so that a hot text gets sharp. Divide: heat "
    "makes differences small."
)
def multiplied(logits, tau):
    return torch.softmax(logits * tau, dim=-1)


@heat.wrong(
    "The probabilities are divided, and no longer add up to one. The temperature belongs to "
    "the logits, before the softmax."
)
def divided_late(logits, tau):
    return torch.softmax(logits, dim=-1) / tau


@heat.wrong(
    "The softmax runs over the wrong dimension: each row of logits is one prediction, and has "
    "to add up to one."
)
def other_dimension(logits, tau):
    return torch.softmax(logits / tau, dim=0)


@heat.wrong(
    "The temperature acts on probabilities that were already made of the logits. Softmax of a "
    "softmax is nearly even."
)
def softmax_twice(logits, tau):
    return torch.softmax(torch.softmax(logits, dim=-1) / tau, dim=-1)


diagram = Exercise(
    "sampling.6",
    "A reliability diagram",
    "Sort the predictions into bins by their confidence. In each bin compare the mean "
    "confidence with the share that was right.",
    gradients=False,
)


@diagram.inputs
def some_predictions():
    for N, bins in ((40, 4), (12, 10)):
        confidence = torch.rand(N)
        yield confidence, torch.rand(N) < confidence**2, bins


@diagram.solution
def reliability(confidence, right, bins):
    place = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    sums = [
        torch.zeros(bins).index_add(0, place, values.float())
        for values in (confidence, right)
    ]
    mean, share = (total / count.clamp(min=1) for total in sums)
    return count, mean, share


@diagram.wrong("The sums are divided by all predictions. Each bin has its own number.")
def over_all(confidence, right, bins):
    count, mean, share = reliability(confidence, right, bins)
    return count, mean * count / count.sum(), share * count / count.sum()


@diagram.wrong(
    "This takes the middle of the bin for its confidence. Where predictions crowd at one side "
    "of a bin, that is off: take their mean."
)
def middles(confidence, right, bins):
    count, _, share = reliability(confidence, right, bins)
    return count, (torch.arange(bins) + 0.5) / bins, share


@diagram.wrong("The mean confidence and the share that was right are exchanged.")
def exchanged(confidence, right, bins):
    count, mean, share = reliability(confidence, right, bins)
    return count, share, mean


beam = Exercise(
    "sampling.7",
    "Beam search",
    "Keep pairs of a sequence and its log-likelihood. Extend each by every symbol, sort all "
    "by the whole log-likelihood, and keep the best few. Repeat.",
    gradients=False,
)


@beam.inputs
def some_chains():
    chain = torch.tensor([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.02, 0.03, 0.95]])
    yield torch.log(chain + 1e-9), 2, 2
    for V, width, length in ((4, 3, 5), (5, 2, 4), (6, 4, 3)):
        yield torch.log_softmax(2 * torch.randn(V, V), 1), width, length


@beam.solution
def beam_search(log_p, width, length):
    kept = [([0], 0.0)]
    for _ in range(length):
        longer = [
            ([*ids, v], score + float(log_p[ids[-1], v]))
            for ids, score in kept
            for v in range(len(log_p))
        ]
        kept = sorted(longer, key=lambda pair: -pair[1])[:width]
    ids, score = kept[0]
    return ids[1:], score


@beam.wrong(
    "This is greedy choice, a beam of width 1. A sequence that begins less well may end "
    "better: keep `width` of them."
)
def greedy(log_p, width, length):
    return beam_search(log_p, 1, length)


@beam.wrong(
    "The sequences are ranked by their last step alone. What counts is the sum over all steps."
)
def last_step(log_p, width, length):
    kept = [([0], 0.0, 0.0)]
    for _ in range(length):
        longer = [
            ([*ids, v], score + float(log_p[ids[-1], v]), float(log_p[ids[-1], v]))
            for ids, score, _ in kept
            for v in range(len(log_p))
        ]
        kept = sorted(longer, key=lambda triple: -triple[2])[:width]
    ids, score, _ = kept[0]
    return ids[1:], score


@beam.wrong("The start symbol was given, and is no part of the answer.")
def with_start(log_p, width, length):
    ids, score = beam_search(log_p, width, length)
    return [0, *ids], score


@beam.wrong(
    "The score is a probability, the product. Return its logarithm, the sum: products of "
    "hundreds of steps underflow."
)
def as_probability(log_p, width, length):
    ids, score = beam_search(log_p, width, length)
    return ids, float(torch.tensor(score).exp())
