"""Typed errors, raised where data or settings enter the library.

Each message names the file, the row or key, what is wrong and how to mend it. Code inside the
border trusts its types and raises none of these.
"""

from __future__ import annotations

from os import PathLike, fspath


class HoserKdError(Exception):
    """Base of every error a user can cause and mend."""


class ConfigError(HoserKdError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class CheckpointError(HoserKdError):
    """A weights file is missing, damaged, of another kind, or holds something that is not allowed."""


class TrainingError(HoserKdError):
    """Training cannot go on: a non-finite loss, say, with the batch that caused it."""


class ProcessError(HoserKdError):
    """Processes that were to work together ended and did not say why."""


class CheckError(HoserKdError):
    """A blocking check on a finished artifact failed; what follows would rest on a mistake."""


class StoreError(HoserKdError):
    """An artifact is missing, or was made from something else than what is asked for."""


class DataError(HoserKdError):
    """A data file is missing or a row of it cannot be used."""

    def __init__(
        self, path: str | PathLike[str], problem: str, *, row: int | None = None, hint: str | None = None
    ) -> None:
        """`row` counts data rows from 0, as `mm_id` and `geo_id` do (a header is not counted)."""
        place = fspath(path) if row is None else f"{fspath(path)}, row {row}"
        super().__init__(f"{place}: {problem}" + (f" {hint}" if hint else ""))
        self.path = fspath(path)
        self.row = row
