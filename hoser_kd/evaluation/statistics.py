"""Statistics over a few seeds: the mean paired difference with its confidence interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit


class Difference(NamedTuple):
    """A mean difference and its confidence interval."""

    mean: float
    """Mean of the differences."""
    low: float
    """Lower end of the interval; NaN for a single pair."""
    high: float
    """Upper end of the interval; NaN for a single pair."""

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(values_a: npt.ArrayLike, values_b: npt.ArrayLike, confidence: float = 0.95) -> Difference:
    """Return the mean of a - b over pairs (runs of the same seed), with its t-interval.

    The interval is mean ± t · s / sqrt(k) for k pairs, with t the two-sided quantile of Student's distribution at
    k - 1 degrees of freedom and s the sample standard deviation of the differences.

    Raises:
        ValueError: the arrays differ in length or are empty, or `confidence` is not between 0 and 1.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"expected two 1-d arrays of the same length, got shapes {a.shape} and {b.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    difference = a - b
    mean = float(difference.mean())
    if len(a) == 1:
        return Difference(mean, float("nan"), float("nan"))
    # scipy.stats.ttest_rel gives the same interval (1e-12), but warns of lost precision where all seeds differ by the
    # same amount, a valid result here; silencing that takes more code than the formula.
    half = float(stdtrit(len(a) - 1, (1 + confidence) / 2) * difference.std(ddof=1) / np.sqrt(len(a)))
    return Difference(mean, mean - half, mean + half)
