"""The exercises in code of the chapter on the gates, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise
from hlstm.gates import gate_activations, update_state

half_life = Exercise(
    "gates.5",
    "The bias for a half-life",
    "After k steps the direct path has the factor f to the power k. Set it to one half, "
    "solve for f, and ask which bias a sigmoid needs to give this f.",
)


@half_life.inputs
def some_lives():
    yield (torch.tensor(1.0),)
    yield (torch.tensor([2.0, 5.0, 40.0]),)


@half_life.solution
def forget_bias(half_life):
    f = 0.5 ** (1 / half_life)
    return torch.log(f / (1 - f))


@half_life.wrong(
    "This is the activation f. The bias is what the sigmoid makes f of: its inverse, "
    "ln(f / (1 − f))."
)
def activation(half_life):
    return 0.5 ** (1 / half_life)


@half_life.wrong(
    "This bias closes the gate as far as it should open it: ln(f / (1 − f)), not "
    "ln((1 − f) / f)."
)
def sign_turned(half_life):
    return -forget_bias(half_life)


@half_life.wrong(
    "exp(−1/k) leaves 1/e of the gradient after k steps, 37 % and not a half."
)
def time_constant(half_life):
    f = torch.exp(-1 / half_life)
    return torch.log(f / (1 - f))


counter = Exercise(
    "gates.6",
    "Count by hand",
    "Start with c. Which i, f and g make c grow by 1 at an a, and fall by 1 at a b? One of "
    "the three depends on the letter. How large must a pre-activation be for a gate to be "
    "open?",
    tolerance=0.05,
    gradients=False,
)


@counter.inputs
def some_words():
    for ups, downs in ((1, 0), (3, 3), (10, 4), (30, 30), (2, 7)):
        yield ("a" * ups + "b" * downs,)


@counter.probe
def count(answer, word):
    weight_ih, weight_hh, bias = answer()
    h, c = torch.zeros(1), torch.zeros(1)
    for letter in word:
        x = torch.tensor([letter == "a", letter == "b"], dtype=torch.float32)
        a = weight_ih @ x + weight_hh @ h + bias
        h, c = update_state(gate_activations(a), c)
    return c


@counter.solution
def counting_weights():
    weight_ih = torch.zeros(4, 2)
    weight_ih[2] = torch.tensor([20.0, -20.0])  # g is +1 at a and -1 at b
    weight_hh = torch.zeros(4, 1)
    bias = torch.tensor([20.0, 20.0, 0.0, 20.0])  # i, f and o are open
    return weight_ih, weight_hh, bias


@counter.wrong(
    "c is halved at each step: the forget gate stands at σ(0) = 1/2. It has to be open, and "
    "its bias is the second."
)
def forgets():
    weight_ih, weight_hh, bias = counting_weights()
    return weight_ih, weight_hh, bias * torch.tensor([1.0, 0.0, 1.0, 1.0])


@counter.wrong(
    "Each letter moves c by a half: the input gate stands at σ(0) = 1/2. It has to be open, "
    "and its bias is the first."
)
def half_open():
    weight_ih, weight_hh, bias = counting_weights()
    return weight_ih, weight_hh, bias * torch.tensor([0.0, 1.0, 1.0, 1.0])


@counter.wrong(
    "c only grows. The candidate g is the one gate that can be negative: let it be −1 at b."
)
def only_up():
    weight_ih, weight_hh, bias = counting_weights()
    return weight_ih.abs(), weight_hh, bias


@counter.wrong(
    "c stays at zero. Is the letter's weight in the third row? The blocks are i, f, g, o."
)
def other_order():
    weight_ih, weight_hh, bias = counting_weights()
    return (
        weight_ih[[0, 1, 3, 2]],
        weight_hh,
        bias[[0, 1, 3, 2]] * torch.tensor([1.0, 1.0, 0.0, 1.0]),
    )


ablation = Exercise(
    "gates.7",
    "Take away what one gate hears",
    "W_hh is four blocks of rows, in the order i, f, g, o. Copy it before you change it.",
)


@ablation.inputs
def some_weights():
    for gate in "ifgo":
        yield torch.randn(12, 3), gate


@ablation.probe
def ablate(answer, weight_hh, gate):
    given = weight_hh.clone()
    return answer(given, gate), given.equal(weight_hh)


@ablation.solution
def without(weight_hh, gate):
    blocks = list(weight_hh.chunk(4))
    k = "ifgo".index(gate)
    blocks[k] = torch.zeros_like(blocks[k])
    return torch.cat(blocks)


@ablation.wrong(
    "The blocks lie in the order i, f, g, o, with the candidate third. In another order you "
    "take o away where g was meant."
)
def order_ifog(weight_hh, gate):
    return without(weight_hh, {"o": "g", "g": "o"}.get(gate, gate))


@ablation.wrong(
    "The weights that you were given are changed as well, and with them the network. Copy "
    "them first, with `clone`."
)
def in_place(weight_hh, gate):
    weight_hh.unflatten(0, (4, -1))["ifgo".index(gate)] = 0
    return weight_hh


@ablation.wrong(
    "This keeps what one gate hears and takes it from the three others; wanted is the reverse."
)
def the_others(weight_hh, gate):
    return weight_hh - without(weight_hh, gate)


@ablation.wrong(
    "You have set columns to zero. A column is what all gates hear of one unit; a gate is a "
    "block of rows."
)
def columns(weight_hh, gate):
    keep = torch.ones(weight_hh.shape[1])
    keep["ifgo".index(gate) % weight_hh.shape[1]] = 0
    return weight_hh * keep


@ablation.wrong(
    "The copy has no gradient. `detach`, `.data` or `no_grad` cut it off: `clone` does not."
)
def detached(weight_hh, gate):
    return without(weight_hh.detach(), gate)
