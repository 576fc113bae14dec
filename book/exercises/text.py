"""The exercises in code of the chapter on text, for `hlstm.exercises`."""

import torch

from hlstm.exercises import Exercise

encoding = Exercise(
    "text.3",
    "Characters to numbers",
    "Which characters occur? Sort them, and number them from 0. A dictionary finds the "
    "number of each.",
    gradients=False,
)


@encoding.inputs
def some_texts():
    for text in ("hello", "To be, or not to be", "éèe"):
        yield (text,)


@encoding.solution
def encode(text):
    numbers = {symbol: v for v, symbol in enumerate(sorted(set(text)))}
    return [numbers[symbol] for symbol in text]


@encoding.wrong(
    "These are the numbers in order of appearance. Two texts of the same characters would "
    "then have different vocabularies: sort the characters."
)
def by_appearance(text):
    return [list(dict.fromkeys(text)).index(symbol) for symbol in text]


@encoding.wrong("Numbers begin at 0: the first row of a weight matrix is row 0.")
def from_one(text):
    return [v + 1 for v in encode(text)]


@encoding.wrong(
    "These are Unicode's numbers. Of its 150,000 characters a text has some 70, and the "
    "network needs a column for each number."
)
def unicode_numbers(text):
    return [ord(symbol) for symbol in text]


one_apart = Exercise(
    "text.4",
    "One character apart",
    "Lay the windows out first, without overlap. A target is the character after its input, "
    "so the targets are the same windows, taken from the text without its first character.",
    gradients=False,
)


@one_apart.inputs
def some_ids():
    for N, T in ((13, 4), (12, 4), (9, 2)):
        yield torch.randint(50, (N,)), T


@one_apart.solution
def inputs_and_targets(ids, T):
    count = (len(ids) - 1) // T
    return ids[: count * T].view(count, T), ids[1 : count * T + 1].view(count, T)


@one_apart.wrong(
    "The targets are the inputs. A network that copies what it reads gets a loss of zero."
)
def no_shift(ids, T):
    inputs, _ = inputs_and_targets(ids, T)
    return inputs, inputs


@one_apart.wrong(
    "Here the target comes before its input: the network predicts the past."
)
def other_way(ids, T):
    inputs, targets = inputs_and_targets(ids, T)
    return targets, inputs


@one_apart.wrong(
    "Targets that are rolled inside a window end with the window's own first character. The "
    "last target is the first character of the next window."
)
def rolled(ids, T):
    inputs, _ = inputs_and_targets(ids, T)
    return inputs, inputs.roll(-1, 1)


side_by_side = Exercise(
    "text.5",
    "Streams side by side",
    "Each row is one contiguous piece of the text. How long is it, if all are equally long?",
    gradients=False,
)


@side_by_side.inputs
def some_long_ids():
    for N, B in ((12, 3), (14, 3), (21, 4)):
        yield torch.arange(N), B


@side_by_side.solution
def streams(ids, B):
    length = len(ids) // B
    return ids[: B * length].view(B, length)


@side_by_side.wrong(
    "The characters are dealt out like cards: neighbours in the text land in different rows, "
    "and no row can be read."
)
def dealt(ids, B):
    length = len(ids) // B
    return ids[: B * length].view(length, B).T


@side_by_side.wrong(
    "The rest that does not fill a row is left out at the end of the text, and not at its "
    "beginning."
)
def from_the_end(ids, B):
    length = len(ids) // B
    return ids[len(ids) - B * length :].view(B, length)


@side_by_side.wrong("The rows are the streams: the shape is (B, N // B).")
def lying(ids, B):
    return streams(ids, B).T
