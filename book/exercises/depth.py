"""The exercises in code of the chapter on depth, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

chunks = Exercise(
    "depth.3",
    "The hoisted product in chunks",
    "`split` cuts a tensor into pieces of at most so many rows, and the last may be shorter.",
)


@chunks.inputs
def some_sequences():
    for T, size in ((7, 3), (4, 2), (3, 8)):
        yield torch.randn(T, 2, 3), torch.randn(5, 3), size


@chunks.probe
def in_pieces(answer, x, weight, size):
    lengths = []

    def multiply(piece):
        lengths.append(len(piece))
        return piece @ weight.T

    return answer(multiply, x, size), lengths


@chunks.solution
def hoisted(multiply, x, size):
    return torch.cat([multiply(piece) for piece in x.split(size)])


@chunks.wrong(
    "All steps go into one product: that is fast, and needs room for the pre-activations of "
    "the whole sequence at once."
)
def at_once(multiply, x, size):
    return multiply(x)


@chunks.wrong(
    "Each step has a product of its own. The point of hoisting is that a product of many rows "
    "is faster than many of few."
)
def step_by_step(multiply, x, size):
    return torch.cat([multiply(piece) for piece in x.split(1)])


@chunks.wrong("The last chunk is missing where T is no multiple of the size.")
def whole_chunks(multiply, x, size):
    pieces = [piece for piece in x.split(size) if len(piece) == size]
    return torch.cat([multiply(piece) for piece in pieces or [x[:0]]])


packing = Exercise(
    "depth.4",
    "Pack by hand",
    "Go step by step. At step t, which sequences still have a character? Their characters "
    "come next, and their number is the next batch size.",
    gradients=False,
)


@packing.inputs
def some_lists():
    for lengths in ((4, 2, 2), (3,), (5, 4, 1)):
        yield ([torch.randint(100, (n,)) for n in lengths],)


@packing.solution
def pack(sequences):
    data, batch_sizes = [], []
    for t in range(len(sequences[0])):
        step = [sequence[t] for sequence in sequences if t < len(sequence)]
        data += step
        batch_sizes.append(len(step))
    return torch.stack(data), batch_sizes


@packing.wrong(
    "The sequences stand one after the other. Packed, all first characters come first, then "
    "all second ones."
)
def end_to_end(sequences):
    _, batch_sizes = pack(sequences)
    return torch.cat(sequences), batch_sizes


@packing.wrong(
    "The batch sizes are the numbers of sequences at each step, one for each step; these are "
    "the lengths."
)
def by_lengths(sequences):
    data, _ = pack(sequences)
    return data, [len(sequence) for sequence in sequences]


@packing.wrong(
    "Here zeros fill up the short sequences. Packing is there to leave them out."
)
def padded(sequences):
    padded = torch.nn.utils.rnn.pad_sequence(sequences)
    return padded.flatten(), [len(sequences)] * len(padded)


last = Exercise(
    "depth.5",
    "The last true state",
    "Sequence m ended at step lengths[m], which has the index lengths[m] − 1.",
)


@last.inputs
def some_outputs():
    for T, lengths in ((5, [5, 2, 3]), (3, [1, 3])):
        yield torch.randn(T, len(lengths), 4), torch.tensor(lengths)


@last.solution
def last_states(output, lengths):
    return output[lengths - 1, torch.arange(len(lengths))]


@last.wrong(
    "This is the last step of the padded batch. A short sequence ended before, and what "
    "follows it is made of padding."
)
def last_step(output, lengths):
    return output[-1]


@last.wrong(
    "One step too late: steps count from 0, so a sequence of length n ends at n − 1."
)
def one_late(output, lengths):
    late = lengths.clamp(max=len(output) - 1)
    return output[late, torch.arange(len(lengths))]


@last.wrong("These are the first states. A sequence ends at lengths − 1.")
def first_states(output, lengths):
    return output[0]
