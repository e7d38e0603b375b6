"""Errors of the disk while a stage runs: full, over quota, read-only or failing. Each becomes one StoreError."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hoser_kd.common.errors import HoserKdError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
_ALMOST_NOTHING = 1 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk that has `folder` into a StoreError; other errors pass.

    Writers raise them under many names: OSError, torch's RuntimeError, the error of safetensors.
    """
    try:
        yield
    except HoserKdError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or _is_full(folder, error):
            raise StoreError(
                f"{folder}: the disk is full. Free some space, or set HOSER_KD_STORE or --store to another disk. "
                "Finished parts are kept; the same command resumes from them."
            ) from error
        if number in _REFUSED:
            file = getattr(error, "filename", None) or folder
            raise StoreError(f"{file}: {os.strerror(number)}. Nothing was added to the store.") from error
        raise


def _is_full(folder: Path, error: Exception) -> bool:
    """Return whether another error than an OSError means a full disk: its text says so, or nothing is left."""
    if "No space left" in str(error):
        return True
    try:
        return isinstance(error, OSError | RuntimeError) and shutil.disk_usage(folder).free < _ALMOST_NOTHING
    except OSError:
        return False
