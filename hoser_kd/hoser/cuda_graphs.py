"""Training steps of HOSER replayed from CUDA graphs.

A step of a small batch is some 1,700 short kernels, and a host needs ten times longer to start them than a large GPU to
run them. A CUDA graph starts all of them at once, but requires fixed shapes and fixed addresses. So all arrays of a
batch, computed on the host, are padded to one of a few shapes and copied into one buffer, from which the graph reads.

Padding never changes a result: padded steps are cells of the (B, T) array without a step, padded candidates belong to
the last padded step, padded roads and edges to the first padded road. What the model computes for them is cut off
before the losses, so its gradient is zero. Sums over more rows may be rounded differently.

Shapes: B trips, T steps of the longest trip, S valid steps, K candidates of all steps, C maximum number of candidates
of the network, R distinct roads, E edges into them, M sources of these edges; a second layer has edges into these M
roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hoser_kd.hoser.batches import PADDING, Batch
from hoser_kd.hoser.output import StepOutput, StudentOutput
from hoser_kd.hoser.step_index import StepIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.hoser.model import HOSER

MOST_SHAPES = 24
"""Graphs that are kept; batches of further shapes run without one."""
_WASTE = 2.0
"""Padding up to this factor is accepted, so that an existing graph is used."""
_SMALL = 64
"""Sizes below this one are padded to it without regard to the factor."""
_OUTPUTS = ("logits", "time_pred", "candidates", "label", "seconds")


class Shape(NamedTuple):
    """Sizes of the arrays of a batch."""

    trips: int
    """B."""
    steps: int
    """T."""
    valid: int
    """S."""
    candidates: int
    """K."""
    roads: int
    """R."""
    edges: int
    """E of the last graph layer."""
    sources: int
    """M of the last graph layer, the targets of the first one."""
    first_edges: int
    """E of the first graph layer."""
    first_sources: int
    """M of the first graph layer."""

    def padded(self) -> Shape:
        """Return a shape that holds batches of this one and similar ones, with at least one padded step and road."""
        trips, steps, *others = self
        columns = _rounded(steps + 1)
        valid, *sizes = (_rounded(size + 1) for size in others)
        return Shape(trips, columns, min(valid, trips * columns), *sizes)

    def holds(self, other: Shape) -> bool:
        """Return whether a batch of the other shape can be padded to this one."""
        return self.trips == other.trips and all(
            mine > theirs for mine, theirs in zip(self[1:], other[1:], strict=True)
        )

    def wastes(self, other: Shape) -> float:
        """Return the largest ratio of a size of this shape to that of the other."""
        return max(mine / max(theirs, _SMALL) for mine, theirs in zip(self[1:], other[1:], strict=True))


def _rounded(size: int) -> int:
    """Return the size rounded up to a multiple of an eighth of the power of two below it."""
    unit = max(1, 1 << max(size.bit_length() - 4, 0))
    return -(-size // unit) * unit


@dataclass(frozen=True)
class HostBatch:
    """All arrays that a forward pass reads, int64, on the host."""

    shape: Shape
    arrays: dict[str, Int64Array]
    """(…,) flat, by name."""
    batch: Batch
    """The batch on the host."""

    @classmethod
    def of(cls, model: HOSER, batch: Batch) -> HostBatch:
        """Compute the arrays of a batch on the host; nothing is read from the device."""
        host, graph = batch.on_host, model.road_network_encoder.road_graph
        index = model.tables.host_index(host).arrays
        last = graph.host_into(index["roads"])
        first = graph.host_into(last["sources"])
        roads = host.road_ids.numpy()
        arrays = {
            # padding is replaced, since id -1 is no road
            "road_ids": np.where(roads == PADDING, roads[:, :1], roads),
            "times": host.times.numpy(),
            "lengths": host.lengths.numpy(),
            "destinations": host.destinations.numpy(),
            **index,
            **{f"last_{name}": values for name, values in last.items()},
            **{f"first_{name}": values for name, values in first.items()},
        }
        shape = Shape(
            len(roads),
            roads.shape[1] - 1,
            len(index["flat"]),
            len(index["connection"]),
            len(index["roads"]),
            len(last["edge"]),
            len(last["sources"]),
            len(first["edge"]),
            len(first["sources"]),
        )
        return cls(shape, arrays, host)

    def padded(self, shape: Shape, num_candidates: int) -> dict[str, Int64Array]:
        """Return the arrays padded to a shape that holds this one; `num_candidates`: C."""
        own, arrays = self.shape, self.arrays
        columns = shape.steps + 1
        trip, column = arrays["trip"], arrays["flat"] % own.steps
        flat = trip * shape.steps + column
        cell = arrays["candidate_step"] * num_candidates + arrays["candidate_place"]
        is_step = np.zeros(shape.trips * shape.steps, bool)
        is_step[flat] = True
        spare = np.flatnonzero(~is_step)[: shape.valid - own.valid]
        steps, candidates, roads = (
            partial(_filled, size=size) for size in (shape.valid, shape.candidates, shape.roads)
        )
        wide = np.repeat(arrays["road_ids"][:, :1], columns, axis=1)
        wide[:, : own.steps + 1] = arrays["road_ids"]
        late = np.zeros((shape.trips, columns), np.int64)
        late[:, : own.steps + 1] = arrays["times"]
        return {
            "road_ids": wide,
            "times": late,
            "lengths": arrays["lengths"],
            "destinations": arrays["destinations"],
            "flat": np.concatenate([flat, spare]),
            "trip": steps(trip),
            "connection": candidates(arrays["connection"]),
            "candidate": candidates(arrays["candidate"]),
            "candidate_step": candidates(arrays["candidate_step"], fill=shape.valid - 1),
            "candidate_place": candidates(arrays["candidate_place"]),
            "candidate_cell": candidates(cell, fill=(shape.valid - 1) * num_candidates),
            "label_candidate": steps(arrays["label_candidate"]),
            "roads": roads(arrays["roads"]),
            "road_at": steps(arrays["road_at"]),
            "candidate_at": candidates(arrays["candidate_at"]),
            **_padded_edges(arrays, "last", shape.roads, shape.edges, shape.sources),
            **_padded_edges(arrays, "first", shape.sources, shape.first_edges, shape.first_sources),
        }


def _filled(values: Int64Array, size: int, fill: int = 0) -> Int64Array:
    padded = np.full(size, fill, np.int64)
    padded[: len(values)] = values
    return padded


def _padded_edges(
    arrays: dict[str, Int64Array], layer: str, num_targets: int, num_edges: int, num_sources: int
) -> dict[str, Int64Array]:
    """Return the edges of a layer, padded: those of padding lead into the first padded target."""
    own = {name: arrays[f"{layer}_{name}"] for name in ("sources", "source", "target", "target_in_sources", "edge")}
    start = _filled(arrays[f"{layer}_target_start"], num_targets, num_edges)
    targets = len(own["target_in_sources"])
    start[targets] = len(own["edge"])
    padded = {
        "sources": _filled(own["sources"], num_sources),
        "source": _filled(own["source"], num_edges),
        "target": _filled(own["target"], num_edges, targets),
        "target_start": start,
        "target_in_sources": _filled(own["target_in_sources"], num_targets),
        "edge": _filled(own["edge"], num_edges),
    }
    return {f"{layer}_{name}": values for name, values in padded.items()}


class FixedShapeModel(nn.Module):
    """HOSER as a function of arrays of one shape, which is what a CUDA graph can hold."""

    def __init__(self, model: HOSER, names: tuple[str, ...]) -> None:
        """`names`: those of `HostBatch.padded`, in the order of the arguments."""
        super().__init__()
        self.model, self._names = model, names
        self._num_candidates = model.tables.most_candidates

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of `StepOutput` in the order of `_OUTPUTS`, with padded steps and C candidates."""
        named = dict(zip(self._names, arrays, strict=True))
        graph, none = self.model.road_network_encoder.road_graph, np.zeros(0, np.int64)
        edges = {
            layer: graph.neighborhood(
                none, {name.removeprefix(layer): each for name, each in named.items() if name.startswith(layer)}
            )
            for layer in ("last_", "first_")
        }
        batch = Batch(
            named["road_ids"],
            named["times"],
            named["lengths"],
            named["lengths"],
            own_destinations=named["destinations"],
        )
        of_index = {name: named[name] for name in StepIndex.__dataclass_fields__ if name in named}
        index = StepIndex(num_candidates=self._num_candidates, host_roads=none, **of_index)
        rows = self.model.rows(self.model.tables.features(batch, index), edges["first_"], edges["last_"])
        return tuple(rows[name] for name in _OUTPUTS)


