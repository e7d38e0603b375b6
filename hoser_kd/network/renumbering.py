"""Renumber the roads of a city in all its files by one mapping, since HOSER's road ids are row numbers.

Renumbering `roadmap.geo` alone makes every id in `roadmap.rel` and in the trips another road.
"""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.arrays import Int64Array, offsets_of, row_of_value
from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import csv_header, read_csv_columns, require_columns
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.network.zones import PARTITION_FILE, TRANSITIONS_FILE

MAPPING_FILE = "road_ids.csv"
"""Written beside the renumbered files: geo_id (new) and old_id."""
_AROUND = " \t[]'\""


def renumber_roads(folder: str | PathLike[str], out: str | PathLike[str]) -> int:
    """Write a copy of a city whose road ids are 0, 1, 2, … in the order of `roadmap.geo`; return the number of roads.

    Ids are replaced by the same mapping in `roadmap.geo`, `roadmap.rel` and `rid_list` of the trips; `MAPPING_FILE`
    holds the mapping. Zones that the data set ships are in row order and are copied.

    Raises:
        DataError: a file is missing or unreadable, an id is there twice or is not in `roadmap.geo`, or `out` has files.
    """
    source, target = Path(folder), Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(target, "is not an empty folder.", hint="Give a new folder.")
    geo, rel = source / "roadmap.geo", source / "roadmap.rel"
    ids = read_csv_columns(geo, {"geo_id": pa.int64()})["geo_id"].to_numpy()
    _require_distinct(geo, ids)
    ends = ("origin_id", "destination_id")
    links = read_csv_columns(rel, dict.fromkeys(ends, pa.int64()))
    new_ends = {name: _rows_of(rel, name, links[name].to_numpy(), ids) for name in ends}
    lists = {split: _renumbered_lists(source / f"{split}.csv", ids) for split in SPLITS}
    target.mkdir(parents=True, exist_ok=True)
    _rewrite(geo, target, {"geo_id": np.arange(len(ids))})
    _rewrite(rel, target, new_ends)
    for split, texts in lists.items():
        _rewrite(source / f"{split}.csv", target, {"rid_list": texts})
    for name in (PARTITION_FILE, TRANSITIONS_FILE):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    pd.DataFrame({"geo_id": np.arange(len(ids)), "old_id": ids}).to_csv(target / MAPPING_FILE, index=False)
    return len(ids)


def _require_distinct(path: Path, ids: Int64Array) -> None:
    if ids.dtype.kind != "i":
        raise DataError(path, "a geo_id is empty.", row=int(np.argmax(np.isnan(ids))), hint="Give each road an id.")
    _, first = np.unique(ids, return_index=True)
    if len(first) < len(ids):
        row = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        raise DataError(path, f"geo_id {ids[row]} is there twice.", row=row, hint="Give each road an id of its own.")


def _rows_of(path: Path, name: str, values: Int64Array, ids: Int64Array) -> Int64Array:
    """Return the row of each id; raise DataError for one that `roadmap.geo` does not have."""
    rows = pc.index_in(pa.array(values, from_pandas=True), value_set=pa.array(ids))
    missing = rows.is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(path, f"{name} {values[row]} is not a geo_id of roadmap.geo.", row=row)
    positions: Int64Array = rows.to_numpy().astype(np.int64)
    return positions


def _renumbered_lists(path: Path, ids: Int64Array) -> list[str]:
    """Return `rid_list` with the new ids, `1,2,3`, for each row."""
    lists = pc.split_pattern(
        pc.fill_null(read_csv_columns(path, {"rid_list": pa.string()})["rid_list"], "").combine_chunks(), ","
    )
    offsets = offsets_of(pc.list_value_length(lists).to_numpy())
    values = pc.ascii_trim(lists.flatten(), _AROUND)
    rows = pc.index_in(values, value_set=pa.array(ids).cast(pa.string()))
    missing = rows.is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        at = int(np.argmax(missing))
        problem = f"{values[at].as_py()[:60]!r} in rid_list is not a geo_id of roadmap.geo."
        raise DataError(path, problem, row=int(row_of_value(offsets)[at]))
    texts = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows.cast(pa.string()))
    joined: list[str] = pc.binary_join(texts, ",").to_pylist()
    return joined


def _rewrite(path: Path, target: Path, columns: dict[str, Int64Array] | dict[str, list[str]]) -> None:
    """Write a copy of a CSV file with other values in some columns; all others keep their text."""
    require_columns(path, csv_header(path), columns)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=False)
    frame.columns = frame.columns.str.strip()
    for name, values in columns.items():
        frame[name] = values
    frame.to_csv(target / path.name, index=False)
