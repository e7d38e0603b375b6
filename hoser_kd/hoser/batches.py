"""Batches of trips, and the input features of HOSER, derived from them on the model's device.

A trip of roads r_0 … r_n has n steps: history r_0 … r_t, label r_{t+1}, destination r_n. Trips that have not arrived
come with other destinations. No feature is stored per step: positions, intervals and candidates are gathered from
tables by road id and time.

Shapes: B trips, T steps of the longest trip, S valid steps of the batch, K candidates of all valid steps, C maximum
number of candidates per step, N roads, L connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hoser_kd.common.calendar import SECONDS_PER_DAY, is_weekend, second_of_day
from hoser_kd.common.geodesy import EARTH_RADIUS_M, unit_vectors
from hoser_kd.common.pairwise import mean_and_std
from hoser_kd.hoser.step_index import HostConnections, HostStepIndex, StepIndex
from hoser_kd.network.step_statistics import Steps

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.hoser.config import CandidateAngle, TimeIntervals
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

MAX_DISTANCE_M = 1000.0
MAX_INTERVAL_MIN = 5.0
PADDING = -1


@dataclass(frozen=True)
class Batch:
    """Trips as padded arrays; row b holds `lengths[b]` roads, then -1."""

    road_ids: Tensor
    """(B, T + 1) int64: roads, the destination last; -1 is padding."""
    times: Tensor
    """(B, T + 1) int64: seconds since the epoch; 0 in padding."""
    lengths: Tensor
    """(B,) int64: number of roads of each trip, at least 2."""
    rows: Tensor
    """(B,) int64: row of the trip in its `Trajectories`."""
    own_destinations: Tensor | None = None
    """(B,) int64: destinations of the trips; None: their last roads."""
    host: Batch | None = None
    """The batch in the host's memory that this one was copied from; None: this one, or unknown."""

    @property
    def num_steps(self) -> int:
        """T."""
        return self.road_ids.shape[1] - 1

    @property
    def step_mask(self) -> Tensor:
        """(B, T) bool: steps that have a next road."""
        steps = torch.arange(self.num_steps, device=self.lengths.device)
        return steps < (self.lengths - 1)[:, None]

    @property
    def destinations(self) -> Tensor:
        """(B,) int64: `own_destinations`, or the last road of each trip."""
        if self.own_destinations is not None:
            return self.own_destinations
        return self.road_ids.gather(1, self.lengths[:, None] - 1)[:, 0]

    @property
    def on_host(self) -> Batch:
        """The batch in the host's memory."""
        return self if self.lengths.device.type == "cpu" else self.host or self.to("cpu")

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device, from pinned memory where the device is a GPU."""
        device = torch.device(device)
        if device == self.lengths.device:
            return self
        own = self.own_destinations
        return Batch(
            _copied(self.road_ids, device),
            _copied(self.times, device),
            _copied(self.lengths, device),
            _copied(self.rows, device),
            None if own is None else _copied(own, device),
            self.on_host if self.lengths.device.type == "cpu" else self.host,
        )


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")


def collate(trajectories: Trajectories, rows: Int64Array, destinations: Int64Array | None = None) -> Batch:
    """Pad rows of (memory-mapped) trajectories into a batch; only these rows are read from the file.

    `destinations` (rows,) int64: destination of each row; None: the last road.
    """
    rows = np.asarray(rows, np.int64)
    starts = trajectories.offsets[rows]
    lengths = trajectories.offsets[rows + 1] - starts
    column = np.arange(lengths.max())
    inside = column < lengths[:, None]
    # padding reads the first road of its own trip and is overwritten, so no other page of the file is read
    at = starts[:, None] + np.where(inside, column, 0)
    return Batch(
        road_ids=torch.from_numpy(np.where(inside, trajectories.road_ids[at], PADDING)),
        times=torch.from_numpy(np.where(inside, trajectories.times[at], 0)),
        lengths=torch.from_numpy(lengths),
        rows=torch.from_numpy(rows),
        own_destinations=None if destinations is None else torch.from_numpy(np.asarray(destinations, np.int64)),
    )


@dataclass(frozen=True)
class StepFeatures:
    """Input features of a batch. Steps are flat in row-major order of (B, T), candidates in the order of steps."""

    step_mask: Tensor
    """(B, T) bool: steps that have a next road."""
    road: Tensor
    """(S,) int64: current road of each step."""
    time_of_day: Tensor
    """(B, T) float32: minute of the day / 1440, negated where the trip starts on a weekend."""
    distance: Tensor
    """(B, T, T) float32: distance between the centers of two roads of the history, clipped to 1000 m, over 1000 m."""
    interval: Tensor
    """(B, T, T) float32: time between two roads of the history, clipped to 5 min, over 5 min."""
    destination: Tensor
    """(B,) int64: destination of each trip."""
    candidate: Tensor
    """(K,) int64: road ids of the candidates."""
    candidate_step: Tensor
    """(K,) int64: step of each candidate, 0 … S-1."""
    candidate_place: Tensor
    """(K,) int64: position among the candidates of the step, in the order of the network's successors."""
    metric_distance: Tensor
    """(K,) float32: log1p of the excess distance to the destination over the nearest candidate, in units of 100 m."""
    metric_angle: Tensor
    """(K,) float32: angle between the directions to the candidate and to the destination, over pi."""
    label: Tensor
    """(S,) int64: position of the next road among the candidates."""
    label_candidate: Tensor
    """(S,) int64: index of the next road among all candidates, 0 … K-1."""
    seconds: Tensor
    """(S,) float32: seconds until the next road is entered."""
    num_candidates: int
    """C."""
    index: StepIndex
    """Where the steps and candidates are."""

    def rows(self, values: Tensor, fill: float) -> Tensor:
        """Return (K,) values of candidates as (S, C), a row per step, with `fill` where there is no candidate."""
        flat = values.new_full((len(self.road) * self.num_candidates,), fill)
        return flat.index_copy(0, self.index.candidate_cell, values).view(len(self.road), self.num_candidates)

    def padded(self, values: Tensor, fill: float) -> Tensor:
        """Return (K,) values of candidates as (B, T, C), with `fill` where there is no candidate."""
        return self.padded_steps(self.rows(values, fill), fill)

    def padded_steps(self, values: Tensor, fill: float) -> Tensor:
        """Return (S, …) values of steps as (B, T, …), with `fill` in padding."""
        return padded_rows(values, self.index.flat, self.step_mask, fill)