class _Slot:
    """A shape with its buffer on the device and the function that reads it."""

    def __init__(
        self, model: HOSER, shape: Shape, arrays: dict[str, Int64Array], capture: Callable[..., nn.Module] | None
    ) -> None:
        self.shape = shape
        sizes = [values.size for values in arrays.values()]
        pinned = model.device.type == "cuda"
        self._host = torch.empty(sum(sizes), dtype=torch.int64, pin_memory=pinned)
        self._buffer = torch.empty_like(self._host, device=model.device, pin_memory=False)
        parts = torch.split(self._buffer, sizes)
        self.inputs = tuple(part.view(values.shape) for part, values in zip(parts, arrays.values(), strict=True))
        self.copy(arrays)
        module = FixedShapeModel(model, tuple(arrays)).train(model.training)
        self.forward: nn.Module = module if capture is None else capture(module, self.inputs)

    def copy(self, arrays: dict[str, Int64Array]) -> None:
        """Copy the arrays of a batch to the device in one transfer, without waiting for it."""
        np.concatenate([values.reshape(-1) for values in arrays.values()], out=self._host.numpy())
        self._buffer.copy_(self._host, non_blocking=True)


class GraphedModel:
    """The forward pass of a model in training, replayed from one CUDA graph per shape; its gradients come from another.

    Gradients are written to fixed addresses, so each backward pass must be followed by an optimizer step before the
    next forward pass. On a CPU, the same padded arrays are computed without a graph.
    """

    def __init__(self, model: HOSER) -> None:
        self._model = model
        self._slots: list[_Slot] = []
        self._num_candidates = model.tables.most_candidates
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    def __call__(self, host: HostBatch) -> StudentOutput | None:
        """Return the predictions of a batch; None if there are too many shapes already."""
        slot = self._slot(host)
        if slot is None:
            return None
        values = dict(zip(_OUTPUTS, slot.forward(*slot.inputs), strict=True))
        steps, candidates = host.shape.valid, host.arrays["candidate_place"].max() + 1
        rows = {name: each[:steps] for name, each in values.items()}
        rows |= {name: rows[name][:, :candidates] for name in ("logits", "candidates")}
        rows["seconds"] = rows["seconds"].detach()
        device = self._model.device
        flat = torch.from_numpy(host.arrays["flat"])
        places = flat.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else flat
        return StepOutput(host.batch.step_mask.to(device, non_blocking=True), places, rows)

    def _slot(self, host: HostBatch) -> _Slot | None:
        """Return the slot with the least padding, with the batch in it; captures a new one if needed."""
        fitting = [slot for slot in self._slots if slot.shape.holds(host.shape)]
        best = min(fitting, key=lambda slot: slot.shape.wastes(host.shape), default=None)
        if best is not None and best.shape.wastes(host.shape) <= _WASTE:
            best.copy(host.padded(best.shape, self._num_candidates))
            return best
        if len(self._slots) == MOST_SHAPES:
            return None
        shape = host.shape.padded()
        self._slots.append(_Slot(self._model, shape, host.padded(shape, self._num_candidates), self._capture()))
        return self._slots[-1]

    def _capture(self) -> Callable[..., nn.Module] | None:
        """Return what turns a module and its inputs into graphs; None on a CPU."""
        if self._pool is None:
            return None

        def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
            torch.cuda.make_graphed_callables(module, inputs, allow_unused_input=True, pool=self._pool)
            return module  # its method `forward` has been replaced

        return capture
