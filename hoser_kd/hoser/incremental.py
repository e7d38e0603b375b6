"""Incremental inference: extend many paths by one road at a time, with cached keys and values.

Road vectors, candidate keys and time parts are computed once for all N roads. A path is a chain of nodes in a tree. A
node stores the keys and values of its own road and refers to its parent, so each new road costs one token, and paths
share their common prefix. Results equal the full forward pass (see `HOSER.forward`).

Shapes: B new nodes (paths extended by one road), P roads of the longest path, C maximum number of candidates per node,
M capacity in nodes, l layers, e width of the trajectory encoder, d width of a head, N roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from hoser_kd.common.calendar import SECONDS_PER_DAY, second_of_day
from hoser_kd.hoser.attention import Pairs
from hoser_kd.hoser.batches import clipped_distances, clipped_intervals, time_of_day

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float32Array, Float64Array, Int64Array
    from hoser_kd.hoser.config import TimeIntervals
    from hoser_kd.hoser.model import HOSER, Block, CandidateMap

NO_PARENT = -1


class PathTree:
    """Nodes of the current paths, by slot; released slots are reused."""

    def __init__(
        self,
        num_layers: int,
        width: int,
        device: torch.device,
        time_intervals: TimeIntervals = "published",
        capacity: int = 4096,
    ) -> None:
        """`width` is e; `capacity` is the initial M, doubled when needed."""
        self._by_day = time_intervals == "published"
        self.parent: Int64Array = np.full(capacity, NO_PARENT, np.int64)
        """(M,) int64: slot of the previous road; -1 at the start of a path."""
        self.road: Int64Array = np.zeros(capacity, np.int64)
        """(M,) int64: road id."""
        self.time: Int64Array = np.zeros(capacity, np.int64)
        """(M,) int64: seconds since the epoch."""
        self.minute: Float64Array = np.zeros(capacity)
        """(M,) float64: time in minutes, as in `clipped_intervals`."""
        self.depth: Int64Array = np.zeros(capacity, np.int64)
        """(M,) int64: number of roads of the path that ends here."""
        self.store = torch.empty(num_layers, capacity, 2 * width, device=device)
        """(l, M, 2 e) float32: keys, then values."""
        self._free: Int64Array = np.arange(capacity - 1, -1, -1)
        self._num_free = capacity

    @property
    def num_nodes(self) -> int:
        """Number of slots in use."""
        return len(self.parent) - self._num_free

    def add(self, parents: Int64Array, roads: Int64Array, times: Int64Array) -> Int64Array:
        """Append a road to each parent (-1 starts a path); return the new slots, (B,) int64."""
        while self._num_free < len(roads):
            self._grow()
        rest = self._num_free - len(roads)
        slots = self._free[rest : self._num_free][::-1].copy()
        self._num_free = rest
        self.parent[slots], self.road[slots], self.time[slots] = parents, roads, times
        self.minute[slots] = (
            (second_of_day(times) / SECONDS_PER_DAY).astype(np.float32) * np.float32(1440)
            if self._by_day
            else times / 60
        )
        self.depth[slots] = np.where(parents >= 0, self.depth[parents], 0) + 1
        return slots

    def _grow(self) -> None:
        size = len(self.parent)
        for name in ("parent", "road", "time", "minute", "depth"):
            kept = getattr(self, name)
            setattr(self, name, np.concatenate([kept, np.zeros_like(kept)]))
        self.store = torch.cat([self.store, torch.empty_like(self.store)], dim=1)
        free = np.empty(2 * size, np.int64)
        free[: self._num_free] = self._free[: self._num_free]
        free[self._num_free : self._num_free + size] = np.arange(2 * size - 1, size - 1, -1)
        self._free, self._num_free = free, self._num_free + size

    def give_back(self, slots: list[int] | Int64Array) -> None:
        """Release slots; no node in use may have them as parent."""
        self._free[self._num_free : self._num_free + len(slots)] = slots
        self._num_free += len(slots)

    def paths(self, slots: Int64Array) -> Int64Array:
        """Return (B, P) int64: slots of the paths that end here, in path order, -1 after the end."""
        from hoser_kd.hoser import _path_kernels as kernel

        path: Int64Array = kernel.trace(self.parent, self.depth, slots)
        return path

    def path(self, slot: int) -> tuple[Int64Array, Int64Array]:
        """Return roads and times, (P,) int64 each, of the path that ends here; empty for -1."""
        slots = self.paths(np.array([slot]))[0] if slot >= 0 else np.zeros(0, np.int64)
        return self.road[slots], self.time[slots]


@dataclass(frozen=True)
class Decoded:
    """Scores and times of the candidates after each new road."""

    slots: Int64Array
    """(B,) int64: the new nodes."""
    candidates: Tensor
    """(B, C) int64: road ids in the order of the network's successors; -1 where there is none."""
    logits: Tensor
    """(B, C) float32: scores; -inf where there is no candidate, so a dead end has a row of -inf."""
    times: Tensor
    """(B, C) float32: standardized time until the candidate is entered (see `HOSER.time_scale`)."""


