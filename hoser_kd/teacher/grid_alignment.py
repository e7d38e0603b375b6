"""Test whether the grid bounds in the settings match a teacher's training grid, by the likelihood of trips.

A published checkpoint holds the size of its grid, not its bounds. Bounds that are wrong by half a cell leave all counts
unchanged but move most roads into another cell. A trained teacher detects it: its negative log-likelihood (NLL) of the
city's trips is lowest at its training grid. The grid is shifted by up to half a cell in all directions and, if that is
inconclusive, by whole cells, and NLLs are compared trip by trip. A barely trained teacher gives no conclusive result.

Shapes: n trips, S shifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.progress import Progress, silent
from hoser_kd.teacher.corpus import Corpus
from hoser_kd.teacher.scoring import score

if TYPE_CHECKING:
    import torch

    from hoser_kd.common.arrays import BoolArray, Float64Array
    from hoser_kd.grid.spec import GridSpec
    from hoser_kd.lmtad.model import LMTAD
    from hoser_kd.network.trajectories import Trajectories

    _Compared = tuple[Float64Array, Float64Array, Float64Array]


class Shift(NamedTuple):
    """Displacement of a grid in cells to the north and to the east."""

    north: float
    east: float


NEAR = tuple(Shift(*shift) for shift in product((0.0, 0.25, -0.25, 0.5, -0.5), repeat=2))
"""The unshifted grid first, then shifts of up to half a cell."""
FAR = tuple(Shift(*shift) for shift in product(range(-5, 6), repeat=2) if shift != (0, 0))
"""Shifts by whole cells, evaluated on fewer trips if `NEAR` is inconclusive."""

_NEAR_TRIPS, _FAR_TRIPS = 48, 16
_MIN_STANDARD_ERRORS = 4.0
"""Number of standard errors above which a gain is significant."""
_MIN_GAIN_NATS = 0.05
"""Gain per token below which a difference is negligible, even if significant."""
_MAX_MORE_CLAMPED = 0.02
"""A shift that clamps this share more of the points is excluded: clamped trips repeat a cell, which is easy."""


@dataclass(frozen=True)
class Alignment:
    """The teacher's NLL of the same trips in shifted grids."""

    shifts: tuple[Shift, ...]
    """S shifts; the first one is zero."""
    losses: Float64Array
    """(S,) float64: mean NLL in nats per token."""
    gains: Float64Array
    """(S,) float64: loss of the unshifted grid minus the loss of each shift, over the same trips."""
    errors: Float64Array
    """(S,) float64: standard error of each gain."""
    uniform_nats: float
    """NLL in nats per token of a uniform distribution over all labels and EOT."""
    num_trips: int
    """n."""

    @property
    def best(self) -> Shift:
        """The shift with the largest gain."""
        return self.shifts[int(np.argmax(self.gains))]

    @property
    def is_misplaced(self) -> bool:
        """Whether a shifted grid has a clearly lower NLL."""
        return bool((self.gains > self._threshold).any())

    @property
    def is_conclusive(self) -> bool:
        """Whether the test is conclusive: all shifts of half a cell or more are clearly worse, or one is better."""
        far = np.array([max(map(abs, shift)) >= 0.5 for shift in self.shifts])
        return self.is_misplaced or bool((-self.gains > self._threshold)[far].all())

    @property
    def _threshold(self) -> Float64Array:
        return np.maximum(_MIN_STANDARD_ERRORS * self.errors, _MIN_GAIN_NATS)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the check."""
        half_cell = [loss for shift, loss in zip(self.shifts, self.losses, strict=True) if max(map(abs, shift)) == 0.5]
        tried = [
            {
                "cells_north": shift.north,
                "cells_east": shift.east,
                "loss": round(float(loss), 4),
                "gain": round(float(gain), 4),
            }
            for shift, loss, gain in zip(self.shifts, self.losses, self.gains, strict=True)
        ]
        return {
            "trips": self.num_trips,
            "loss": round(float(self.losses[0]), 4),
            "uniform_loss": round(self.uniform_nats, 4),
            "min_loss_half_cell": round(float(min(half_cell)), 4),
            "misplaced": self.is_misplaced,
            "is_conclusive": self.is_conclusive,
            "best_cells_north": self.best.north,
            "best_cells_east": self.best.east,
            "shifts_tried": len(self.shifts),
            "tried": tried,
        }


def alignment(
    model: LMTAD,
    grid: GridSpec,
    centroids: Float64Array,
    trips: Trajectories,
    *,
    device: torch.device | str | None = None,
    progress: Progress = silent,
) -> Alignment | None:
    """Return the teacher's NLL in the grid and in shifted grids; None if no trip fits the teacher's context.

    `centroids` (N, 2) float64 are latitude and longitude of the roads in degrees. Raises TrainingError if the grid has
    more cells than the teacher has labels.
    """
    rows = np.flatnonzero(np.diff(trips.offsets) <= model.config.block_size - model.config.frame)[:_NEAR_TRIPS]
    if len(rows) == 0:
        return None

    def evaluate(shifts: Sequence[Shift], num_trips: int) -> _Compared:
        some = trips.take(rows[:num_trips])

        def cells(shift: Shift) -> tuple[Corpus, BoolArray]:
            road_cells = shifted(grid, shift).cell_of(*centroids.T)
            tokens = road_cells.row * grid.shape[1] + road_cells.column
            return Corpus(some.offsets, tokens[some.road_ids]), road_cells.clamped[some.road_ids]

        return _compare(model, shifts, cells, device, progress)

    near = evaluate(NEAR, _NEAR_TRIPS)
    result = Alignment(NEAR, *near, math.log(model.config.num_labels + 1), len(rows))
    if result.is_conclusive:
        return result
    far = evaluate((NEAR[0], *FAR), _FAR_TRIPS)
    losses, gains, errors = (np.concatenate([first, second[1:]]) for first, second in zip(near, far, strict=True))
    return replace(result, shifts=NEAR + FAR, losses=losses, gains=gains, errors=errors)


def _compare(
    model: LMTAD,
    shifts: Sequence[Shift],
    cells: Callable[[Shift], tuple[Corpus, BoolArray]],
    device: torch.device | str | None,
    progress: Progress,
) -> _Compared:
    """Return losses, gains and errors, (S,) float64; gains are at most 0 where a shift clamps clearly more points."""
    nats, clamped = [], []
    for done, shift in enumerate(shifts, 1):
        corpus, outside = cells(shift)
        nll = score(model, corpus, device=device)
        nats.append(np.bincount(row_of_value(nll.offsets), nll.nats, minlength=corpus.num_sequences))
        clamped.append(float(outside.mean()))
        progress("grid alignment", done, len(shifts))
    nats_Sn, tokens_n = np.stack(nats), corpus.lengths + 1
    losses = nats_Sn.sum(1) / tokens_n.sum()
    # standard error of a ratio of sums over trips: gains of trips minus their share of the total gain
    excess_Sn = nats_Sn[0] - nats_Sn - (losses[0] - losses)[:, None] * tokens_n
    errors = np.sqrt((excess_Sn**2).sum(1)) / tokens_n.sum()
    allowed = np.array(clamped) <= clamped[0] + _MAX_MORE_CLAMPED
    return losses, np.where(allowed, losses[0] - losses, np.minimum(losses[0] - losses, 0.0)), errors


def shifted(grid: GridSpec, shift: Shift) -> GridSpec:
    """Return the grid displaced by fractions of its (merged) cells, with the same number of rows and columns."""
    south = grid.min_lat + shift.north * grid.cell_lat * grid.downsample_factor
    west = grid.min_lng + shift.east * grid.cell_lng * grid.downsample_factor
    height, width = grid.full_shape
    # the upper bounds only determine the number of cells: the middle of the last cell is safe from rounding
    return replace(
        grid,
        min_lat=south,
        max_lat=south + (height - 0.5) * grid.cell_lat,
        min_lng=west,
        max_lng=west + (width - 0.5) * grid.cell_lng,
    )
