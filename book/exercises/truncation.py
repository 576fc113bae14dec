"""The exercises in code of the chapter on truncation, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

missing = Exercise(
    "truncation.4",
    "A detach is missing",
    "The values are right, so the state is carried as it should be. Between which two lines "
    "does a gradient run from one window into the one before, and what stops it?",
)


@missing.inputs
def some_windows():
    for count, T in ((3, 4), (2, 1)):
        yield torch.randn(count, T), torch.tensor(1.5)


@missing.solution
def window_losses(x, w):
    h, losses = torch.zeros(()), []
    for window in x:
        h = h.detach()
        for x_t in window:
            h = torch.tanh(x_t + w * h)
        losses.append(h**2)
    return torch.stack(losses)


@missing.wrong(
    "The gradient of a window still runs through all windows before it: memory and time grow "
    "with each. Detach the state where a window begins."
)
def whole_text(x, w):
    h, losses = torch.zeros(()), []
    for window in x:
        for x_t in window:
            h = torch.tanh(x_t + w * h)
        losses.append(h**2)
    return torch.stack(losses)


@missing.wrong(
    "Now it is detached at each step, and no gradient reaches further back than one. Detach "
    "once for each window."
)
def each_step(x, w):
    h, losses = torch.zeros(()), []
    for window in x:
        for x_t in window:
            h = torch.tanh(x_t + w * h.detach())
        losses.append(h**2)
    return torch.stack(losses)


@missing.wrong(
    "The state is set to zero, and the text before the window is forgotten. `detach` keeps "
    "the numbers, and cuts only the way back."
)
def forgotten(x, w):
    losses = []
    for window in x:
        h = torch.zeros(())
        for x_t in window:
            h = torch.tanh(x_t + w * h)
        losses.append(h**2)
    return torch.stack(losses)


triangle = Exercise(
    "truncation.5",
    "Which lags remain",
    "Two steps are in the same window if t // K is the same for both. And no prediction looks "
    "ahead.",
    gradients=False,
)


@triangle.inputs
def some_lengths():
    yield from ((6, 3), (7, 2), (4, 9))


@triangle.solution
def reached(T, K):
    t, s = torch.arange(T)[:, None], torch.arange(T)
    return (s <= t) & (t // K == s // K)


@triangle.wrong(
    "This is a band: each prediction reaches K steps back. In windows the first one of each "
    "reaches only itself."
)
def band(T, K):
    t, s = torch.arange(T)[:, None], torch.arange(T)
    return (s <= t) & (t - s < K)


@triangle.wrong("A row is a prediction and a column an input; yours are exchanged.")
def turned(T, K):
    return reached(T, K).T


@triangle.wrong(
    "Later inputs of the window do not count: a prediction at t sees s ≤ t only."
)
def ahead(T, K):
    t, s = torch.arange(T)[:, None], torch.arange(T)
    return t // K == s // K


expected = Exercise(
    "truncation.6",
    "The mean gradient of windows",
    "Lag k remains for the places of a window that have k steps before them. How many of K "
    "places are that?",
)


@expected.inputs
def some_parts():
    for K in (1, 3, 5):
        yield torch.randn(5, 2), K


@expected.solution
def mean_gradient(parts, K):
    share = 1 - torch.arange(K) / K
    return (share[:, None] * parts[:K]).sum(0)


@expected.wrong(
    "That is a truncation to K steps at each place. In a window most places have fewer steps "
    "before them: lag k counts with the share 1 − k/K."
)
def fixed_reach(parts, K):
    return parts[:K].sum(0)


@expected.wrong(
    "Lag 0 is always there, with weight 1: the place itself. Count the lags from 0."
)
def from_one(parts, K):
    share = 1 - (torch.arange(K) + 1) / K
    return (share[:, None] * parts[:K]).sum(0)


@expected.wrong(
    "The weights are right, but the parts are to be added up, not averaged."
)
def averaged(parts, K):
    return mean_gradient(parts, K) / K
