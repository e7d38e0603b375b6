"""Generation of many trips at once, with one call of the model per round.

Trips are independent, so each round expands the nodes that all active trips name (one per trip in the published
search; see `hoser_kd.generation.decoding`) with one call of the model. A node stores the keys and values of its own
road only and finds those of its path through its parents, so it costs one token. A finished trip frees its place and
its nodes for the next one: memory grows with the number of active trips, not with the number of requests. `generate_to`
writes finished trips in parts, and an interrupted run resumes after them. Times advance by whole seconds,
max(expm1(predicted), 0) rounded.

Shapes: n requested trips, B nodes expanded in a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.common.seals import is_sealed, seal, seal_of
from hoser_kd.config.variants import DECODERS
from hoser_kd.generation.active_trips import ActiveTrips, Nodes, ObjectTrips, Successors
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.guided_search import GuidedSearch
from hoser_kd.generation.prior import CostsToGo, Prior
from hoser_kd.generation.search import Search
from hoser_kd.generation.search_rounds import SearchTrips
from hoser_kd.generation.trajectories import GeneratedTrajectories, GeneratedTrip
from hoser_kd.generation.trip_state import Node, Trip
from hoser_kd.hoser import HOSER, IncrementalHOSER
from hoser_kd.hoser.incremental import Decoded
from hoser_kd.network.times import LAST_SECOND

DEFAULT_MAX_STEPS = 5000
"""Expansions per trip, as published."""
CONCURRENT = {"cpu": 128, "cuda": 2048}
"""Nodes expanded in a round, by the type of the device. More are not faster, and every active trip costs memory."""
PART_TRIPS = 2048
"""Trips per part of `generate_to`."""
STAGE = "generating trips"
RATE = "trips/s"
"""Name of the metric that is reported with the progress."""
_USAGE = "Call generate(model, origins, start_times, destinations, max_steps=5000, decoding='search')."

IntArray = Int64Array | Sequence[int]


def generate(
    model: HOSER,
    origins: IntArray,
    start_times: IntArray,
    destinations: IntArray,
    max_steps: int = DEFAULT_MAX_STEPS,
    *,
    decoding: Decoding | str | None = None,
    prior: Prior | None = None,
    concurrent: int | None = None,
    encoded: IncrementalHOSER | None = None,
    on_expanded: Callable[[Nodes, Successors], object] | None = None,
    progress: Progress = silent,
) -> GeneratedTrajectories:
    """Generate a trip for each origin, start time and destination.

    `origins`, `destinations` (n,) road ids; `start_times` (n,) seconds since the epoch, UTC; integers. `decoding`: the
    name of a decoder, or a `Decoding` with its own settings and step limit; None: the published search. `prior`
    replaces the costs of steps and guides the search (`hoser_kd.generation.guided_search`), which may then exceed the
    step limit by the roads of the path that finishes a trip; None or neutral: the student's own costs. `concurrent`
    trips are active at once; it affects speed and memory, never the result. `encoded` is the same model with its roads
    encoded, for a caller that keeps it; otherwise each call encodes all roads. `on_expanded` is called with the nodes
    of each round and their results. The model needs a time scale.

    Raises DataError with the row if a road id does not exist or a time is before 1970 or after the year 9999,
    ConfigError for an unknown decoder, TypeError or ValueError for other wrong arguments.
    """
    settings = _decoding(decoding, max_steps)
    _check_concurrent(concurrent)
    requests = _Requests.of(model, origins, start_times, destinations)
    engine = _Engine(encoded or IncrementalHOSER(model), requests, settings, _prior(prior, model))
    count = len(requests.origins)
    trips = dict(_report_progress(engine.run(range(count), concurrent, on_expanded), count, progress))
    return GeneratedTrajectories.of_trips([trips[row] for row in range(count)])


def generate_to(
    path: str | PathLike[str],
    parts_folder: str | PathLike[str],
    model: HOSER,
    origins: IntArray,
    start_times: IntArray,
    destinations: IntArray,
    decoding: Decoding | str | None = None,
    *,
    prior: Prior | None = None,
    concurrent: int | None = None,
    part_trips: int = PART_TRIPS,
    progress: Progress = silent,
) -> None:
    """Generate as `generate` does and write the trips to a Parquet file in bounded memory.

    Finished parts of `part_trips` stay in `parts_folder` until the file is complete. A later call with the same
    arguments resumes after them; damaged parts and those of other arguments are ignored. Arguments and errors are those
    of `generate`.
    """
    settings = _decoding(decoding)
    _check_concurrent(concurrent)
    requests = _Requests.of(model, origins, start_times, destinations)
    prior = _prior(prior, model)
    weights = digest_arrays(*(value.cpu().numpy() for value in model.state_dict().values()))
    key = [weights, digest_arrays(*requests), part_trips, asdict(settings)]
    folder = Path(parts_folder) / digest_json(key if prior is None else [*key, prior.key()])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    count = len(requests.origins)
    files = [folder / f"part-{part:06d}.parquet" for part in range(-(-count // part_trips))]
    is_written = [is_sealed(seal_of(file), file) for file in files]
    remaining = [row for row in range(count) if not is_written[row // part_trips]]
    pending: dict[int, dict[int, GeneratedTrip]] = {}
    trips = _Engine(IncrementalHOSER(model), requests, settings, prior).run(remaining, concurrent)
    for row, trip in _report_progress(trips, count, progress, count - len(remaining)):
        part = row // part_trips
        rows = pending.setdefault(part, {})
        rows[row] = trip
        if len(rows) == min(part_trips, count - part * part_trips):
            _write_part(files[part], pending.pop(part))
    _join(files, Path(path))
    for file in files:
        file.unlink()
        seal_of(file).unlink()
    folder.rmdir()


def _write_part(file: Path, rows: dict[int, GeneratedTrip]) -> None:
    ids = np.array(sorted(rows)).astype(str).astype(object)
    trips = GeneratedTrajectories.of_trips([rows[row] for row in sorted(rows)], ids)
    with atomic_path(file) as beside:
        pq.write_table(trips.to_table(), beside, compression="zstd")
    seal(seal_of(file), file)


def _join(files: list[Path], path: Path) -> None:
    """Concatenate the parts, one row group per part."""
    schema = GeneratedTrajectories.of_trips([]).to_table().schema
    with atomic_path(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file).cast(schema))


def _report_progress(
    trips: Iterator[tuple[int, GeneratedTrip]], total: int, progress: Progress, before: int = 0
) -> Iterator[tuple[int, GeneratedTrip]]:
    """Yield finished trips and report their number and rate; `before` of `total` were finished earlier."""
    started = time.monotonic()
    for done, trip in enumerate(trips, 1):
        yield trip
        elapsed = max(time.monotonic() - started, 1e-9)
        progress(STAGE, before + done, total, {RATE: done / elapsed})


def _decoding(decoding: Decoding | str | None, max_steps: int = DEFAULT_MAX_STEPS) -> Decoding:
    """Return the settings of the decoder. Raises TypeError or ValueError with the right call."""
    if isinstance(max_steps, str | Decoding):
        raise TypeError(
            f"max_steps is a number of expansions, not {max_steps!r}. Choose a decoder with the keyword argument "
            f"decoding, one of {', '.join(map(repr, DECODERS))}: "
            "generate(model, origins, start_times, destinations, decoding='beam')."
        )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int | np.integer) or max_steps < 1:
        raise ValueError(f"max_steps is {max_steps!r}, not an integer of 1 or more. {_USAGE}")
    if decoding is None or isinstance(decoding, str):
        return Decoding(decoding or "search", int(max_steps))
    if not isinstance(decoding, Decoding):
        raise TypeError(
            f"decoding is of type {type(decoding).__name__}, not a decoder. Give a name "
            f"({', '.join(map(repr, DECODERS))}) or Decoding('beam', beam_width=8)."
        )
    if max_steps not in (DEFAULT_MAX_STEPS, decoding.max_steps):
        raise ValueError(
            f"max_steps {max_steps} contradicts the {decoding.max_steps} of decoding. Give it once: "
            f"decoding=Decoding({decoding.name!r}, max_steps={max_steps})."
        )
    return decoding


def _prior(prior: Prior | None, model: HOSER) -> Prior | None:
    """Return the prior, None for a neutral one. Raises TypeError, or ValueError where it is of another network."""
    if prior is None:
        return None
    if not isinstance(prior, Prior):
        raise TypeError(
            f"prior is of type {type(prior).__name__}, not a Prior. Call Prior.fit(train, network, markov_weight=0.5), "
            "or Prior.from_config(config.generation.prior, train, network)."
        )
    prior.check(model)
    return None if prior.is_neutral else prior


class _Requests(NamedTuple):
    """The requested trips, (n,) int64 each."""

    origins: Int64Array
    start_times: Int64Array
    destinations: Int64Array

    @classmethod
    def of(cls, model: HOSER, origins: IntArray, start_times: IntArray, destinations: IntArray) -> _Requests:
        """Validate model and arrays. Raises TypeError, ValueError or DataError."""
        if not isinstance(model, HOSER):
            raise TypeError(
                f"model is of type {type(model).__name__}, not a HOSER. {_USAGE} Load one with load_student(path)."
            )
        model.time_scale  # noqa: B018  raises ValueError without a time scale
        named = {"origins": origins, "start_times": start_times, "destinations": destinations}
        requests = cls(*(_integers(name, values) for name, values in named.items()))
        if len({len(values) for values in requests}) != 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in zip(named, requests, strict=True))
            raise ValueError(f"origins, start_times and destinations differ in length ({lengths}). {_USAGE}")
        for name, roads in (("origins", requests.origins), ("destinations", requests.destinations)):
            outside = (roads < 0) | (roads >= model.config.num_roads)
            if outside.any():
                row = int(np.argmax(outside))
                raise DataError(
                    name,
                    f"road {roads[row]} does not exist.",
                    row=row,
                    hint=f"Ids run from 0 to {model.config.num_roads - 1}.",
                )
        check_start_times(requests.start_times)
        return requests


def _integers(name: str, values: IntArray) -> Int64Array:
    """Return (n,) int64. Raises TypeError for other dtypes and ValueError for other shapes."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, not (n,): one value per trip. {_USAGE}")
    if array.size and array.dtype.kind not in "iu":
        hint = " Convert times with times.astype('datetime64[s]').astype('int64')." if name == "start_times" else ""
        raise TypeError(f"{name} has dtype {array.dtype}, not an integer type.{hint}")
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        row = int(np.argmax(array))
        raise ValueError(f"{name} has {array[row]} in row {row}, which exceeds int64. {_USAGE}")
    return array.astype(np.int64)


