"""The exercises in code of the chapter on the cell, for `hlstm.exercises`."""

import torch
from torch import nn

from hlstm.exercises import Exercise

forget = Exercise(
    "cell.5",
    "A forget bias of one",
    "PyTorch has two biases, of which only the sum counts. The blocks are i, f, g, o: which "
    "entries belong to f?",
    gradients=False,
)


@forget.inputs
def some_cells():
    yield 3, 1.0
    yield 5, 2.0


@forget.probe
def biases_after(answer, hidden_size, value):
    cell = nn.LSTMCell(2, hidden_size)
    answer(cell, value)
    return (cell.bias_ih + cell.bias_hh).detach(), cell.weight_hh.detach()


@forget.solution
def set_forget_bias(cell, value):
    H = cell.hidden_size
    with torch.no_grad():
        cell.bias_ih[H : 2 * H] = value
        cell.bias_hh[H : 2 * H] = 0


@forget.wrong(
    "Both biases have the value now, and the sum has twice as much. Set one of them to zero."
)
def both(cell, value):
    H = cell.hidden_size
    with torch.no_grad():
        cell.bias_ih[H : 2 * H] = value
        cell.bias_hh[H : 2 * H] = value


@forget.wrong(
    "The second bias still has the numbers that it was drawn with, so the sum is not exactly "
    "the value."
)
def one_left(cell, value):
    H = cell.hidden_size
    with torch.no_grad():
        cell.bias_ih[H : 2 * H] = value


@forget.wrong(
    "That is another gate's block. The order is i, f, g, o, so f is the second quarter."
)
def first_block(cell, value):
    H = cell.hidden_size
    with torch.no_grad():
        cell.bias_ih[:H] = value
        cell.bias_hh[:H] = 0


@forget.wrong("The other gates have got the bias too. Only the second quarter is f's.")
def all_blocks(cell, value):
    with torch.no_grad():
        cell.bias_ih[:] = value
        cell.bias_hh[:] = 0


peep = Exercise(
    "cell.6",
    "Peepholes",
    "Input and forget gate decide before the memory changes, so they can only see the old "
    "one. When is the output gate needed?",
)


@peep.inputs
def some_steps():
    for B, H, scale in ((2, 3, 0.0), (2, 3, 1.0), (1, 4, 2.0)):
        yield torch.randn(B, 4 * H), torch.randn(B, H), scale * torch.randn(3, H)


@peep.solution
def peephole_step(a, c, peepholes):
    i, f, g, o = a.chunk(4, dim=-1)
    i = torch.sigmoid(i + peepholes[0] * c)
    f = torch.sigmoid(f + peepholes[1] * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + peepholes[2] * c)
    return o * torch.tanh(c), c


@peep.wrong(
    "The output gate looks at the old memory. It decides what is read from the new one, and "
    "sees that."
)
def old_memory(a, c, peepholes):
    i, f, g, o = a.chunk(4, dim=-1)
    i = torch.sigmoid(i + peepholes[0] * c)
    f = torch.sigmoid(f + peepholes[1] * c)
    o = torch.sigmoid(o + peepholes[2] * c)
    c = f * c + i * torch.tanh(g)
    return o * torch.tanh(c), c


@peep.wrong(
    "A peephole is added inside the sigmoid, to the pre-activation, and not to the gate."
)
def outside(a, c, peepholes):
    i, f, g, o = a.chunk(4, dim=-1)
    i = torch.sigmoid(i) + peepholes[0] * c
    f = torch.sigmoid(f) + peepholes[1] * c
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o) + peepholes[2] * c
    return o * torch.tanh(c), c


@peep.wrong("A gate sees the memory c itself, not tanh(c).")
def squashed(a, c, peepholes):
    i, f, g, o = a.chunk(4, dim=-1)
    i = torch.sigmoid(i + peepholes[0] * torch.tanh(c))
    f = torch.sigmoid(f + peepholes[1] * torch.tanh(c))
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + peepholes[2] * torch.tanh(c))
    return o * torch.tanh(c), c


@peep.wrong(
    "The peepholes are ignored: with those of zero this is right, and that is what makes "
    "zero a good test and a bad only test."
)
def none(a, c, peepholes):
    return peephole_step(a, c, 0 * peepholes)


gru = Exercise(
    "cell.7",
    "A GRU, forwards",
    "Make the two stacks of pre-activations apart, one of x and one of h, and cut each into "
    "r, z and n. Add them for r and z; for n multiply the one of h by r first.",
)


@gru.inputs
def some_inputs():
    for B, H, width in ((1, 3, 2), (3, 2, 4)):
        sizes = (B, width), (B, H), (3 * H, width), (3 * H, H), (3 * H,), (3 * H,)
        yield tuple(torch.randn(size) for size in sizes)


@gru.solution
def gru_step(x, h, weight_ih, weight_hh, bias_ih, bias_hh):
    r_x, z_x, n_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    r_h, z_h, n_h = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return (1 - z) * n + z * h


@gru.wrong(
    "In PyTorch's GRU r multiplies what the candidate hears of h with its bias, W_hn h + b_hn. "
    "Here it multiplies h before the product, as in the paper of Cho et al."
)
def reset_before(x, h, weight_ih, weight_hh, bias_ih, bias_hh):
    H = h.shape[-1]
    r_x, z_x, n_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    r_h, z_h, _ = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + (r * h) @ weight_hh[2 * H :].T + bias_hh[2 * H :])
    return (1 - z) * n + z * h


@gru.wrong(
    "z keeps the old state: h is (1 − z) n + z h, like the forget gate's f. You have the two "
    "exchanged."
)
def update_turned(x, h, weight_ih, weight_hh, bias_ih, bias_hh):
    n_or_h = gru_step(x, h, weight_ih, weight_hh, bias_ih, bias_hh)
    _, z_x, n_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    r_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)[0]
    r_h, z_h, n_h = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + h - n_or_h


@gru.wrong(
    "The blocks of a GRU's weights are r, z, n: the first gate is the one that resets."
)
def other_order(x, h, weight_ih, weight_hh, bias_ih, bias_hh):
    z_x, r_x, n_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    z_h, r_h, n_h = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    return (1 - z) * torch.tanh(n_x + r * n_h) + z * h


@gru.wrong("Nothing resets the candidate: its share of h has to be multiplied by r.")
def no_reset(x, h, weight_ih, weight_hh, bias_ih, bias_hh):
    _, z_x, n_x = (x @ weight_ih.T + bias_ih).chunk(3, dim=-1)
    _, z_h, n_h = (h @ weight_hh.T + bias_hh).chunk(3, dim=-1)
    z = torch.sigmoid(z_x + z_h)
    return (1 - z) * torch.tanh(n_x + n_h) + z * h
