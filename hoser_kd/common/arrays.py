"""Ragged arrays as flat values and offsets, and the few index tricks they need.

Row i of a ragged array is `values[offsets[i]:offsets[i + 1]]`; nothing here loops over rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Csr(NamedTuple):
    """Adjacency in compressed sparse rows; the order inside a row is meaningful and kept."""

    indptr: Int64Array
    """(rows + 1,) int64: where each row starts in `indices`."""
    indices: Int64Array
    """(entries,) int64: the columns, row after row."""

    @property
    def degrees(self) -> Int64Array:
        """(rows,) int64: entries in each row."""
        return np.diff(self.indptr)

    def row(self, i: int) -> Int64Array:
        """Return the entries of row `i`, int64."""
        return self.indices[self.indptr[i] : self.indptr[i + 1]]


def offsets_of(lengths: npt.NDArray[np.integer]) -> Int64Array:
    """Return (rows + 1,) int64 offsets of rows with these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_of_value(offsets: Int64Array) -> Int64Array:
    """Return (values,) int64: the row every flat value belongs to."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Return the concatenation of `arange(start, start + length)` for every pair, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    positions: Int64Array = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return positions


def take_rows(offsets: Int64Array, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Select rows of a ragged array.

    Returns the offsets of the selection and the positions of its values in the flat array.
    """
    lengths = np.diff(offsets)[rows]
    return offsets_of(lengths), ranges(offsets[:-1][rows], lengths)
