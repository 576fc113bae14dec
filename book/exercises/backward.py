"""The exercises in code of the chapter on the backward pass, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

adjoint = Exercise(
    "backward.4",
    "What reaches the cell state",
    "Two ways lead to c of this step: from later, through the next step's forget gate, and "
    "from above, through h = o tanh(c). Their gradients add up.",
)


@adjoint.inputs
def some_states():
    for shape in ((4,), (2, 3)):
        yield torch.rand(shape), *(torch.randn(shape) for _ in range(3))


@adjoint.solution
def cell_adjoint(o, c, dh, dc_later):
    return dc_later + dh * o * (1 - torch.tanh(c) ** 2)


@adjoint.wrong(
    "What comes from later is missing. The memory is used again in the next step, and that "
    "gradient is the one that makes the carousel."
)
def without_later(o, c, dh, dc_later):
    return dh * o * (1 - torch.tanh(c) ** 2)


@adjoint.wrong(
    "The output gate is missing: h is o tanh(c), so what comes from h passes o."
)
def without_gate(o, c, dh, dc_later):
    return dc_later + dh * (1 - torch.tanh(c) ** 2)


@adjoint.wrong(
    "The derivative of tanh(c) is 1 − tanh²(c), and not 1 − c²: c is what goes in, not what "
    "comes out."
)
def not_squashed(o, c, dh, dc_later):
    return dc_later + dh * o * (1 - c**2)


@adjoint.wrong(
    "What comes from later reaches c as it is. Only what comes through h passes o and tanh."
)
def all_squashed(o, c, dh, dc_later):
    return (dc_later + dh) * o * (1 - torch.tanh(c) ** 2)


coupled = Exercise(
    "backward.5",
    "A coupled cell, backwards",
    "Begin with c = f c_prev + (1 − f) g and differentiate it by f: two terms, one with a "
    "minus. Then pass through each gate's own derivative.",
)


@coupled.inputs
def some_coupled_steps():
    for shape in ((3,), (2, 4)):
        f, o = torch.rand(shape), torch.rand(shape)
        g = torch.tanh(torch.randn(shape))
        yield f, g, o, *(torch.randn(shape) for _ in range(4))


@coupled.solution
def coupled_backward(f, g, o, c_prev, c, dh, dc):
    tanh_c = torch.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    da_f = dc * (c_prev - g) * f * (1 - f)
    da_g = dc * (1 - f) * (1 - g**2)
    da_o = dh * tanh_c * o * (1 - o)
    return torch.cat([da_f, da_g, da_o], dim=-1), dc * f


@coupled.wrong(
    "f stands twice in c = f c_prev + (1 − f) g. The second one gives −g, and it is missing "
    "in the gradient of f."
)
def one_way(f, g, o, c_prev, c, dh, dc):
    da, dc_prev = coupled_backward(f, g, o, c_prev, c, dh, dc)
    own = (dc + dh * o * (1 - torch.tanh(c) ** 2)) * c_prev * f * (1 - f)
    return torch.cat([own, da[..., f.shape[-1] :]], dim=-1), dc_prev


@coupled.wrong(
    "Write the candidate with 1 − f in place of i: its gradient has the factor 1 − f, not f."
)
def written_by_f(f, g, o, c_prev, c, dh, dc):
    da, dc_prev = coupled_backward(f, g, o, c_prev, c, dh, dc)
    H = f.shape[-1]
    whole = dc + dh * o * (1 - torch.tanh(c) ** 2)
    return torch.cat(
        [da[..., :H], whole * f * (1 - g**2), da[..., 2 * H :]], dim=-1
    ), dc_prev


@coupled.wrong(
    "These are the gradients of the gates. To those of the pre-activations each still has to "
    "pass its squashing: f (1 − f), 1 − g², o (1 − o)."
)
def at_the_gates(f, g, o, c_prev, c, dh, dc):
    tanh_c = torch.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    return torch.cat([dc * (c_prev - g), dc * (1 - f), dh * tanh_c], dim=-1), dc * f


@coupled.wrong(
    "The gradient through h is missing in what goes on to c_prev: add dh o (1 − tanh²(c)) to "
    "dc before it is used."
)
def only_later(f, g, o, c_prev, c, dh, dc):
    da, _ = coupled_backward(f, g, o, c_prev, c, dh, dc)
    return da, dc * f


gru = Exercise(
    "backward.6",
    "A GRU, backwards",
    "h = (1 − z) n + z h_prev with n = tanh(a_n + r q). Start at h, go to n and z, then "
    "from n to r and q. h_prev gets z dh directly; the rest of its gradient goes through "
    "the products that made q and the pre-activations.",
)


@gru.inputs
def some_gru_steps():
    for shape in ((3,), (2, 4)):
        r, z = torch.rand(shape), torch.rand(shape)
        n = torch.tanh(torch.randn(shape))
        yield r, z, n, *(torch.randn(shape) for _ in range(3))


@gru.solution
def gru_backward(r, z, n, q, h_prev, dh):
    da_n = dh * (1 - z) * (1 - n**2)
    da_r = da_n * q * r * (1 - r)
    da_z = dh * (h_prev - n) * z * (1 - z)
    return da_r, da_z, da_n, da_n * r, dh * z


@gru.wrong(
    "z weighs two things, and the gradient of z has both: h_prev with a plus, n with a minus."
)
def half_of_z(r, z, n, q, h_prev, dh):
    da_r, _, da_n, dq, direct = gru_backward(r, z, n, q, h_prev, dh)
    return da_r, dh * h_prev * z * (1 - z), da_n, dq, direct


@gru.wrong(
    "In PyTorch's GRU z keeps the old state: h = (1 − z) n + z h_prev. You have the two the "
    "other way round, as in the paper of Cho et al."
)
def as_in_the_paper(r, z, n, q, h_prev, dh):
    da_n = dh * z * (1 - n**2)
    da_r = da_n * q * r * (1 - r)
    da_z = dh * (n - h_prev) * z * (1 - z)
    return da_r, da_z, da_n, da_n * r, dh * (1 - z)


@gru.wrong(
    "r multiplies q inside the tanh, so its gradient starts from that of n's pre-activation, "
    "after the tanh has been passed."
)
def before_the_tanh(r, z, n, q, h_prev, dh):
    _, da_z, da_n, _, direct = gru_backward(r, z, n, q, h_prev, dh)
    dn = dh * (1 - z)
    return dn * q * r * (1 - r), da_z, da_n, dn * r, direct
