"""Accelerators by name, and sizes of memory as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from statefilm.errors import UsageError, suggest

__all__ = ["DEVICES", "Device", "find_device", "parse_bytes"]

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


@dataclass(frozen=True)
class Device:
    """What the data sheet says of one device.

    Attributes:
        bfloat16, float32: operations a second in dense matrix products, without TF32.
        memory: bytes.
    """

    bfloat16: float
    float32: float
    memory: float

    def rate(self, precision: str) -> float:
        """Operations a second in "bfloat16" or "float32"."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


DEVICES = {
    "a10": Device(125e12, 31.2e12, 24e9),
    "a100": Device(312e12, 19.5e12, 80e9),
    "a100-40gb": Device(312e12, 19.5e12, 40e9),
    "h100": Device(989e12, 67e12, 80e9),
    "h200": Device(989e12, 67e12, 141e9),
    "b200": Device(2250e12, 75e12, 180e9),
    "l4": Device(121e12, 30.3e12, 24e9),
    "l40s": Device(362e12, 91.6e12, 48e9),
    "rtx-4090": Device(165e12, 82.6e12, 24e9),
    "mi300x": Device(1307e12, 163e12, 192e9),
}


def find_device(name: str) -> Device:
    """A device of `DEVICES`.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    if name.lower() not in DEVICES:
        raise suggest(name, DEVICES, "device")
    return DEVICES[name.lower()]


def parse_bytes(text: str) -> int:
    """Bytes of "80GB" (powers of 1000) or "80GiB" (powers of 1024).

    Raises:
        UsageError: it is not a positive number with a unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?i?B)", text.strip())
    unit = found[2].replace("k", "K") if found else ""
    if found is None or unit not in UNITS or not float(found[1]) > 0:
        raise UsageError(f"memory {text!r} is not a size such as 80GB, 79.6GiB or 24000MB")
    return round(float(found[1]) * UNITS[unit])