def padded_rows(values: Tensor, places: Tensor, step_mask: Tensor, fill: float) -> Tensor:
    """Return (S, …) values of steps as (B, T, …), with `fill` in padding; `places` (S,) in a flattened (B, T) array."""
    flat = values.new_full((step_mask.numel(), *values.shape[1:]), fill)
    return flat.index_copy(0, places, values).view(*step_mask.shape, *values.shape[1:])


class RoadTables(nn.Module):
    """Tables over roads and connections from which step features are gathered."""

    unit_vector: Tensor
    """(N, 3) float64: center of each road as a point on the unit sphere."""
    end: Tensor
    """(N, 2) float64: (y, x) of the last coordinate in radians, in the axis order of the candidate angle."""
    end_scale: Tensor
    """(N,) float64: cosine of y, which scales x at that point."""
    successor_start: Tensor
    """(N + 1,) int64: where the candidates of each road start in `successor`."""
    successor: Tensor
    """(L,) int64: candidates of all roads."""
    successor_direction: Tensor
    """(L,) float64: direction from the end of a road to the end of its candidate, radians."""

    def __init__(self, tables: dict[str, Tensor], *, time_intervals: TimeIntervals) -> None:
        """`tables`: the arrays by name, from `road_tables`."""
        super().__init__()
        self.time_intervals = time_intervals
        for name, values in tables.items():
            self.register_buffer(name, values, persistent=False)
        self._host = HostConnections(tables["successor_start"], tables["successor"])

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays by name."""
        return dict(self.named_buffers())

    @property
    def num_roads(self) -> int:
        """N."""
        return len(self.end)

    def distances_m(self, from_road: Tensor, to_road: Tensor) -> Tensor:
        """Return the great-circle distance between road centers in meters, float64; ids of the same shape."""
        chord = (self.unit_vector[from_road] - self.unit_vector[to_road]).norm(dim=-1)
        return 2 * EARTH_RADIUS_M * torch.asin((chord / 2).clamp(max=1.0))

    def candidates(self, roads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (index in `successor`, index of the road, position) of the candidates of (S,) roads, (K,) each."""
        return take_rows(self.successor_start, roads)

    def metrics(self, roads: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the candidates of (S,) roads and their features with respect to (S,) destinations.

        Returns (candidate, step, place, metric_distance, metric_angle), each (K,).
        """
        at, step, place = self.candidates(roads)
        candidate = self.successor[at]
        return candidate, step, place, *self._metrics(roads, destinations, at, step, candidate)

    def _metrics(
        self, roads: Tensor, destinations: Tensor, at: Tensor, step: Tensor, candidate: Tensor
    ) -> tuple[Tensor, Tensor]:
        distance_m = self.distances_m(candidate, destinations[step])
        nearest = distance_m.new_full((len(roads),), torch.inf).scatter_reduce(0, step, distance_m, "amin")
        metric_distance = torch.log1p((distance_m - nearest[step]) / 100)
        towards = self.directions(roads, destinations)
        turn = (self.successor_direction[at] - towards[step]).abs()
        metric_angle = torch.minimum(turn, 2 * torch.pi - turn) / torch.pi
        return metric_distance.float(), metric_angle.float()

    def pair_distances(self, road_ids: Tensor) -> Tensor:
        """Return (B, T, T) float32 clipped distances between all roads in each row of (B, T) ids.

        Positions are relative to the row's first road, so float32 is exact to well under a millimeter.
        """
        point = self.unit_vector[road_ids]
        local = (point - point[:, :1]).float()
        return clipped_distances(local[:, :, None], local[:, None])

    def pair_intervals(self, times: Tensor) -> Tensor:
        """Return (B, T, T) float32 clipped intervals between all times in each row of (B, T) int64 seconds."""
        return clipped_intervals(times[:, :, None], times[:, None], self.time_intervals)

    @property
    def most_candidates(self) -> int:
        """The largest number of candidates of any road."""
        return self._host.most_candidates

    def host_index(self, batch: Batch) -> HostStepIndex:
        """Return where the steps and candidates of a batch are, on the host."""
        host = batch.on_host
        return self._host.index(host.road_ids.numpy(), host.lengths.numpy())

    def derive(self, batch: Batch) -> StepFeatures:
        """Return the features of a batch on the device of the tables."""
        return self.features(batch, self.host_index(batch).to(batch.lengths.device))

    def features(self, batch: Batch, index: StepIndex) -> StepFeatures:
        """Return the features of a batch from its index, on the device of the tables; no shape depends on values."""
        mask = batch.step_mask
        history, times = batch.road_ids[:, :-1], batch.times[:, :-1]
        road = history.flatten()[index.flat]
        destination = batch.destinations
        metric_distance, metric_angle = self._metrics(
            road, destination[index.trip], index.connection, index.candidate_step, index.candidate
        )
        return StepFeatures(
            step_mask=mask,
            road=road,
            time_of_day=time_of_day(times, batch.times[:, 0]),
            # padding takes the first road of its own trip, since id -1 is no road
            distance=self.pair_distances(torch.where(mask, history, history[:, :1])),
            interval=self.pair_intervals(times),
            destination=destination,
            candidate=index.candidate,
            candidate_step=index.candidate_step,
            candidate_place=index.candidate_place,
            metric_distance=metric_distance,
            metric_angle=metric_angle,
            label=index.candidate_place[index.label_candidate],
            label_candidate=index.label_candidate,
            seconds=(batch.times[:, 1:] - times).flatten()[index.flat].float(),
            num_candidates=index.num_candidates,
            index=index,
        )

    def directions(self, from_road: Tensor, to_road: Tensor) -> Tensor:
        """Return the direction from the end of a road to the end of another in radians, float64; ids of one shape."""
        return _direction(self.end[from_road], self.end[to_road], self.end_scale[from_road])


def road_tables(network: RoadNetwork, candidate_angle: CandidateAngle) -> dict[str, Tensor]:
    """Return the arrays of `RoadTables` for a network.

    `candidate_angle`: `published` swaps longitude and latitude, as the published code does and its checkpoints
    require; `true_bearing` does not.
    """
    end = np.radians(network.end)
    if candidate_angle == "published":
        end = end[:, ::-1]
    end_scale = np.cos(end[:, 0])
    start, successor = (torch.from_numpy(np.array(part, np.int64)) for part in network.successors)
    end_t, scale_t = torch.from_numpy(end.copy()), torch.from_numpy(end_scale)
    origin = torch.repeat_interleave(start.diff())
    return {
        "unit_vector": torch.from_numpy(unit_vectors(network.centroids)),
        "end": end_t,
        "end_scale": scale_t,
        "successor_start": start,
        "successor": successor,
        "successor_direction": _direction(end_t[origin], end_t[successor], scale_t[origin]),
    }


def clipped_distances(one: Tensor, other: Tensor) -> Tensor:
    """Return clipped distances between points (…, 3) of the unit sphere, both possibly shifted by one vector, float32.

    Below the clip, the relative difference of chord and arc is 1e-9, so the arcsine is left out.
    """
    x, y, z = (one[..., axis] - other[..., axis] for axis in range(3))
    chord_m = torch.sqrt(x * x + y * y + z * z) * EARTH_RADIUS_M
    return chord_m.clamp(max=MAX_DISTANCE_M).float() / MAX_DISTANCE_M


def clipped_intervals(one: Tensor, other: Tensor, reading: TimeIntervals) -> Tensor:
    """Return clipped intervals between times in int64 seconds, float32.

    `published` takes each time as a fraction of its day in float32 and ignores the date; `elapsed` subtracts the times.
    """
    if reading == "published":
        between_min = _share_of_day(one) * 1440 - _share_of_day(other) * 1440
    else:
        between_min = ((one - other).double() / 60).float()
    return between_min.abs().clamp(max=MAX_INTERVAL_MIN) / MAX_INTERVAL_MIN


def time_of_day(times: Tensor, start_times: Tensor) -> Tensor:
    """Return minute of day / 1440, float32, negated for trips that start on a Saturday or a Sunday.

    `times` (B, T) int64 s; `start_times` (B,) int64 s. At midnight the negated value is -0.0, whose cosine and sine
    equal those of 0: published behavior.
    """
    share = _share_of_day(times)
    return torch.where(is_weekend(start_times)[:, None], -share, share)


def time_label_statistics(trajectories: Trajectories) -> tuple[float, float]:
    """Return mean and population standard deviation of log1p(seconds to the next road) over all steps.

    They scale predicted times; the standard deviation is 1 where it would be 0.
    """
    steps = Steps(trajectories)
    mean, spread = mean_and_std(lambda first, last: np.log1p(steps.seconds(first, last)), len(steps))
    return mean, spread if spread > 0 else 1.0


def take_rows(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select rows of a ragged array on its device.

    Returns, for each selected value, its index in the flat array, the index of its row in `rows`, and its position in
    the row, all int64.
    """
    start = offsets[rows]
    size = offsets[rows + 1] - start
    which = torch.repeat_interleave(size)
    place = torch.arange(len(which), device=rows.device) - (size.cumsum(0) - size)[which]
    return start[which] + place, which, place


def _share_of_day(times: Tensor) -> Tensor:
    return (second_of_day(times).double() / SECONDS_PER_DAY).float()


def _direction(from_yx: Tensor, to_yx: Tensor, scale: Tensor) -> Tensor:
    delta = to_yx - from_yx
    return torch.atan2(delta[..., 0], scale * delta[..., 1]) % (2 * torch.pi)
