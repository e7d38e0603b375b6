"""Whether a teacher's grid lies where the settings say, asked of the teacher itself.

A published checkpoint holds the size of its grid and not its bounds. Bounds given for it that are half a cell off keep
every figure of the grid as it was and move most roads into another cell. The teacher notices: it knows which cell
follows which, so its surprise over the city's own trips is least where the grid lies as in its training. Here the grid
is shifted by up to half a cell to all sides and, where that does not settle it, by whole cells, and the surprise of
each is compared trip by trip. A teacher that has learnt next to nothing cannot tell, and says so.

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
from hoser_kd.teacher.corpus import FRAME, Corpus
from hoser_kd.teacher.scoring import score

if TYPE_CHECKING:
    import torch

    from hoser_kd.common.arrays import BoolArray, Float64Array
    from hoser_kd.grid.spec import GridSpec
    from hoser_kd.lmtad.model import LMTAD
    from hoser_kd.network.trajectories import Trajectories

    _Compared = tuple[Float64Array, Float64Array, Float64Array]


class Shift(NamedTuple):
    """A grid moved by cells to the north and to the east."""

    north: float
    east: float


NEAR = tuple(Shift(*shift) for shift in product((0.0, 0.25, -0.25, 0.5, -0.5), repeat=2))
"""The grid as it is, and around it."""
FAR = tuple(Shift(*shift) for shift in product(range(-5, 6), repeat=2) if shift != (0, 0))
"""Tried where the near ones leave it open, with fewer trips."""

_NEAR_TRIPS, _FAR_TRIPS = 48, 16
_SURE = 4.0
"""Standard errors by which a shifted grid must suit better before the grid counts as misplaced."""
_LEAST_GAIN_NATS = 0.05
"""Gain a token below which a difference is no matter, however sure."""
_MORE_CLAMPED = 0.02
"""A shift that clamps this share of the points more is no candidate: clamped trips repeat a cell, which is easy."""


@dataclass(frozen=True)
class Alignment:
    """The teacher's surprise over the same trips in grids shifted this way and that."""

    shifts: tuple[Shift, ...]
    """S shifts; the first is the grid as it is."""
    losses: Float64Array
    """(S,) float64: mean surprise in nats a token."""
    gains: Float64Array
    """(S,) float64: by how much each loss is below that of the grid as it is, over the same trips."""
    errors: Float64Array
    """(S,) float64: standard error of the gain."""
    guess_nats: float
    """SequenceNLL of a guess among all labels and the end."""
    num_trips: int
    """n."""

    @property
    def best(self) -> Shift:
        """The shift that gains most."""
        return self.shifts[int(np.argmax(self.gains))]

    @property
    def is_misplaced(self) -> bool:
        """Whether a shifted grid suits the teacher better, surely and by an amount that matters."""
        return bool((self.gains > self._telling).any())

    @property
    def can_tell(self) -> bool:
        """Whether half a cell of shift to any side costs the teacher surely more, or a shift surely less."""
        half = np.array([max(map(abs, shift)) >= 0.5 for shift in self.shifts])
        return self.is_misplaced or bool((-self.gains > self._telling)[half].all())

    @property
    def _telling(self) -> Float64Array:
        return np.maximum(_SURE * self.errors, _LEAST_GAIN_NATS)

    def figures(self) -> dict[str, Any]:
        """Return what is worth showing."""
        half = [loss for shift, loss in zip(self.shifts, self.losses, strict=True) if max(map(abs, shift)) == 0.5]
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
            "guess": round(self.guess_nats, 4),
            "least_half_a_cell_off": round(float(min(half)), 4),
            "misplaced": self.is_misplaced,
            "can_tell": self.can_tell,
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
    """Return the teacher's surprise in the grid and in shifted ones; None where no trip fits its context.

    `centroids` (N, 2) float64 are lat and lon of the roads in degrees. Raises TrainingError where the grid has more
    cells than the teacher has labels.
    """
    rows = np.flatnonzero(np.diff(trips.offsets) <= model.config.block_size - FRAME)[:_NEAR_TRIPS]
    if len(rows) == 0:
        return None

    def tried(shifts: Sequence[Shift], num_trips: int) -> _Compared:
        some = trips.take(rows[:num_trips])

        def cells(shift: Shift) -> tuple[Corpus, BoolArray]:
            found = shifted(grid, shift).cell_of(*centroids.T)
            tokens = found.row * grid.shape[1] + found.column
            return Corpus(some.offsets, tokens[some.road_ids]), found.clamped[some.road_ids]

        return _compare(model, shifts, cells, device, progress)

    near = tried(NEAR, _NEAR_TRIPS)
    found = Alignment(NEAR, *near, math.log(model.config.num_labels + 1), len(rows))
    if found.can_tell:
        return found
    far = tried((NEAR[0], *FAR), _FAR_TRIPS)
    losses, gains, errors = (np.concatenate([here, there[1:]]) for here, there in zip(near, far, strict=True))
    return replace(found, shifts=NEAR + FAR, losses=losses, gains=gains, errors=errors)


def _compare(
    model: LMTAD,
    shifts: Sequence[Shift],
    cells: Callable[[Shift], tuple[Corpus, BoolArray]],
    device: torch.device | str | None,
    progress: Progress,
) -> _Compared:
    """Return losses, gains and errors, (S,) float64; no gain where a shift clamps clearly more points."""
    nats, clamped = [], []
    for done, shift in enumerate(shifts, 1):
        corpus, outside = cells(shift)
        found = score(model, corpus, device=device)
        nats.append(np.bincount(row_of_value(found.offsets), found.nats, minlength=corpus.num_sequences))
        clamped.append(float(outside.mean()))
        progress("grid alignment", done, len(shifts))
    nats_Sn, tokens_n = np.stack(nats), corpus.lengths + 1
    losses = nats_Sn.sum(1) / tokens_n.sum()
    # standard error of a ratio of sums over trips: what trips gain beyond their share of the whole
    beyond_Sn = nats_Sn[0] - nats_Sn - (losses[0] - losses)[:, None] * tokens_n
    errors = np.sqrt((beyond_Sn**2).sum(1)) / tokens_n.sum()
    allowed = np.array(clamped) <= clamped[0] + _MORE_CLAMPED
    return losses, np.where(allowed, losses[0] - losses, np.minimum(losses[0] - losses, 0.0)), errors


def shifted(grid: GridSpec, shift: Shift) -> GridSpec:
    """Return the grid moved by shares of its (merged) cells; its rows and columns stay as many."""
    south = grid.min_lat + shift.north * grid.cell_lat * grid.downsample_factor
    west = grid.min_lng + shift.east * grid.cell_lng * grid.downsample_factor
    height, width = grid.full_shape
    # the far bounds only count cells: the middle of the last one is safe from rounding
    return replace(
        grid,
        min_lat=south,
        max_lat=south + (height - 0.5) * grid.cell_lat,
        min_lng=west,
        max_lng=west + (width - 0.5) * grid.cell_lng,
    )