@dataclass(frozen=True)
class _Layer:
    """An attention block with all that does not depend on the path precomputed."""

    block: Block
    weight: Tensor
    """(3 e, e): projection to scaled queries, keys and values."""
    bias: Tensor
    """(3 e,): including the bias of the pairs."""
    pair: tuple[Float32Array, Float32Array]
    """Contributions of a unit of distance and of interval to a key and to a value, (2, d) each."""


class IncrementalHOSER:
    """HOSER for generation; it reads the weights once, so they must not change afterwards."""

    @torch.no_grad()
    def __init__(self, model: HOSER, *, compiled: bool | None = None) -> None:
        """Encode all roads and zones on the model's device.

        `compiled` computes attention in the compiled loop for CPUs instead of array code (default: on CPU).
        """
        self.model = model
        self.tables = model.tables
        self._compiled = model.device.type == "cpu" if compiled is None else compiled
        road = model.encode_all_roads()
        zone = model.road_network_encoder.encode_zones()
        self.fused = model.trajectory_encoder.fuse(road, embedding(model.road2zone, zone))
        """(N, h): input of the transformer for each road."""
        self.zone_query = model.navigator.zone_query(zone)
        """(Z, h): contribution of the destination's zone to a query."""
        self.candidate_map: CandidateMap = model.navigator.candidate_map(road)
        self.time_part = model.navigator.time_estimator_linear_2(road)
        """(N, 64): contribution of a candidate to its predicted time."""
        self._layers = [self._layer(block) for block in model.trajectory_encoder.blocks]
        self._point = self.tables.unit_vector.cpu().numpy()

    def _layer(self, block: Block) -> _Layer:
        attention = block.attn
        weight, bias = attention.scaled()
        pair = tuple(
            np.ascontiguousarray(part.weight.detach().cpu().float().numpy().T)
            for part in (attention.relative_position_emb_k, attention.relative_position_emb_v)
        )
        return _Layer(block, weight, bias + attention.pair_bias(), cast("tuple[Any, Any]", pair))

    @property
    def num_heads(self) -> int:
        """Number of attention heads."""
        return self.model.config.num_heads

    def tree(self, capacity: int = 4096) -> PathTree:
        """Return an empty tree for paths of this model."""
        config = self.model.config
        return PathTree(config.num_layers, config.encoder_dim, self.fused.device, config.time_intervals, capacity)

    @torch.no_grad()
    def step(
        self,
        tree: PathTree,
        parents: Int64Array,
        road_ids: Int64Array,
        times: Int64Array,
        start_times: Int64Array,
        destinations: Int64Array,
    ) -> Decoded:
        """Extend B paths by one road each.

        All arguments are (B,) int64 on the host: last node of each path (-1: none), the road entered, the time of
        entry, the start time of the path (its weekday sets the sign of the time of day), and the destination.
        """
        slots = tree.add(parents, road_ids, times)
        road_t, time_t, start_t, destination_t = (
            torch.from_numpy(np.ascontiguousarray(part)).to(self.fused.device)
            for part in (road_ids, times, start_times, destinations)
        )
        x = self._histories(tree, slots, road_t, time_t, start_t)
        navigator = self.model.navigator
        candidate, node, place, metric_distance, metric_angle = self.tables.metrics(road_t, destination_t)
        query = navigator.query(x, embedding(self.model.road2zone[destination_t], self.zone_query))
        key = navigator.keys(self.candidate_map, candidate, metric_distance, metric_angle)
        step_part = navigator.time_estimator_linear_1(x)
        times_pred = navigator.times(embedding(node, step_part), embedding(candidate, self.time_part))
        shape = (len(road_ids), int(place.max()) + 1 if len(place) else 0)
        return Decoded(
            slots=slots,
            candidates=candidate.new_full(shape, -1).index_put((node, place), candidate),
            logits=x.new_full(shape, -torch.inf).index_put((node, place), navigator.scores(query, key, node)),
            times=x.new_zeros(shape).index_put((node, place), times_pred),
        )

    def _histories(
        self, tree: PathTree, slots: Int64Array, roads: Tensor, times: Tensor, start_times: Tensor
    ) -> Tensor:
        """Return (B, e) vectors of the paths, and store keys and values of the new nodes."""
        encoder = self.model.trajectory_encoder
        clock = encoder.temporal_encoder(time_of_day(times[:, None], start_times))
        x = torch.cat([embedding(roads, self.fused), clock[:, 0]], dim=-1)
        at = torch.from_numpy(slots).to(x.device)
        path = tree.paths(slots)
        attend = self._loop(tree, path, slots) if self._compiled else self._arrays(tree, path, slots)
        width = x.shape[1]
        for layer, parts in enumerate(self._layers):
            joint = linear(parts.block.ln_1(x), parts.weight, parts.bias)
            tree.store[layer].index_copy_(0, at, joint[:, width:])
            x = parts.block.finish(x, attend(layer, joint))
        return x

    def _loop(self, tree: PathTree, path: Int64Array, slots: Int64Array) -> Any:
        """Return attention along the paths as a compiled loop, (layer, (B, 3 e)) -> (B, e)."""
        from hoser_kd.hoser import _path_kernels as kernel

        length = tree.depth[slots]
        distance_interval = kernel.pairs(path, length, tree.road, tree.minute, self._point)

        def attend(layer: int, joint: Tensor) -> Tensor:
            return torch.from_numpy(
                kernel.attend(
                    joint.numpy(),
                    tree.store[layer].numpy(),
                    path,
                    length,
                    *distance_interval,
                    *self._layers[layer].pair,
                    self.num_heads,
                )
            )

        return attend

    def _arrays(self, tree: PathTree, path: Int64Array, slots: Int64Array) -> Any:
        """Return the same with array operations, for GPUs."""
        device = self.fused.device
        at = torch.from_numpy(np.maximum(path, 0)).to(device)
        road, time, last, now, mask = (
            torch.from_numpy(part).to(device)
            for part in (tree.road[path], tree.time[path], tree.road[slots], tree.time[slots], path >= 0)
        )
        point = self.tables.unit_vector
        pairs = Pairs(
            *(
                part[:, None, None]
                for part in (
                    clipped_distances(point[road], point[last][:, None]),
                    clipped_intervals(time, now[:, None], self.tables.time_intervals),
                    torch.zeros_like(time, dtype=torch.float32).masked_fill(~mask, -torch.inf),
                )
            )
        )
        width = self.model.config.encoder_dim

        def heads(flat: Tensor) -> Tensor:
            return flat.reshape(*flat.shape[:2], self.num_heads, -1).transpose(1, 2)

        def attend(layer: int, joint: Tensor) -> Tensor:
            # entries after the end of a path are undefined
            kept = tree.store[layer][at].masked_fill(~mask[:, :, None], 0)
            key, value = heads(kept[:, :, :width]), heads(kept[:, :, width:])
            attention, query = self._layers[layer].block.attn, heads(joint[:, None, :width])
            slope = query @ attention.relative_position_emb_k.weight
            mixed, sums = attention.mix(query, key, value, slope, pairs)
            return (mixed + linear(sums, attention.relative_position_emb_v.weight)).transpose(1, 2).flatten(2)[:, 0]

        return attend
