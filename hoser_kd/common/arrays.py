"""Ragged arrays, stored as flat values and offsets, and the index operations on them.

Row i of a ragged array is `values[offsets[i]:offsets[i + 1]]`. All functions are vectorized over rows.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Csr(NamedTuple):
    """Adjacency in compressed sparse row (CSR) format; the order within a row is meaningful and preserved."""

    indptr: Int64Array
    """(rows + 1,) int64: start of each row in `indices`."""
    indices: Int64Array
    """(entries,) int64: column indices, row by row."""

    @property
    def degrees(self) -> Int64Array:
        """(rows,) int64: number of entries in each row."""
        return np.diff(self.indptr)

    def row(self, i: int) -> Int64Array:
        """Return the entries of row `i`, int64."""
        return self.indices[self.indptr[i] : self.indptr[i + 1]]


def read_array(path: str | PathLike[str]) -> npt.NDArray[Any]:
    """Return the array of a `.npy` file. No code in it is run.

    Raises ValueError or EOFError if the file is damaged, or shorter than the shape in its header: nothing of that size
    is allocated.
    """
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


def offsets_of(lengths: npt.NDArray[np.integer]) -> Int64Array:
    """Return the (rows + 1,) int64 offsets of rows with the given lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_of_value(offsets: Int64Array) -> Int64Array:
    """Return the row index of every flat value, (values,) int64."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Return the concatenated `arange(start, start + length)` of all pairs, int64."""
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
