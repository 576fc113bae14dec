"""The exercises in code of the chapter on clipping, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

together = Exercise(
    "clipping.4",
    "Clip the whole gradient",
    "All tensors together are one vector: its length is the root of the sum of all squares. "
    "One factor for all, and never above 1.",
)


@together.inputs
def some_gradients():
    for scale in (0.01, 1.0, 30.0):
        yield [scale * torch.randn(3, 2), scale * torch.randn(4)], 1.0


@together.solution
def clip(grads, max_norm):
    norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
    factor = (max_norm / norm).clamp(max=1)
    return [grad * factor for grad in grads]


@together.wrong(
    "Each tensor is clipped by itself, and the direction of the whole changes. The norm is "
    "that of all of them together."
)
def one_by_one(grads, max_norm):
    return [grad * (max_norm / grad.norm()).clamp(max=1) for grad in grads]


@together.wrong(
    "A short gradient is made longer. The factor is at most 1: clipping never lengthens."
)
def always(grads, max_norm):
    norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
    return [grad * max_norm / norm for grad in grads]


@together.wrong(
    "This clips each number, which turns the gradient. Clipping by norm keeps its direction."
)
def by_value(grads, max_norm):
    return [grad.clamp(-max_norm, max_norm) for grad in grads]


@together.wrong(
    "The norms are added up. It is their squares that add up, then the root."
)
def sum_of_norms(grads, max_norm):
    factor = (max_norm / sum(grad.norm() for grad in grads)).clamp(max=1)
    return [grad * factor for grad in grads]


normalised = Exercise(
    "clipping.5",
    "Normalised steps, and clipped ones",
    "A normalised step always has the length rate. A clipped one has the length of the "
    "gradient times rate, and at most max_norm times rate.",
)


@normalised.inputs
def some_lengths():
    for scale in (0.1, 1.0, 20.0):
        yield torch.randn(5), scale * torch.randn(5), 0.5, 2.0


@normalised.solution
def two_steps(theta, grad, rate, max_norm):
    norm = grad.norm()
    clipped = grad * (max_norm / norm).clamp(max=1)
    return theta - rate * grad / norm, theta - rate * clipped


@normalised.wrong(
    "The clipped step of a short gradient is as long as the gradient says. You have made all "
    "clipped steps equally long."
)
def both_normalised(theta, grad, rate, max_norm):
    first, _ = two_steps(theta, grad, rate, max_norm)
    return first, theta - rate * max_norm * grad / grad.norm()


@normalised.wrong(
    "The threshold bounds the gradient, and the rate multiplies it afterwards: the longest "
    "step is rate times max_norm."
)
def rate_first(theta, grad, rate, max_norm):
    first, _ = two_steps(theta, grad, rate, max_norm)
    step = rate * grad
    return first, theta - step * (max_norm / step.norm()).clamp(max=1)


@normalised.wrong(
    "The first step does not know the threshold: its length is the rate alone."
)
def threshold_in_both(theta, grad, rate, max_norm):
    _, second = two_steps(theta, grad, rate, max_norm)
    return theta - rate * max_norm * grad / grad.norm(), second


@normalised.wrong("The steps go uphill: a gradient is subtracted.")
def uphill(theta, grad, rate, max_norm):
    first, second = two_steps(theta, grad, rate, max_norm)
    return 2 * theta - first, 2 * theta - second


each = Exercise(
    "clipping.6",
    "One vote for each sequence",
    "Clip each row by its own norm, then take the mean over rows.",
)


@each.inputs
def some_batches():
    for B, P in ((4, 3), (6, 5)):
        yield torch.randn(B, P) * torch.logspace(-1, 2, B)[:, None], 1.0


@each.solution
def clip_each(grads, max_norm):
    norms = grads.norm(dim=1, keepdim=True)
    return (grads * (max_norm / norms).clamp(max=1)).mean(0)


@each.wrong(
    "The mean is clipped. The one exploding sequence has set its direction before that."
)
def clip_the_mean(grads, max_norm):
    mean = grads.mean(0)
    return mean * (max_norm / mean.norm()).clamp(max=1)


@each.wrong(
    "The norms run along the wrong axis: one for each parameter. Each sequence, a row, has "
    "its own."
)
def other_axis(grads, max_norm):
    norms = grads.norm(dim=0, keepdim=True)
    return (grads * (max_norm / norms).clamp(max=1)).mean(0)


@each.wrong(
    "This is the sum of the clipped gradients. The loss is a mean, and so is its gradient."
)
def summed(grads, max_norm):
    return clip_each(grads, max_norm) * len(grads)
