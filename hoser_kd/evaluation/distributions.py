"""Compare two distributions: published histograms and their Jensen-Shannon divergence.

Shapes: K values, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array

NUM_EDGES = 100
"""Evenly spaced histogram edges from 0 to the real maximum; one more bin holds larger values."""


@dataclass(frozen=True)
class DistributionPair:
    """Values of the real and the generated trips, with their histograms over the same edges."""

    real: Float64Array
    """(K,) float64."""
    generated: Float64Array
    """(K,) float64; its number of values may differ."""
    edges: Float64Array
    """(B + 1,) float64, the last one infinite."""
    real_histogram: Int64Array
    """(B,) int64."""
    generated_histogram: Int64Array
    """(B,) int64."""

    @classmethod
    def of(cls, real: Float64Array, generated: Float64Array) -> DistributionPair | None:
        """Return the pair with its histograms; None where either side has no value (trips of one road have no step)."""
        if len(real) == 0 or len(generated) == 0:
            return None
        edges = histogram_edges(real)
        counts = [np.histogram(values, edges)[0] for values in (real, generated)]
        return cls(real, generated, edges, counts[0], counts[1])

    @property
    def divergence(self) -> float:
        """Jensen-Shannon divergence of the two histograms, nats."""
        return jensen_shannon(self.real_histogram, self.generated_histogram)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return values, finite edges and histograms by name, for the details of `evaluate`."""
        return {
            "real": self.real,
            "generated": self.generated,
            "edges": self.edges[:-1],
            "real_histogram": self.real_histogram,
            "generated_histogram": self.generated_histogram,
        }


def histogram_edges(real: Float64Array) -> Float64Array:
    """Return the (101,) float64 published edges: 100 from 0 to the real maximum, then infinity.

    The maximum itself falls into the last, open bin, as in the published code.
    """
    return np.append(np.linspace(0, real.max(initial=0), NUM_EDGES), np.inf)


def jensen_shannon(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> float:
    """Return the Jensen-Shannon divergence of two (B,) arrays of counts, nats: 0 if equal, ln 2 if disjoint."""
    # As published. scipy's jensenshannon returns the square root: squaring it changes the last bits, and a sum that
    # rounding leaves just below 0 (two almost equal histograms) would become NaN. The 1e-14 keeps empty counts at 0.
    p, q = p / (p.sum() + 1e-14), q / (q.sum() + 1e-14)
    middle = (p + q) / 2
    return float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
