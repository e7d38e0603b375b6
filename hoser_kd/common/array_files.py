"""Arrays that grow on disk: values are appended part by part and then read as one memory-mapped array.

What is larger than the memory is written this way: at any time, only one part of it is in memory.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt


class GrowingArray:
    """A one-dimensional array in a file without a header."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        """Create the file, or empty it."""
        self.path, self.dtype = path, np.dtype(dtype)
        self._file = path.open("wb")

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add values at the end."""
        self._file.write(np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data)

    def mapped(self) -> npt.NDArray[Any]:
        """Return all values, read-only and mapped from the file, to which nothing is added afterwards."""
        self._file.close()
        if self.path.stat().st_size == 0:
            return np.zeros(0, self.dtype)
        # a plain array on the mapped buffer: functions that return np.memmap would keep its metadata
        return np.asarray(np.memmap(self.path, self.dtype, mode="r"))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and remove its name; mapped arrays stay readable."""
        self._file.close()
        self.path.unlink(missing_ok=True)
