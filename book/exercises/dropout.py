"""The exercises in code of the chapter on dropout, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

inverted = Exercise(
    "dropout.4",
    "Drop and scale",
    "What is the mean of M x over the masks? By what does it have to be multiplied to be x?",
)


@inverted.inputs
def some_masks():
    for p in (0.5, 0.1, 0.8):
        yield torch.randn(2, 8), (torch.rand(2, 8) >= p).float(), p


@inverted.solution
def drop(x, mask, p):
    return x * mask / (1 - p)


@inverted.wrong(
    "The kept ones are scaled by p. They are kept with probability 1 − p, so they are divided "
    "by 1 − p."
)
def times_p(x, mask, p):
    return x * mask * p


@inverted.wrong(
    "p is the probability to drop, not to keep: divide by 1 − p. At p = 1/2 the two agree."
)
def over_p(x, mask, p):
    return x * mask / p


@inverted.wrong(
    "Without a factor the mean is (1 − p) x, and evaluation, which drops nothing, would see "
    "larger numbers than training did."
)
def not_scaled(x, mask, p):
    return x * mask


@inverted.wrong("The mask is 1 for what is kept. You have dropped the others.")
def mask_turned(x, mask, p):
    return x * (1 - mask) / (1 - p)


locked = Exercise(
    "dropout.5",
    "One mask for all steps",
    "Ask for a mask whose dimension of time has length 1, and let it repeat along it.",
)


@locked.inputs
def some_steps():
    for T, B, H, p in ((4, 2, 3, 0.5), (6, 3, 4, 0.25)):
        yield torch.randn(T, B, H), p


@locked.probe
def with_masks(answer, x, p):
    def draw_mask(shape):
        return (torch.rand(shape) >= p).to(x.dtype)

    return answer(x, p, draw_mask)


@locked.solution
def locked_dropout(x, p, draw_mask):
    return x * draw_mask((1, *x.shape[1:])) / (1 - p)


@locked.wrong(
    "Each step has a mask of its own. Locked means that a unit which is dropped stays dropped "
    "for the whole window."
)
def own_masks(x, p, draw_mask):
    return x * draw_mask(x.shape) / (1 - p)


@locked.wrong(
    "The mask repeats along the batch. Each stream draws its own: it is time along which the "
    "mask is the same, the first dimension."
)
def along_the_batch(x, p, draw_mask):
    T, _, H = x.shape
    return x * draw_mask((T, 1, H)) / (1 - p)


@locked.wrong("The factor 1/(1 − p) is missing, and the mean is not that of the input.")
def not_scaled_locked(x, p, draw_mask):
    return x * draw_mask((1, *x.shape[1:]))


zone = Exercise(
    "dropout.6",
    "Zoneout",
    "While training the mask decides, unit by unit, between two numbers. In evaluation the "
    "mean over masks takes its place.",
)


@zone.inputs
def some_states():
    for training in (True, False):
        for p in (0.1, 0.5):
            mask = (torch.rand(2, 6) < p).float()
            yield torch.randn(2, 6), torch.randn(2, 6), mask, p, training


@zone.solution
def zoneout(c_prev, c, mask, p, training):
    if training:
        return mask * c_prev + (1 - mask) * c
    return p * c_prev + (1 - p) * c


@zone.wrong("The mask is 1 for a unit that keeps its old value; you keep the others.")
def units_turned(c_prev, c, mask, p, training):
    return zoneout(c_prev, c, 1 - mask, p, training)


@zone.wrong(
    "In evaluation a unit gets the mean, p c_prev + (1 − p) c. Without it the memory moves "
    "faster than it did in training."
)
def only_new(c_prev, c, mask, p, training):
    return zoneout(c_prev, c, mask, p, training) if training else c


@zone.wrong(
    "Nothing is set to zero here: a unit keeps its old value. That is why nothing is scaled, "
    "and why it does not destroy the memory as dropout does."
)
def dropped(c_prev, c, mask, p, training):
    return (1 - mask) * c / (1 - p) if training else c


@zone.wrong(
    "The two parts are mixed the wrong way round in evaluation: the old value has p."
)
def mean_turned(c_prev, c, mask, p, training):
    return zoneout(c_prev, c, mask, p if training else 1 - p, training)
