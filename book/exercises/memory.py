"""The exercises in code of the chapter on memory, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

radius = Exercise(
    "memory.4",
    "Set the spectral radius",
    "The spectral radius is the largest size of an eigenvalue, and eigenvalues may be "
    "complex. What does it become when the matrix is multiplied by a number?",
    gradients=False,
)


@radius.inputs
def some_matrices():
    for H in (3, 8):
        yield torch.randn(H, H), 0.9
    yield torch.tensor([[0.0, -2.0], [2.0, 0.0]]), 1.1


@radius.solution
def with_radius(W, rho):
    return W * (rho / torch.linalg.eigvals(W).abs().max())


@radius.wrong(
    "This sets the largest singular value, the norm. It is never smaller than the spectral "
    "radius, and mostly larger: the radius comes out too small."
)
def by_norm(W, rho):
    return W * (rho / torch.linalg.matrix_norm(W, 2))


@radius.wrong(
    "An eigenvalue counts with its size |λ|, and not with its real part: a rotation has real "
    "parts near zero."
)
def by_real_part(W, rho):
    parts = torch.linalg.eigvals(W).real
    return W * (rho / parts.abs().max())


@radius.wrong("The matrix now has radius 1; multiply by the one that was asked for.")
def radius_one(W, rho):
    return with_radius(W, 1.0)


carry = Exercise(
    "memory.5",
    "Carry a gradient back",
    "Go from the last step to the first. At each, pass the tanh first, then the matrix; its "
    "transpose, since the gradient runs the other way.",
)


@carry.inputs
def some_runs():
    for T, H in ((1, 3), (6, 4)):
        yield torch.tanh(torch.randn(T, H)), torch.randn(H, H), torch.randn(H)


@carry.solution
def carry_back(hidden, W, delta):
    for h in hidden.flip(0):
        delta = W.T @ ((1 - h**2) * delta)
    return delta


@carry.wrong(
    "Backwards it is the transpose: J = diag(1 − h²) W, and the gradient is multiplied by Jᵀ."
)
def not_transposed(hidden, W, delta):
    for h in hidden.flip(0):
        delta = W @ ((1 - h**2) * delta)
    return delta


@carry.wrong(
    "The order is turned: on the way back the tanh of a step is passed before its matrix."
)
def matrix_first(hidden, W, delta):
    for h in hidden.flip(0):
        delta = (1 - h**2) * (W.T @ delta)
    return delta


@carry.wrong(
    "hidden holds what came out of tanh, so its derivative is 1 − h², with no tanh again."
)
def squashed_twice(hidden, W, delta):
    return carry_back(torch.tanh(hidden), W, delta)


@carry.wrong(
    "The loop goes from the first step to the last. On the way back the last comes first."
)
def forwards(hidden, W, delta):
    return carry_back(hidden.flip(0), W, delta)


rotation = Exercise(
    "memory.6",
    "A random orthogonal matrix",
    "torch.linalg.qr gives Q and R with A = QR. It may choose the sign of each column of Q; "
    "where R has a negative number on its diagonal, turn the column round.",
    gradients=False,
)


@rotation.inputs
def some_normal_matrices():
    for H in (2, 3, 7):
        yield (torch.randn(H, H).double(),)


@rotation.solution
def orthogonal(A):
    Q, R = torch.linalg.qr(A)
    return Q * R.diagonal().sign()


@rotation.wrong(
    "Q is orthogonal, but its signs are the algorithm's and not chance's: the matrices are "
    "not spread evenly over all rotations and reflections."
)
def without_signs(A):
    return torch.linalg.qr(A).Q


@rotation.wrong(
    "The columns have length 1 but are not at right angles: the product with the transpose is "
    "not the unit matrix."
)
def only_lengths(A):
    return A / A.norm(dim=0)


@rotation.wrong("The signs belong to the columns of Q. You have multiplied its rows.")
def rows_turned(A):
    Q, R = torch.linalg.qr(A)
    return R.diagonal().sign()[:, None] * Q
