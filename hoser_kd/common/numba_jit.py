"""Compile loops with numba, and cache the result where a folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], *, fastmath: bool | set[str] = False) -> Callable[..., Any]:
    """Compile on first call, without the interpreter lock; keep the result on disk where any folder can be written.

    An installation that is read-only, in a home that is too, compiles again in every process and works all the same.
    `fastmath` names the liberties with sums that let them use the whole width of a processor.
    """
    try:
        fast: Callable[..., Any] = numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba found no folder for its cache
        fast = numba.njit(nogil=True, fastmath=fastmath)(function)
    return fast
