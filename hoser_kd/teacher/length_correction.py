"""Correction of the lengths of sampled trips, which a teacher tends to make longer or shorter than real ones.

Two corrections: accept trips with a probability by their length, or sample at another temperature. Both are fitted to
the lengths of training trips on a first sample; the one whose lengths are closer to those of validation trips is used.

Shapes: n trips, B bins of lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import rel_entr

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array

Kind = Literal["none", "acceptance", "temperature"]
NUM_BINS = 20
"""Bins of lengths, of about equal numbers of real trips."""
TEMPERATURES = (0.8, 0.9, 1.1, 1.25)
"""Factors of the temperature that are tried."""
MAX_REJECTION = 5.0
"""Attempts per accepted trip; lengths that would need more stay too rare."""


@dataclass(frozen=True)
class LengthCorrection:
    """Temperature of sampling, and the probability of acceptance by length."""

    kind: Kind
    """Which correction was chosen."""
    temperature: float
    """Temperature of sampling."""
    edges: tuple[float, ...] = ()
    """(B - 1,) upper ends of all bins but the last, in roads."""
    acceptance: tuple[float, ...] = (1.0,)
    """(B,) probability with which a trip of each bin is accepted."""

    def accepts(self, lengths: Int64Array, chance: Float64Array) -> BoolArray:
        """Return (n,) bool: which trips are accepted; `chance` (n,) uniform random numbers in [0, 1)."""
        accepted: BoolArray = chance < self.acceptance_of(lengths)
        return accepted

    def acceptance_of(self, lengths: Int64Array) -> Float64Array:
        """Return (n,) float64: probability with which trips of these lengths are accepted."""
        probability: Float64Array = np.asarray(self.acceptance)[np.searchsorted(self.edges, lengths)]
        return probability

    def to_json(self) -> dict[str, Any]:
        """Return the correction as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LengthCorrection:
        """Return the correction of a record of `to_json`."""
        return cls(**{**record, "edges": tuple(record["edges"]), "acceptance": tuple(record["acceptance"])})


def length_edges(real: Int64Array) -> Float64Array:
    """Return the upper ends of all bins but the last: quantiles of the lengths of real trips, ascending, distinct."""
    edges: Float64Array = np.unique(np.quantile(real, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="inverted_cdf"))
    return edges.astype(np.float64)


def shares(lengths: Int64Array, edges: Float64Array, weights: Float64Array | None = None) -> Float64Array:
    """Return (B,) float64: share of the trips in each bin of lengths; zeros without trips."""
    counts = np.bincount(np.searchsorted(edges, lengths), weights, len(edges) + 1)
    share: Float64Array = counts / max(counts.sum(), 1e-300)
    return share


def length_divergence(p: Float64Array, q: Float64Array) -> float:
    """Return the Jensen-Shannon divergence of two (B,) distributions, nats."""
    middle = (p + q) / 2
    return float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2


def acceptance_for(sampled: Int64Array, real: Int64Array, temperature: float = 1.0) -> LengthCorrection:
    """Return the acceptance that gives `sampled` lengths the distribution of `real` ones, both (n,) int64."""
    edges = length_edges(real)
    # a bin without sampled trips counts as one with a single trip
    least = 1 / max(len(sampled), 1)
    ratio = shares(real, edges) / np.maximum(shares(sampled, edges), least)
    probability = np.minimum(ratio / min(float(ratio.max()), MAX_REJECTION), 1.0)
    return LengthCorrection("acceptance", temperature, tuple(edges.tolist()), tuple(probability.tolist()))


def choose_correction(
    kind: Kind | Literal["auto"],
    sample_lengths: Callable[[float], Int64Array],
    train: Int64Array,
    val: Int64Array,
    temperature: float = 1.0,
) -> tuple[LengthCorrection, list[dict[str, Any]]]:
    """Return the correction with the lowest divergence from the lengths of validation trips, and a row for each tried.

    `sample_lengths` returns the lengths of trips sampled at a temperature, (n,) int64. `train` and `val`: lengths of
    real trips. `kind` `auto` tries all corrections, another one only those of that kind. If no sampled trip ends,
    there is nothing to correct.
    """
    if kind == "none":
        return LengthCorrection("none", temperature), []
    plain = sample_lengths(temperature)
    tried = [(LengthCorrection("none", temperature), plain)]
    if kind in ("auto", "acceptance") and len(plain):
        tried.append((acceptance_for(plain, train, temperature), plain))
    if kind in ("auto", "temperature"):
        others = [temperature * factor for factor in TEMPERATURES]
        tried += [(LengthCorrection("temperature", other), sample_lengths(other)) for other in others]
    rows = [_row(correction, lengths, val) for correction, lengths in tried]
    best = min(range(len(rows)), key=lambda i: rows[i]["length_jsd"])
    return tried[best][0], rows


def _row(correction: LengthCorrection, lengths: Int64Array, val: Int64Array) -> dict[str, Any]:
    """Return the metrics of a correction: accepted share, mean length and divergence from validation trips."""
    edges, weights = length_edges(val), correction.acceptance_of(lengths)
    return {
        "correction": correction.kind,
        "temperature": round(correction.temperature, 4),
        "accepted": round(float(weights.mean()), 4) if len(lengths) else 0.0,
        "mean_roads": round(float(np.average(lengths, weights=weights)), 3) if weights.sum() > 0 else 0.0,
        "length_jsd": round(length_divergence(shares(lengths, edges, weights), shares(val, edges)), 6),
    }
