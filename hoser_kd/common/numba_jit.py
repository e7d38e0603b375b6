"""Just-in-time compilation with numba, cached on disk where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], *, fastmath: bool | set[str] = False) -> Callable[..., Any]:
    """Return `function`, compiled on its first call; it releases the GIL and its machine code is cached on disk.

    Where no cache folder is writable, each process compiles again. `fastmath` is passed to `numba.njit`: it permits
    reordering of floating-point sums, so that they can be vectorized.
    """
    try:
        fast: Callable[..., Any] = numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba finds no writable cache folder
        fast = numba.njit(nogil=True, fastmath=fastmath)(function)
    return fast
