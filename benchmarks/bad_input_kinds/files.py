"""Files of a city that are no proper CSV, or only look unusual."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput
from bad_input_kinds.small_city import city_files, read_city_values, write_city


def bad_files(same: Any) -> Iterator[BadInput]:
    """Yield files that are no proper CSV, or only look unusual."""

    def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            path = write_city(folder) / name
            path.write_bytes(change(path.read_bytes()))
            return read_city_values(folder)

        return read

    harmless: dict[str, Callable[[bytes], bytes]] = {
        "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
        "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
        "no line end at the end": lambda text: text.rstrip(b"\n"),
        "blank lines at the end": lambda text: text + b"\n\n",
        "blanks around the names of columns": lambda text: b" " + text.replace(b",", b" , ", 4),
        "a further column": lambda text: b"\n".join(line + b",more" for line in text.splitlines()) + b"\n",
    }
    wrong: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda _: b"",
        "only a line end": lambda _: b"\n",
        "zeros": lambda text: bytes(len(text)),
        "random bytes": lambda text: random.Random(len(text)).randbytes(len(text)),
        "UTF-16": lambda text: text.decode().encode("utf-16"),
        "Latin-1 in a value": lambda text: (
            text.replace(b"LineString", b"Stra\xdfe").replace(b"geo,0", b"stra\xdfe,0").replace(b",0,", b",\xdf,", 1)
        ),
        "separated by semicolons": lambda text: text.replace(b",", b";"),
        "separated by tabs": lambda text: text.replace(b",", b"\t"),
        "compressed under its name": gzip.compress,
        "cut in a row": lambda text: text[: text.rstrip().rfind(b"\n") + 4],
        "a quotation mark too many": lambda text: text.replace(b"\n", b'\n"', 3),
        "a value too many": lambda text: text.rstrip() + b",1,2\n",
        "a value too few": lambda text: (
            text.rstrip().rsplit(b",", 1)[0] + b"\n"
            if b'"' not in text.splitlines()[-1]
            else text.splitlines()[0] + b"\n1\n"
        ),
        "without a header": lambda text: text.split(b"\n", 1)[1],
        "names in capitals": lambda text: text.split(b"\n", 1)[0].upper() + b"\n" + text.split(b"\n", 1)[1],
        "HTML": lambda _: b"<!DOCTYPE html><html><body>404</body></html>",
        "JSON": lambda _: b'{"rows": [1, 2]}',
    }
    for name in city_files():
        for label, change in harmless.items():
            yield BadInput("files", f"{name}: {label}", bytes_of(name, change), same)
        for label, change in wrong.items():
            yield BadInput("files", f"{name}: {label}", bytes_of(name, change))
        yield BadInput("files", f"{name}: missing", _without(name, packed=False))
        yield BadInput("files", f"{name}: only as .gz", _without(name, packed=True))
        yield BadInput("files", f"{name}: is a folder", _as_folder(name))
    doubled = {"roadmap.geo": "length", "roadmap.rel": "origin_id", "train.csv": "rid_list", "test.csv": "time_list"}
    for name, column in doubled.items():
        yield BadInput("files", f"{name}: a second column {column}", bytes_of(name, _doubling(column)))
        yield BadInput(
            "files",
            f"{name}: no column {column}",
            bytes_of(name, lambda text, column=column: text.replace(column.encode(), b"other", 1)),
        )


def _doubling(column: str) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        header, *rows = text.decode().splitlines()
        return ("\n".join([f"{header}, {column}", *(f"{row},0.5" for row in rows)]) + "\n").encode()

    return change


def _without(name: str, *, packed: bool) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        path = write_city(folder) / name
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        return read_city_values(folder)

    return read


def _as_folder(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        path = write_city(folder) / name
        path.unlink()
        path.mkdir()
        return read_city_values(folder)

    return read
