"""Typed errors, raised where data or settings enter the library.

Each message names the file, the row or key, the problem and how to fix it. Internal code relies on validated inputs and
does not raise these errors.
"""

from __future__ import annotations

from os import PathLike, fspath


class HoserKdError(Exception):
    """Base class of errors that a user can cause and fix."""


class ConfigError(HoserKdError):
    """A setting is unknown, has the wrong type, or contradicts another setting."""


class CheckpointError(HoserKdError):
    """A weights file is missing, damaged, of the wrong kind, or contains objects that are not allowed."""


class TrainingError(HoserKdError):
    """Training cannot continue, for example because of a non-finite loss; the message names the batch."""


class ProcessError(HoserKdError):
    """A worker process ended without reporting an error."""


class RendezvousError(ProcessError):
    """Machines that train together have not found each other."""


class CheckError(HoserKdError):
    """A blocking check on an artifact failed, so downstream stages must not use it."""


class StoreError(HoserKdError):
    """An artifact is missing, damaged, or was built from other inputs than the requested ones."""


class DataError(HoserKdError):
    """A data file is missing, or one of its rows is invalid."""

    def __init__(
        self, path: str | PathLike[str], problem: str, *, row: int | None = None, hint: str | None = None
    ) -> None:
        """`row` is the 0-based index of a data row, without the header, as in `mm_id` and `geo_id`."""
        place = fspath(path) if row is None else f"{fspath(path)}, row {row}"
        super().__init__(f"{place}: {problem}" + (f" {hint}" if hint else ""))
        self.path = fspath(path)
        self.row = row


class DataWarning(UserWarning):
    """Data are valid row by row, but contradict themselves or carry no information."""


def error_named(kind: str, text: str) -> HoserKdError:
    """Return the error of a class of this module, by its name, with its complete message: one of another process."""
    known = globals().get(kind)
    error_class = known if isinstance(known, type) and issubclass(known, HoserKdError) else ProcessError
    # without __init__: a DataError takes a path and more, but its text is already complete
    return error_class.__new__(error_class, text)
