"""Mean and standard deviation of values that are computed part by part, bit for bit as NumPy has them of the whole.

NumPy sums a contiguous array pairwise: it halves the array until a part has at most 128 values (Higham 1993). The
same halves are made here down to parts of `_AT_ONCE` values, which NumPy itself sums, so that no rounding differs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hoser_kd.common.arrays import Float64Array

Values = Callable[[int, int], Float64Array]
"""Returns the values from the first to before the last position, float64."""

_AT_ONCE = 1 << 20
_MULTIPLE = 8
"""NumPy's halves start at multiples of its unrolled loop."""


def pairwise_sum(values: Values, count: int, at_once: int = _AT_ONCE) -> float:
    """Return `np.sum` of `count` values; at most `at_once` (128 or more) are computed at a time."""
    return _sum(values, 0, count, at_once)


def mean_and_std(values: Values, count: int, at_once: int = _AT_ONCE) -> tuple[float, float]:
    """Return `np.mean` and the population standard deviation `np.std` of `count` values, each computed twice.

    Both are NaN without values.
    """
    if count == 0:
        return float("nan"), float("nan")
    mean = pairwise_sum(values, count, at_once) / count
    squares = pairwise_sum(lambda first, last: np.square(values(first, last) - mean), count, at_once)
    return mean, float(np.sqrt(squares / count))


def _sum(values: Values, first: int, last: int, at_once: int) -> float:
    count = last - first
    if count <= at_once:
        return float(np.add.reduce(values(first, last)))
    middle = first + count // 2 - count // 2 % _MULTIPLE
    return _sum(values, first, middle, at_once) + _sum(values, middle, last, at_once)