def check_start_times(seconds: Int64Array) -> None:
    """Raise DataError with the row of a time before 1970 or after the year 9999."""
    outside = (seconds < 0) | (seconds > LAST_SECOND)
    if outside.any():
        row = int(np.argmax(outside))
        hint = "Give seconds since 1970 UTC."
        if seconds[row] > LAST_SECOND:
            hint += " Milliseconds: divide by 1000. Datetimes: times.astype('datetime64[s]').astype('int64')."
        where = "before 1970" if seconds[row] < 0 else "after the year 9999"
        raise DataError("start_times", f"{seconds[row]} seconds is {where}.", row=row, hint=hint)


def _check_concurrent(concurrent: int | None) -> None:
    """Raise ValueError if `concurrent` is neither None nor an integer of 1 or more."""
    is_integer = isinstance(concurrent, int | np.integer) and not isinstance(concurrent, bool)
    if concurrent is not None and not (is_integer and concurrent >= 1):
        raise ValueError(
            f"concurrent is {concurrent!r}, not an integer of 1 or more. Leave it out for the default. {_USAGE}"
        )


class _Engine:
    """Advances active trips round by round."""

    def __init__(self, decoder: IncrementalHOSER, requests: _Requests, decoding: Decoding, prior: Prior | None) -> None:
        self._decoder = decoder
        self._tree = self._decoder.tree()
        self._requests = requests
        self._decoding = decoding
        self._prior = prior
        self._costs_to_go = None if prior is None or not decoding.spec.is_guided else CostsToGo(prior)

    def run(
        self,
        rows: Iterator[int] | range | list[int],
        concurrent: int | None,
        on_expanded: Callable[[Nodes, Successors], object] | None = None,
    ) -> Iterator[tuple[int, GeneratedTrip]]:
        """Yield (row, trip) for these rows of the requests, in the order in which the trips finish."""
        at_once = CONCURRENT["cuda" if self._tree.store.device.type == "cuda" else "cpu"]
        limit = concurrent or max(at_once // self._decoding.nodes_per_round, 1)
        limit = max(1, min(limit, len(self._requests.origins)))
        waiting = iter(rows)
        active = self._active_trips(limit)
        while True:
            for row in islice(waiting, limit - len(active)):
                active.begin(row, *(int(values[row]) for values in self._requests))
            if len(active) == 0:
                return
            finished, nodes = active.next_round()
            yield from finished
            if len(nodes.rows):
                successors = self._expand(nodes)
                if on_expanded is not None:
                    on_expanded(nodes, successors)
                active.update(successors)

    def _active_trips(self, limit: int) -> ActiveTrips:
        """Return an empty set of active trips for the decoder."""
        guide, has_bound = self._costs_to_go, self._prior is not None and self._prior.has_bound
        decoding, tree = self._decoding, self._tree
        if decoding.spec.trip_class is Search:
            return SearchTrips(tree, limit, decoding.max_steps, guide, has_bound=has_bound)
        if guide is None:
            return ObjectTrips(tree, decoding.begin, decoding.name)

        def begin(row: int, origin: int, start: int, destination: int) -> Trip:
            start_node = Node(0.0, 0, origin, start, -1)
            return GuidedSearch(row, destination, start_node, decoding, guide, has_bound=has_bound)

        return ObjectTrips(tree, begin, decoding.name)

    def _expand(self, nodes: Nodes) -> Successors:
        """Expand these nodes with one call of the model."""
        destinations, start_times = self._requests.destinations[nodes.rows], self._requests.start_times[nodes.rows]
        decoded = self._decoder.step(self._tree, nodes.parents, nodes.roads, nodes.times, start_times, destinations)
        device = decoded.logits.device
        away_m = self._decoder.tables.distances_m(
            torch.from_numpy(nodes.roads).to(device), torch.from_numpy(destinations).to(device)
        )
        seconds = self._decoder.model.time_scale.seconds(decoded.times).round().long()
        return Successors(
            decoded.slots,
            away_m.cpu().numpy(),
            decoded.candidates.cpu().numpy(),
            self._costs(nodes.roads, decoded),
            seconds.cpu().numpy(),
        )

    def _costs(self, roads: Int64Array, decoded: Decoded) -> Float64Array:
        """Return (B, C): the cost of each candidate; values after the last candidate are meaningless."""
        scale = self._decoding.logit_scale
        if self._prior is not None:
            return self._prior.step_costs(roads, decoded.candidates, decoded.logits) * scale
        logits = decoded.logits if scale == 1.0 else decoded.logits * scale
        costs: Float64Array = (-torch.log_softmax(logits, dim=1)).cpu().numpy()
        return costs
