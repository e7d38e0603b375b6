"""Generation of trips, many at once, with one call of the model a round.

Trips know nothing of each other, so each round expands the nodes that all trips under way ask for (one of each in the
published search, `generation.decoding` has the others) with one call of the model. A node keeps the keys and values of
its road only and finds those of its path through its parents: it costs one token. A finished trip gives its place, and
its nodes' memory, to the next one, so memory grows with the number of trips under way and not with the number of
trips; finished trips can be written away part by part (`generate_to`), where a killed run finds them again. Time moves
on by whole seconds, max(expm1(predicted), 0) rounded.

Shapes: n trips asked for, B nodes expanded in a round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hoser_kd.common.arrays import BoolArray, Int64Array, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.generation.decoding import Decoding, Expanded, Node, Trip
from hoser_kd.hoser import HOSER, Decoder
from hoser_kd.network.trajectories import Trajectories

DEFAULT_CONCURRENT = 128
"""Nodes expanded in a round: more fill the machine no better, and every trip under way costs memory."""
PART_TRIPS = 2048
"""Trips a part of `generate_to`."""
STAGE = "generating trips"


@dataclass(frozen=True)
class GeneratedTrajectories(Trajectories):
    """Generated trips, with what the search says of each."""

    reached: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    """(n,) bool: the trip ends at its destination."""
    expansions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: nodes the search expanded, each a call of the model in the published code."""

    def to_table(self) -> pa.Table:
        """Return the trips as `Trajectories.to_table` does, with reached and expansions."""
        return (
            super()
            .to_table()
            .append_column("reached", pa.array(self.reached))
            .append_column("expansions", pa.array(self.expansions))
        )

    @classmethod
    def read_parquet(cls, path: str | PathLike[str]) -> GeneratedTrajectories:
        """Read back a Parquet file of `to_table`."""
        return cls.of_table(pq.read_table(path))

    @classmethod
    def of_table(cls, table: pa.Table) -> GeneratedTrajectories:
        """Return the trips of a table of `to_table`."""
        table = table.combine_chunks()
        roads, times = table["road_ids"].combine_chunks(), table["times"].combine_chunks()
        return cls(
            np.asarray(roads.offsets, np.int64),
            roads.flatten().to_numpy(),
            times.flatten().cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()).to_numpy(),
            table["trajectory_id"].to_numpy(),
            reached=table["reached"].to_numpy(),
            expansions=table["expansions"].to_numpy(),
        )


class GeneratedTrip(NamedTuple):
    """A finished trip."""

    road_ids: Int64Array
    """(P,) int64."""
    times: Int64Array
    """(P,) int64: seconds since the epoch."""
    reached: bool
    """Whether it ends at its destination."""
    expansions: int
    """Nodes expanded for it."""


def generate(
    model: HOSER,
    origins: Int64Array,
    start_times: Int64Array,
    destinations: Int64Array,
    max_steps: int = 5000,
    *,
    decoding: Decoding | None = None,
    concurrent: int | None = None,
    progress: Progress = silent,
) -> GeneratedTrajectories:
    """Generate a trip for each origin, start time and destination.

    `origins`, `destinations` (n,) int64 road ids; `start_times` (n,) int64 seconds since the epoch, UTC. `decoding`
    chooses another decoder than the published search and brings its own step limit. `concurrent` trips are under way
    at once; it changes speed and memory, never an answer. The model must know its time scale.

    Raises DataError naming the row where a road id does not exist, ValueError where the arrays differ in length.
    """
    asked = _Requests.of(model, origins, start_times, destinations)
    engine = _Engine(model, asked, decoding or Decoding(max_steps=max_steps))
    answers = dict(_told(engine.run(range(len(asked.origins)), concurrent), len(asked.origins), progress))
    return _collect([answers[trip] for trip in range(len(asked.origins))])


