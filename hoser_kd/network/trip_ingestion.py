"""Trips of a CSV file, validated and written to a file that is mapped into memory, block by block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.arrays import offsets_of
from hoser_kd.network.trajectories import HOSER_LAYOUT, Trajectories
from hoser_kd.network.trip_ids import TripIds, mapped_ids
from hoser_kd.network.trip_reading import TripReader

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork


def ingest_trips(csv_path: Path, network: RoadNetwork, on_bad_row: str, target: Path) -> Trajectories:
    """Read and validate a split of a city and write it to `target`, as `read_trips` and `Trajectories.save` do.

    Returns the trips of the written file. Neither memory nor the size of the CSV limits it; while it runs, the folder
    of `target` also holds the trips in temporary files. Raises DataError as `read_trips`.
    """
    reader = TripReader(csv_path, network, HOSER_LAYOUT, on_bad_row)
    # a fixed name, so that a killed run leaves nothing that the next one does not remove
    folder = target.with_name(f".{target.stem}-parts")
    folder.mkdir(exist_ok=True)
    with (
        GrowingArray(folder / "lengths", np.int64) as lengths,
        GrowingArray(folder / "roads", np.int64) as roads,
        GrowingArray(folder / "times", np.int64) as times,
        _GrowingIds(folder) as ids,
    ):
        for trips in reader:
            lengths.append(np.diff(trips.offsets))
            roads.append(trips.road_ids)
            times.append(trips.times)
            ids.append(trips.ids)
        Trajectories(offsets_of(lengths.mapped()), roads.mapped(), times.mapped(), ids.mapped()).save(target)
    folder.rmdir()
    return replace(Trajectories.load(target), dropped=reader.dropped)


class _GrowingIds:
    """Ids that grow on disk: their UTF-8 bytes, and the number of bytes of each."""

    def __init__(self, folder: Path) -> None:
        self._bytes = GrowingArray(folder / "id_bytes", np.uint8)
        self._lengths = GrowingArray(folder / "id_lengths", np.int64)
        self._any = False

    def append(self, ids: TripIds | None) -> None:
        """Add the ids of some trips, if they have any."""
        if ids is None:
            return
        self._any = True
        self._bytes.append(_text_of(ids.texts))
        self._lengths.append(pc.binary_length(ids.texts).to_numpy())

    def mapped(self) -> TripIds | None:
        """Return all ids; None if the trips have none."""
        data, lengths = self._bytes.mapped(), self._lengths.mapped()
        return mapped_ids(data, lengths) if self._any else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for array in (self._bytes, self._lengths):
            array.__exit__(None, None, None)


def _text_of(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the UTF-8 bytes of all strings, one after the other."""
    texts = pc.cast(texts, pa.large_string())
    _, offsets, data = texts.buffers()
    if data is None:
        return np.zeros(0, np.uint8)
    first, last = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return np.frombuffer(data, np.uint8)[first:last]
