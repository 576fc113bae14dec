"""The exercises in code of the chapter on compression, for `hlstm.exercises`."""

import zlib

from hlstm.exercises import Exercise

damaged = Exercise(
    "compression.5",
    "A decoder for a damaged code",
    "There are 8 bits in a byte. Turn one of them round, decode, ask; then turn it back before "
    "you try the next.",
    gradients=False,
)


@damaged.inputs
def some_codes():
    yield b"To be, or not to be", 17
    yield b"that is the question", 90
    yield b"whole", None


@damaged.probe
def with_a_bit_turned(answer, text, bit):
    before, wanted = (0, *text[:-1]), zlib.crc32(text)
    code = bytearray(a ^ b for a, b in zip(text, before, strict=True))
    if bit is not None:
        code[bit // 8] ^= 1 << bit % 8

    def decode(code):
        found, last = [], 0
        for byte in code:
            last ^= byte
            found.append(last)
        if max(found) >= 128:
            raise ValueError("the code is damaged")
        return bytes(found).decode()

    return answer(
        bytes(code), decode, lambda found: zlib.crc32(found.encode()) == wanted
    )


@damaged.solution
def repair(code, decode, is_right):
    trials = [code]
    for k in range(8 * len(code)):
        trial = bytearray(code)
        trial[k // 8] ^= 1 << k % 8
        trials.append(bytes(trial))
    for trial in trials:
        try:
            text = decode(trial)
        except ValueError:
            continue
        if is_right(text):
            return text


@damaged.wrong(
    "This is the first text that can be decoded at all. Most damaged codes decode to some "
    "text: only the checksum, `is_right`, tells which is the one."
)
def anything(code, decode, is_right):
    return repair(code, decode, lambda text: True)


@damaged.wrong(
    "A bit that did not help stays turned, so the damage grows. Turn it back, or start from a "
    "copy for each trial."
)
def never_back(code, decode, is_right):
    trial = bytearray(code)
    for k in range(-1, 8 * len(code)):
        if k >= 0:
            trial[k // 8] ^= 1 << k % 8
        try:
            text = decode(bytes(trial))
        except ValueError:
            continue
        if is_right(text):
            return text


@damaged.wrong("The code may be whole: try it as it stands before you turn a bit.")
def always_turned(code, decode, is_right):
    for k in range(8 * len(code)):
        trial = bytearray(code)
        trial[k // 8] ^= 1 << k % 8
        try:
            text = decode(bytes(trial))
        except ValueError:
            continue
        if is_right(text):
            return text
