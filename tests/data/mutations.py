"""Damage to files; `STATEFILM_MUTATIONS=2000` does so much of it in place of every day's."""

import os

COUNT = int(os.environ.get("STATEFILM_MUTATIONS", "300"))


def mutate(data, other, draw):
    """Cut short, a few bytes changed, or a piece of another input inside."""
    data = bytearray(data)
    kind = draw.choice(("truncate", "flip", "flip", "splice", "repeat"))
    place = draw.randrange(len(data))
    if kind == "truncate":
        return bytes(data[:place])
    if kind == "flip":
        # Headers stand at the front: half of the changes are made there.
        end = draw.choice((len(data), min(len(data), 256)))
        for _ in range(draw.choice((1, 4, 32))):
            data[draw.randrange(end)] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        return bytes(data)
    length = draw.randrange(1, 256)
    if kind == "splice":
        start = draw.randrange(len(other))
        return bytes(data[:place] + other[start : start + length] + data[place + length :])
    return bytes(data[:place] + data[place : place + length] * 3 + data[place + length :])