def generate_to(
    path: str | PathLike[str],
    parts_folder: str | PathLike[str],
    model: HOSER,
    origins: Int64Array,
    start_times: Int64Array,
    destinations: Int64Array,
    decoding: Decoding | None = None,
    *,
    concurrent: int | None = None,
    part_trips: int = PART_TRIPS,
    progress: Progress = silent,
) -> None:
    """Generate as `generate` does and write the trips to a Parquet file, however many there are.

    Finished parts of `part_trips` lie in `parts_folder` until the file is whole, and a later call with the same
    arguments goes on behind them; parts of other arguments are not read. Arguments and errors are those of `generate`.
    """
    asked = _Requests.of(model, origins, start_times, destinations)
    settings = decoding or Decoding()
    weights = digest_arrays(*(value.cpu().numpy() for value in model.state_dict().values()))
    folder = Path(parts_folder) / digest_json([weights, digest_arrays(*asked), part_trips, asdict(settings)])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    count = len(asked.origins)
    files = [folder / f"part-{part:06d}.parquet" for part in range(-(-count // part_trips))]
    there = [file.is_file() for file in files]
    todo = [trip for trip in range(count) if not there[trip // part_trips]]
    waiting: dict[int, dict[int, GeneratedTrip]] = {}
    engine = _Engine(model, asked, settings)
    for trip, answer in _told(engine.run(todo, concurrent), count, progress, count - len(todo)):
        part = trip // part_trips
        rows = waiting.setdefault(part, {})
        rows[trip] = answer
        if len(rows) == min(part_trips, count - part * part_trips):
            _write_part(files[part], waiting.pop(part))
    _join(files, Path(path))
    for file in files:
        file.unlink()
    folder.rmdir()


def _write_part(file: Path, rows: dict[int, GeneratedTrip]) -> None:
    trips = _collect([rows[trip] for trip in sorted(rows)], np.array(sorted(rows)).astype(str).astype(object))
    with atomic_path(file) as beside:
        pq.write_table(trips.to_table(), beside, compression="zstd")


def _join(files: list[Path], path: Path) -> None:
    """Put the parts one behind the other, a row group each."""
    schema = _collect([]).to_table().schema
    with atomic_path(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file).cast(schema))


def _told(
    answers: Iterator[tuple[int, GeneratedTrip]], total: int, progress: Progress, before: int = 0
) -> Iterator[tuple[int, GeneratedTrip]]:
    """Pass answers on, telling how far they have come and how many come a second."""
    started = time.monotonic()
    for done, answer in enumerate(answers, 1):
        yield answer
        passed = max(time.monotonic() - started, 1e-9)
        progress(STAGE, before + done, total, {"trips a second": done / passed})


class _Requests(NamedTuple):
    """The trips asked for, (n,) int64 each."""

    origins: Int64Array
    start_times: Int64Array
    destinations: Int64Array

    @classmethod
    def of(cls, model: HOSER, origins: Int64Array, start_times: Int64Array, destinations: Int64Array) -> _Requests:
        """Check that the arrays fit each other and the roads."""
        asked = cls(*(np.asarray(values, np.int64) for values in (origins, start_times, destinations)))
        if len({len(values) for values in asked}) != 1:
            raise ValueError("origins, start_times and destinations differ in length")
        for name, roads in (("origins", asked.origins), ("destinations", asked.destinations)):
            outside = (roads < 0) | (roads >= model.config.num_roads)
            if outside.any():
                row = int(np.argmax(outside))
                raise DataError(
                    name,
                    f"road {roads[row]} does not exist.",
                    row=row,
                    hint=f"Ids run from 0 to {model.config.num_roads - 1}.",
                )
        return asked


class _Engine:
    """Advances trips round by round."""

    def __init__(self, model: HOSER, asked: _Requests, decoding: Decoding) -> None:
        self._decoder = Decoder(model)
        self._tree = self._decoder.tree()
        self._asked = asked
        self._decoding = decoding

    def run(
        self, trips: Iterator[int] | range | list[int], concurrent: int | None
    ) -> Iterator[tuple[int, GeneratedTrip]]:
        """Yield the answers to these rows as they are finished."""
        at_once = concurrent or max(DEFAULT_CONCURRENT // self._decoding.nodes_a_round, 1)
        waiting = iter(trips)
        active: list[Trip] = []
        while True:
            active += [self._begin(row) for row in islice(waiting, at_once - len(active))]
            if not active:
                return
            wanted = [(trip, trip.next_nodes()) for trip in active]
            for trip, nodes in wanted:
                if not nodes:
                    yield trip.trip, self._end(trip)
            going = [(trip, node) for trip, nodes in wanted for node in nodes]
            active = [trip for trip, nodes in wanted if nodes]
            if going:
                self._expand(going)

    def _begin(self, trip: int) -> Trip:
        origin, start, destination = (int(values[trip]) for values in self._asked)
        return self._decoding.begin(trip, origin, start, destination)

    def _end(self, trip: Trip) -> GeneratedTrip:
        """Return the path to the destination, or the one that came closest to it."""
        last = trip.arrived
        roads, times = self._tree.path(trip.nearest_slot if last is None else last.parent)
        if last is not None:
            roads, times = np.append(roads, last.road), np.append(times, last.time)
        self._tree.give_back(list(trip.slots))
        return GeneratedTrip(roads, times, last is not None, trip.expansions)

    def _expand(self, going: list[tuple[Trip, Node]]) -> None:
        """Ask the model about these nodes, with one call, and tell each trip what became of its own."""
        rows = np.array([trip.trip for trip, _ in going])
        roads, times, parents = (np.array([node[at] for _, node in going], np.int64) for at in (2, 3, 4))
        destinations = self._asked.destinations[rows]
        decoded = self._decoder.step(self._tree, parents, roads, times, self._asked.start_times[rows], destinations)
        device = decoded.logits.device
        away_m = self._decoder.tables.distances_m(
            torch.from_numpy(roads).to(device), torch.from_numpy(destinations).to(device)
        )
        scale = self._decoding.logit_scale
        logits = decoded.logits if scale == 1.0 else decoded.logits * scale
        seconds = self._decoder.model.time_scale.seconds(decoded.times).round().long()
        for (trip, node), *told in zip(
            going,
            decoded.slots.tolist(),
            away_m.tolist(),
            decoded.candidates.tolist(),
            (-torch.log_softmax(logits, dim=1)).tolist(),
            seconds.tolist(),
            strict=True,
        ):
            trip.update(Expanded(node, *told))
            if trip.freed:
                self._tree.give_back(trip.freed)
                trip.freed.clear()


def _collect(answers: list[GeneratedTrip], ids: np.ndarray | None = None) -> GeneratedTrajectories:
    """Return these answers, in this order."""
    roads, times, reached, expansions = zip(*answers, strict=True) if answers else ((), (), (), ())
    none = np.zeros(0, np.int64)
    return GeneratedTrajectories(
        offsets_of(np.array([len(part) for part in roads], np.int64)),
        np.concatenate([none, *roads]),
        np.concatenate([none, *times]),
        ids,
        reached=np.array(reached, bool),
        expansions=np.array(expansions, np.int64),
    )
