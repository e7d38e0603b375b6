"""CSV reading with typed columns; errors name the file, the row, the value and the fix."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.errors import DataError

FOLDER_HINT = "Give the path of a folder in HOSER's format (in YAML: `source.path`)."
"""The fix of a missing folder."""
_FILE_HINT = "Give the path of an existing file (in YAML, `source.path` is the folder of the files)."
_BLOCK_SIZE = 16 << 20
"""A row must fit into a block, and the row of a day-long trip is long."""
_BLANKS = " \t\r\n"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_csv_columns(
    path: Path, types: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """Read the given columns of a CSV file with their types, plain or gzip-compressed (`.gz`).

    Columns of `optional` are read where they exist; other columns are ignored. Whole numbers are decimal digits only.
    Raises DataError if the file or a column is missing, a column exists twice, a row has too few or too many values, a
    quotation mark is not closed, or a value has another type.
    """
    with explained_errors(path):
        written = _checked_header(path, types, optional or ())
        known = {name: kind for name, kind in {**types, **(optional or {})}.items() if name in written}
        return _convert(path, known, written)


def read_csv_batches(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield text columns of a CSV file block by block, so that memory does not grow with the file.

    Columns are named as in the arguments; those of `optional` are there where the file has them. Raises DataError as
    `read_csv_columns`, for a row with too few or too many values once it is reached. A file without rows has no block.
    """
    with explained_errors(path):
        written = _checked_header(path, required, optional)
        names = [name for name in (*required, *optional) if name in written]
        types = {written[name]: pa.string() for name in names}
        try:
            for batch in _open_csv(path, types):
                yield batch.rename_columns(names)
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):  # a header without rows
                return
            _reject_unreadable_text(path, types)
            raise DataError(path, f"cannot be read as CSV: {error}.") from None


def _checked_header(path: Path, required: Iterable[str], optional: Iterable[str]) -> dict[str, str]:
    """Return the names in the header by their names without blanks, after the checks of header and quotes."""
    header = csv_header(path)
    require_columns(path, header, required, optional)
    _require_closed_quotes(path)
    return {name.strip(): name for name in header}


@contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Raise DataError in place of the errors of a file that is missing or is no CSV file."""
    if not path.is_file():
        raise DataError(path, "no such file.", hint=_missing_file_hint(path))
    try:
        yield
    except UnicodeDecodeError:
        _reject_undecodable(path)
        raise
    except csv.Error as error:
        raise DataError(path, f"cannot be read as CSV: {error}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        hint = "A name that ends in .gz is a gzip file."
        raise DataError(path, f"cannot be read as gzip: {error}.", hint=hint) from None


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file, plain or gzip-compressed (`.gz`).

    Raises DataError if the file is no such file, or no text in UTF-8.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with explained_errors(path), opener(path, "rt", newline="", encoding="utf-8-sig") as lines:
        return next(csv.reader(lines), [])


def require_readable_rows(path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Raise DataError for the first row or value that cannot be read; for files that Arrow has refused."""
    with explained_errors(path):
        _require_closed_quotes(path)
        _reject_unreadable(path, types)


def describe_number(text: str) -> str:
    """Return what a text is that should be a whole number, and the fix, after a space; empty if it is not known."""
    if match := re.fullmatch(r"(-?\d+)\.0*", text):
        return f" It is a decimal number: write {match[1]}."
    if re.fullmatch(r"-?\d+\.\d+|-?\d+(\.\d+)?[eE][-+]?\d+", text):
        return " It is a decimal number: write a whole number."
    if match := re.fullmatch(r"(?:np|numpy)\.u?int\d*\((-?\d+)\)", text):
        return f" It is a number as NumPy prints it: write {match[1]}."
    if re.fullmatch(r"-?0[xX][0-9a-fA-F]+", text):
        return f" It is a hexadecimal number: write {int(text, 16)}."
    return ""


def _missing_file_hint(path: Path) -> str:
    packed = path.with_name(path.name + ".gz")
    return f"{packed.name} exists: unpack it with `gunzip {packed}`." if packed.is_file() else _FILE_HINT


def _reject_undecodable(path: Path) -> None:
    """Raise DataError for a file that is not UTF-8, with what it is or the first such byte."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"\x1f\x8b" and path.suffix != ".gz":
        raise DataError(path, "is compressed with gzip, but its name does not end in .gz: unpack it.")
    if start in {b"\xff\xfe", b"\xfe\xff"}:
        raise DataError(path, "is text in UTF-16, not in UTF-8.", hint="Save the file as CSV in UTF-8.")
    with _open_bytes(path) as lines:
        for number, line in enumerate(lines):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                place = "the header" if number == 0 else "the row"
                problem = f"byte {error.start} of {place} is not UTF-8."
                hint = "Save the file as CSV in UTF-8."
                raise DataError(path, problem, row=number - 1 if number else None, hint=hint) from None


def require_columns(path: Path, header: Sequence[str], required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raise DataError if a required column is missing, or a column that is read exists twice."""
    stripped = [name.strip() for name in header]
    missing = [name for name in required if name not in stripped]
    if missing:
        hint = f"Required columns: {', '.join(required)}"
        hint += f"; optional: {', '.join(optional)}." if optional else "."
        present = ", ".join(header)[:200] or "none"
        problem = f"column {', '.join(missing)} is missing; there are: {present}."
        raise DataError(path, problem, hint=hint + _separator_note(header) + _spelling_note(header, missing))
    # one of the two would be ignored
    if twice := [name for name in (*required, *optional) if stripped.count(name) > 1]:
        raise DataError(path, f"column {', '.join(twice)} is there twice.", hint="Remove or rename one of the two.")


