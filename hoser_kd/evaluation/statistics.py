"""What a few seeds can say: a paired difference with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit


class Difference(NamedTuple):
    """A mean difference and its interval; the ends are NaN where one pair gives none."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it does not hold 0."""
        return self.low > 0 or self.high < 0


def paired_difference(values_a: npt.ArrayLike, values_b: npt.ArrayLike, confidence: float = 0.95) -> Difference:
    """Return the mean of a - b over pairs (runs of the same seed), with its t-interval.

    The interval is mean ± t · s / sqrt(k) for k pairs, with t the two-sided quantile of Student's distribution at
    k - 1 degrees of freedom and s the sample standard deviation of the differences.

    Raises:
        ValueError: the two differ in length, are empty, or `confidence` is not between 0 and 1.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"pairs of values are needed, not arrays of shapes {a.shape} and {b.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}")
    difference = a - b
    mean = float(difference.mean())
    if len(a) == 1:
        return Difference(mean, float("nan"), float("nan"))
    half = float(stdtrit(len(a) - 1, (1 + confidence) / 2) * difference.std(ddof=1) / np.sqrt(len(a)))
    return Difference(mean, mean - half, mean + half)
