"""Outlier detection with the teacher, evaluated as for LM-TAD (Mbuya et al., SIGSPATIAL 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array, row_of_value
from hoser_kd.common.progress import Progress, silent
from hoser_kd.lmtad import LMTAD, check_grid
from hoser_kd.teacher.corpus import Corpus
from hoser_kd.teacher.scoring import score

KINDS = ("route_switch", "detour")


class OutlierSetting(NamedTuple):
    """How outliers are generated."""

    ratio: float
    """Number of outliers of each kind, as a share of the trips."""
    level: int
    """Number of cells by which a point is moved."""
    prob: float
    """route_switch: probability that a point is moved; detour: share of the trip that is moved."""


PUBLISHED_SETTINGS = (OutlierSetting(0.05, 3, 0.1), OutlierSetting(0.05, 3, 0.3), OutlierSetting(0.05, 5, 0.1))


_DIRECTIONS = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)])


@dataclass(frozen=True)
class OutlierResult:
    """Detection of one kind of outliers among normal trips."""

    kind: str
    """route_switch or detour."""
    setting: OutlierSetting
    """How they were generated."""
    threshold: float
    """Mean + 3 standard deviations of the scores of normal trips."""
    normal: Float64Array
    """(n,) float64: log-perplexities of normal trips."""
    outliers: Float64Array
    """Log-perplexities of the outliers, float64."""
    share_changed: float = 1.0
    """Share of outliers that differ from their trip: in short ones, possibly no point is moved, as published."""

    def metrics(self) -> dict[str, Any]:
        """Return kind, setting, counts, threshold and detection metrics.

        The six published metrics are accuracy, precision, recall and f1 at the threshold, average_precision and
        pr_auc; `chance` is the expected value of the last two for random scores. roc_auc is the probability that an
        outlier scores above a normal trip; it depends neither on the threshold nor on the share of outliers.
        """
        is_outlier = np.repeat([False, True], [len(self.normal), len(self.outliers)])
        # only here: it takes a second of every process that imports it
        from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

        scores = np.concatenate([self.normal, self.outliers])
        precisions, recalls, _ = precision_recall_curve(is_outlier, scores)
        return {
            "kind": self.kind,
            **self.setting._asdict(),
            "num_normal": len(self.normal),
            "num_outliers": len(self.outliers),
            "share_changed": round(self.share_changed, 4),
            "threshold": self.threshold,
            **_at_threshold(is_outlier, scores > self.threshold),
            "average_precision": float(average_precision_score(is_outlier, scores)),
            "pr_auc": float(auc(recalls, precisions)),
            "chance": float(is_outlier.mean()),
            "roc_auc": float(roc_auc_score(is_outlier, scores)),
        }


def _at_threshold(is_outlier: BoolArray, flagged: BoolArray) -> dict[str, float]:
    hits = int((is_outlier & flagged).sum())
    precision, recall = hits / max(int(flagged.sum()), 1), hits / max(int(is_outlier.sum()), 1)
    return {
        "accuracy": float((is_outlier == flagged).mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
    }


def outlier_test(
    model: LMTAD,
    corpus: Corpus,
    grid_shape: tuple[int, int],
    seed: int = 0,
    *,
    settings: Sequence[OutlierSetting] = PUBLISHED_SETTINGS,
    cells: Int64Array | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    half: bool = False,
    progress: Progress = silent,
) -> list[OutlierResult]:
    """Detect generated outliers among normal trips by log-perplexity (Mbuya et al., SIGSPATIAL 2024).

    For each setting, `ratio` of the trips are sampled, with replacement as published, and changed into route switches,
    and as many into detours; each kind is compared with all normal trips. Sequences longer than the teacher's context
    are left out. `grid_shape` is (H, W). `cells` (L,) int64, ascending: the cell of each token, if only occupied cells
    have tokens; a point moved to a cell without a token is moved to the nearest other cell with one. Raises
    CheckpointError if the grid does not fit the vocabulary.
    """
    corpus = Corpus(*corpus)
    check_grid(model.config.vocab_size, grid_shape if cells is None else (1, len(cells)))
    if cells is not None:
        corpus = Corpus(corpus.offsets, cells[corpus.tokens])
    corpus = corpus.take(np.flatnonzero(corpus.lengths <= model.config.block_size - model.config.frame))
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "half": half}
    width = grid_shape[1]
    normal = score(model, _as_tokens(corpus, corpus, cells, width), progress=progress, **options).log_perplexity
    threshold = float(normal.mean() + 3 * normal.std(ddof=min(1, len(normal) - 1)))
    results = []
    for number, setting in enumerate(map(OutlierSetting._make, settings)):
        for change, kind in zip((route_switches, detours), KINDS, strict=True):
            rng = np.random.default_rng((seed, number, KINDS.index(kind)))
            drawn = rng.integers(0, corpus.num_sequences, max(1, int(corpus.num_sequences * setting.ratio)))
            trips = corpus.take(drawn)
            changed = change(trips, grid_shape, setting.level, setting.prob, rng)
            scores = score(model, _as_tokens(changed, trips, cells, width), **options).log_perplexity
            differs = np.bincount(row_of_value(trips.offsets), changed.tokens != trips.tokens) > 0
            results.append(OutlierResult(kind, setting, threshold, normal, scores, float(differs.mean())))
    return results


def _as_tokens(changed: Corpus, original: Corpus, cells: Int64Array | None, width: int) -> Corpus:
    """Map cells to tokens; a point moved to a cell without a token is moved to the nearest other cell with one."""
    if cells is None:
        return changed
    tokens = np.searchsorted(cells, original.tokens)
    moved = np.flatnonzero(changed.tokens != original.tokens)
    if len(moved) == 0 or len(cells) < 2:
        return Corpus(changed.offsets, tokens)

    tree = cKDTree(np.stack(np.divmod(cells, width), 1))
    _, nearest = tree.query(np.stack(np.divmod(changed.tokens[moved], width), 1), k=2)
    back = nearest[:, 0] == tokens[moved]
    tokens[moved] = np.where(back, nearest[:, 1], nearest[:, 0])
    return Corpus(changed.offsets, tokens)


def route_switches(
    corpus: Corpus, grid_shape: tuple[int, int], level: int, prob: float, rng: np.random.Generator
) -> Corpus:
    """Move each inner token, with probability `prob`, by `level` cells in one of 8 directions.

    A point that would leave the (H, W) grid is not moved, as published.
    """
    row = row_of_value(corpus.offsets)
    place = np.arange(len(row)) - corpus.offsets[row]
    inner = (place > 0) & (place < corpus.lengths[row] - 1)
    chosen = inner & (rng.random(len(row)) < prob)
    step = _DIRECTIONS[rng.integers(0, len(_DIRECTIONS), len(row))] * level
    return Corpus(corpus.offsets, np.where(chosen, _moved(corpus.tokens, step, grid_shape), corpus.tokens))


def detours(corpus: Corpus, grid_shape: tuple[int, int], level: int, prob: float, rng: np.random.Generator) -> Corpus:
    """Move one contiguous part, `prob` of the inner length, by `level` cells perpendicular to its direction.

    The direction is the sign of (start - end) of the part along each axis, with one of the two axes inverted at random:
    perpendicular for a diagonal part, along the grid for a straight one, as published. Points that would leave the
    (H, W) grid are not moved.
    """
    length = (np.maximum(corpus.lengths - 2, 0) * prob).astype(np.int64)
    first = 1 + (rng.random(len(length)) * np.maximum(corpus.lengths - length - 2, 0)).astype(np.int64)
    last = np.minimum(first + length, np.maximum(corpus.lengths - 1, 0))
    starts = corpus.offsets[:-1]
    ends = [np.stack(np.divmod(_at(corpus.tokens, starts + at), grid_shape[1]), 1) for at in (first, last)]
    direction = np.sign(ends[0] - ends[1])
    turned = rng.integers(0, 2, len(length))
    direction[np.arange(len(length)), turned] *= -1
    row = row_of_value(corpus.offsets)
    place = np.arange(len(row)) - starts[row]
    chosen = (place >= first[row]) & (place < first[row] + length[row])
    return Corpus(
        corpus.offsets, np.where(chosen, _moved(corpus.tokens, direction[row] * level, grid_shape), corpus.tokens)
    )


def _at(tokens: Int64Array, places: Int64Array) -> Int64Array:
    """Return tokens at positions, clipped to the array: for trips too short for a part, any token will do."""
    return tokens[np.clip(places, 0, len(tokens) - 1)]


def _moved(tokens: Int64Array, step: npt.NDArray[np.int64], grid_shape: tuple[int, int]) -> Int64Array:
    """Return tokens moved by (K, 2) rows and columns, unchanged where that leaves the grid."""
    height, width = grid_shape
    i, j = np.stack(np.divmod(tokens, width)) + step.T
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    return np.where(inside, i * width + j, tokens)