def _separator_note(header: Sequence[str]) -> str:
    """Return a sentence about another separator than the comma, after a space."""
    for separator, word in _SEPARATORS.items():
        if any(separator in name for name in header):
            return f" The columns are separated by {word}: save the file with commas."
    return ""


def _spelling_note(header: Sequence[str], missing: list[str]) -> str:
    near = {name.strip().lower(): name for name in header}
    renamed = [f"{near[name.lower()]!r} to {name}" for name in missing if name.lower() in near]
    return f" Rename {', '.join(renamed)}." if renamed else ""


def _require_closed_quotes(path: Path) -> None:
    """Raise DataError for an odd number of quotation marks: the rest of the file would be read as one value."""
    count = 0
    with _open_bytes(path) as file:
        while block := file.read(_BLOCK_SIZE):
            count += block.count(b'"')
    if count % 2:
        hint = "Close it, or copy the file again if its end is missing."
        raise DataError(path, "a quotation mark is opened and not closed.", hint=hint)


def _open_bytes(path: Path) -> IO[bytes]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    file: IO[bytes] = opener(path, "rb")
    return file


def _convert(path: Path, types: dict[str, pa.DataType], written: Mapping[str, str]) -> pa.Table:
    """Read columns by their names as `written` in the file.

    Whole numbers are read as text first, because Arrow's own conversion accepts hexadecimal ones.
    """
    stored = {written[name]: pa.string() if pa.types.is_integer(kind) else kind for name, kind in types.items()}
    try:
        table = _read_csv(path, stored).rename_columns(list(types))
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header without rows
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        _reject_unreadable(path, stored)
        raise DataError(path, f"cannot be read as CSV: {error}.") from None
    for index, (name, kind) in enumerate(types.items()):
        if pa.types.is_integer(kind):
            table = table.set_column(index, name, _whole_numbers(path, name, table[name], kind))
    return table


def _whole_numbers(path: Path, name: str, texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    trimmed = pc.ascii_trim(texts, _BLANKS)
    trimmed = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    valid = pc.fill_null(pc.match_substring_regex(trimmed, r"^-?\d{1,18}$"), True)
    if pc.any(pc.invert(valid)).as_py():
        row = pc.index(valid, False).as_py()
        text = trimmed[row].as_py()
        problem = f"{name} is {text[:60]!r}, not a whole number.{describe_number(text)}"
        raise DataError(path, problem, row=row)
    return pc.cast(trimmed, kind)


def _read_csv(path: Path, types: Mapping[str, pa.DataType], *, use_threads: bool = True) -> pa.Table:
    convert = pa.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=True)
    read = pa.csv.ReadOptions(block_size=_BLOCK_SIZE, use_threads=use_threads)
    return pa.csv.read_csv(path, read_options=read, convert_options=convert)


def _open_csv(path: Path, types: Mapping[str, pa.DataType], *, use_threads: bool = True) -> pa.csv.CSVStreamingReader:
    convert = pa.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=True)
    read = pa.csv.ReadOptions(block_size=_BLOCK_SIZE, use_threads=use_threads)
    return pa.csv.open_csv(path, read_options=read, convert_options=convert)


def _reject_unreadable_text(path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Raise DataError for the first row that cannot be read as text; called on invalid files only."""
    try:
        # without threads, Arrow counts rows
        for _ in _open_csv(path, types, use_threads=False):
            pass
    except pa.ArrowInvalid as error:
        _reject_ragged_row(path, str(error))


def _reject_unreadable(path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Raise DataError for the first row or value that cannot be read; called on invalid files only."""
    try:
        texts = _read_csv(path, dict.fromkeys(types, pa.string()), use_threads=False)
    except pa.ArrowInvalid as error:
        _reject_ragged_row(path, str(error))
        return
    for name, kind in types.items():
        for row, text in enumerate(texts[name]):
            try:
                text.cast(kind)
            except pa.ArrowInvalid:
                problem = f"{name.strip()} is {text.as_py()!r}, not a number."
                raise DataError(path, problem, row=row) from None


def _reject_ragged_row(path: Path, message: str) -> None:
    """Raise DataError for a row with too few or too many values; Arrow counts rows from 1, with the header."""
    match = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if match:
        number, expected, found = map(int, match.groups())
        problem = f"it has {found} values, but the header has {expected} columns."
        hint = "Write lists in quotation marks." if found > expected else "Is the file complete?"
        raise DataError(path, problem, row=number - 2, hint=hint)
    if "invalid UTF8" in message:
        _reject_undecodable(path)
