"""CSV reading with typed columns; errors name the file and the row."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pyarrow as pa

from hoser_kd.common.errors import DataError

FOLDER_HINT = "Give the path of a folder in HOSER's format (in YAML: `source.path`)."
"""The fix of a missing folder."""
_FILE_HINT = "Give the path of an existing file (in YAML, `source.path` is the folder of the files)."


def read_csv_columns(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    """Read the given columns of a CSV file with their types; other columns are ignored.

    Raises DataError if the file or a column is missing, or a value has another type.
    """
    if not path.is_file():
        raise DataError(path, "no such file.", hint=_FILE_HINT)
    try:
        missing = [name for name in types if name not in csv_header(path)]
        if missing:
            raise DataError(
                path, f"column {', '.join(missing)} is missing.", hint=f"Required columns: {', '.join(types)}."
            )
        return _read_csv(path, types)
    except UnicodeDecodeError as error:
        raise DataError(path, f"byte {error.start} is not UTF-8.", hint="Save the file as UTF-8.") from None
    except pa.ArrowInvalid as error:
        _reject_unreadable(path, types)
        raise DataError(path, f"cannot be read as CSV: {error}.") from None


def _read_csv(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    convert = pa.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=True)
    # a row must fit into a block, and the row of a day-long trip is long
    return pa.csv.read_csv(path, read_options=pa.csv.ReadOptions(block_size=16 << 20), convert_options=convert)


def _reject_unreadable(path: Path, types: dict[str, pa.DataType]) -> None:
    """Raise DataError for the first value that does not match its column's type; called on invalid files only."""
    try:
        texts = _read_csv(path, dict.fromkeys(types, pa.string()))
    except pa.ArrowInvalid:
        return
    for name, kind in types.items():
        expected = "a whole number" if pa.types.is_integer(kind) else "a number"
        for row, text in enumerate(texts[name]):
            try:
                text.cast(kind)
            except pa.ArrowInvalid:
                raise DataError(path, f"{name} is {text.as_py()!r}, not {expected}.", row=row) from None


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file, plain or gzip-compressed (`.gz`)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8-sig") as lines:
        return next(csv.reader(lines), [])
