"""Ids of trips, kept as Arrow text: a Python string exists only while it is read.

Ten million ids take 0.2 GiB as Arrow text and 0.6 GiB as Python strings, and few of them are ever read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import Int64Array

MAX_STRING_BYTES = 2**31 - 1
"""Text that an Arrow string column holds; longer text is a large_string column."""


class TripIds:
    """(n,) ids of a source (`traj_id`), with the indexing of a NumPy array of strings."""

    def __init__(self, texts: pa.Array) -> None:
        """`texts`: Arrow string or large_string without nulls."""
        self.texts = texts

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.texts)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> TripIds: ...
    def __getitem__(self, rows: int | np.integer[Any] | slice | npt.NDArray[Any]) -> str | TripIds:
        """Return one id as a string, or the ids of several rows."""
        if isinstance(rows, int | np.integer):
            return str(self.texts[int(rows)].as_py())
        if isinstance(rows, slice):
            return TripIds(self.texts[rows])
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return TripIds(pc.take(_large(self.texts), pa.array(rows.astype(np.int64))))

    def __iter__(self) -> Iterator[str]:
        """Yield the ids as strings."""
        return (text.as_py() for text in self.texts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the ids as an array of Python strings."""
        del copy
        return np.asarray(self.tolist(), object if dtype is None else dtype)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:  # noqa: A002  the protocol's name
        """Return the ids as an Arrow array of the given type."""
        return self.texts if type is None else pc.cast(self.texts, type)

    def tolist(self) -> list[str]:
        """Return the ids as Python strings."""
        strings: list[str] = self.texts.to_pylist()
        return strings


Ids = npt.NDArray[np.object_] | TripIds
"""Ids of trips, of a file or given as strings."""


def id_column(ids: Ids | None, count: int) -> pa.Array:
    """Return ids as an Arrow column: string where the text fits into one, otherwise large_string.

    None: the numbers of the `count` trips, from 0.
    """
    if ids is None:
        return pc.cast(pa.array(np.arange(count, dtype=np.int64)), pa.string())
    texts = ids.texts if isinstance(ids, TripIds) else pa.array(ids, pa.large_string())
    return pc.cast(texts, pa.string()) if _text_bytes(texts) <= MAX_STRING_BYTES else _large(texts)


def joined_ids(parts: list[Ids]) -> Ids:
    """Return the ids of all parts, in order."""
    if any(isinstance(part, TripIds) for part in parts):
        return TripIds(pa.concat_arrays([_large(id_column(part, len(part))) for part in parts]))
    return np.concatenate([np.asarray(part) for part in parts])


def mapped_ids(data: npt.NDArray[np.uint8], lengths: Int64Array) -> TripIds:
    """Return ids from their UTF-8 bytes, one after the other, and their numbers of bytes, without copying the bytes."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    is_small = len(data) <= MAX_STRING_BYTES
    kind, width = (pa.string(), np.int32) if is_small else (pa.large_string(), np.int64)
    buffers = [None, pa.py_buffer(offsets.astype(width)), pa.py_buffer(data)]
    return TripIds(pa.Array.from_buffers(kind, len(lengths), buffers))


def _text_bytes(texts: pa.Array) -> int:
    return int(pc.sum(pc.cast(pc.binary_length(texts), pa.int64())).as_py() or 0)


def _large(texts: pa.Array) -> pa.Array:
    return pc.cast(texts, pa.large_string())
