"""Confidence intervals: Wilson's for a proportion, and for a mean of proportions."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def wilson_interval(successes: float, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The interval (low, high), inside [0, 1], for a proportion of `successes` in `trials`.

    A sum of scores in [0, 1] may stand for the successes: none varies more than yes and no, so
    that the interval is then too wide rather than too narrow. `z` is the normal quantile of the
    confidence (default: 95 %, two-sided). Unlike the normal interval it keeps its coverage near 0
    and 1. No trials tell nothing: (0, 1).
    Source: E. B. Wilson, "Probable inference", JASA 22 (1927), equation 4.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes={successes} of trials={trials}: must be between 0 and trials")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    spread = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    middle = rate + z * z / (2 * trials)
    scale = 1 + z * z / trials
    # Rates of 0 and 1 are ends of their own intervals, which rounding would miss.
    low = (middle - spread) / scale if successes else 0.0
    high = (middle + spread) / scale if successes < trials else 1.0
    return low, high


def mean_interval(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The interval for the mean of independent figures, each (value, low, high).

    The distances of the parts' own ends add in squares, as variances do.
    Source: G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008), the MOVER, equation 2.
    """
    if not parts:
        raise ValueError("no figures to average: at least one is needed")
    mean = math.fsum(value for value, _, _ in parts) / len(parts)
    below = math.hypot(*(value - low for value, low, _ in parts)) / len(parts)
    above = math.hypot(*(high - value for value, _, high in parts)) / len(parts)
    # Neither is beyond the farthest end of a part but by rounding.
    low, high = min(low for _, low, _ in parts), max(high for _, _, high in parts)
    return max(low, mean - below), min(high, mean + above)
