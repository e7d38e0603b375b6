"""The next-step model as one file of `torch.export`, for programs without this library.

The file holds the city: vectors of all roads, the candidates of each road and where they lie. It needs torch alone:

    import torch

    program = torch.export.load("next_step.pt2").module()
    candidates, probabilities, seconds = program(roads, times, lengths, destinations)

Shapes: B paths, T roads of the longest path, C most candidates of a road, N roads, e width of the trajectory encoder,
h width of a road vector.
"""

from __future__ import annotations

import copy
import io
import json
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hoser_kd.common.arguments import check_path
from hoser_kd.common.arrays import row_of_value
from hoser_kd.common.files import atomic_path
from hoser_kd.hoser.attention import Pairs
from hoser_kd.hoser.batches import PADDING, time_of_day
from hoser_kd.sharing.student import Student, student_of

if TYPE_CHECKING:
    from hoser_kd.hoser import HOSER
    from hoser_kd.hoser.model import Block

_Module = TypeVar("_Module", bound=nn.Module)

DESCRIPTION_FILE = "hoser_kd.json"
"""Extra file in the program: which student it is, and what goes in and out."""
_CALL = 'export_next_step(student, "next_step.pt2")'
_MAX_ROADS = 1024
"""Longest path that the program accepts."""
_INPUTS = {
    "roads": "(B, T) int64: road ids of the paths so far, then any road id",
    "times": "(B, T) int64: when each road is entered, seconds since 1970 on the clock of the training trips; then 0",
    "lengths": "(B,) int64: number of roads of each path, at least 1",
    "destinations": "(B,) int64: road ids",
}
_OUTPUTS = {
    "candidates": "(B, C) int64: roads that can follow, in the order of the network; -1 where there is none",
    "probabilities": "(B, C) float32, summing to 1; all 0 at a dead end",
    "seconds": "(B, C) float32: predicted seconds until the candidate is entered; 0 where there is none",
}


class NextStepModel(nn.Module):
    """The next-step model with all that does not depend on the path precomputed, for paths as padded arrays.

    It computes what `next_step` computes, on whole paths in place of road by road.
    """

    fused: Tensor
    """(N, h) float32: input of the transformer for each road."""
    zone_query: Tensor
    """(N, h) float32: contribution of each destination to a query."""
    road_key: Tensor
    """(N, h) float32: contribution of a candidate to its key."""
    metric_key: Tensor
    """(2, h) float32: contributions of a unit of distance and of angle to a key."""
    time_part: Tensor
    """(N, TIME_DIM) float32: contribution of a candidate to its predicted time."""
    candidates: Tensor
    """(N, C) int64: candidates of each road, then -1."""
    candidate_direction: Tensor
    """(N, C) float64: direction from the end of a road to the end of its candidate, radians."""

    @torch.no_grad()
    def __init__(self, model: HOSER) -> None:
        """Raises ValueError for a model without a time scale."""
        super().__init__()
        road = model.encode_all_roads()
        zone = model.road_network_encoder.encode_zones()[model.road2zone]
        key = model.navigator.candidate_map(road)
        self.scale = model.time_scale
        self.tables = model.tables
        self.navigator = _frozen(model.navigator)
        self.clock = _frozen(model.trajectory_encoder.temporal_encoder)
        self.blocks = nn.ModuleList(map(_frozen, model.trajectory_encoder.blocks))
        for block in self.blocks:
            cast("Block", block).attn.register_buffer(
                "bias", None
            )  # the published causal mask, 4 MB that nothing reads
        for name, values in {
            "fused": model.trajectory_encoder.fuse(road, zone),
            "zone_query": model.navigator.zone_query(zone),
            "road_key": key.road_key,
            "metric_key": key.metric_key,
            "time_part": model.navigator.time_estimator_linear_2(road),
            **_candidate_tables(model),
        }.items():
            self.register_buffer(name, values)

    def forward(self, roads: Tensor, times: Tensor, lengths: Tensor, destinations: Tensor) -> tuple[Tensor, ...]:
        """Return (candidates, probabilities, seconds), each (B, C); see `_INPUTS` and `_OUTPUTS`."""
        last = lengths[:, None] - 1
        # padding takes the first road of its own path; the causal mask hides it from the last road
        place = torch.arange(roads.shape[1], device=roads.device)
        path = torch.where(place <= last, roads, roads[:, :1])
        x = self._histories(path, times)
        x = x.gather(1, last[:, :, None].expand(-1, -1, x.shape[2]))[:, 0]
        return self._candidates(x, path.gather(1, last)[:, 0], destinations)

    def _histories(self, path: Tensor, times: Tensor) -> Tensor:
        """Return (B, T, e): the encoded history up to each road of the paths."""
        x = torch.cat([self.fused[path], self.clock(time_of_day(times, times[:, 0]))], dim=-1)
        hidden = x.new_full((path.shape[1], path.shape[1]), -torch.inf).triu(1)
        pairs = Pairs(self.tables.pair_distances(path)[:, None], self.tables.pair_intervals(times)[:, None], hidden)
        for block in self.blocks:
            x = _attend(cast("Block", block), x, pairs)
        return x

    def _candidates(self, x: Tensor, road: Tensor, destinations: Tensor) -> tuple[Tensor, ...]:
        """Score the candidates of (B,) roads from the (B, e) histories that end there."""
        candidates = self.candidates[road]
        there = candidates >= 0
        at = candidates.clamp(min=0)
        distance, angle = self._metrics(road, at, there, destinations)
        key = self.road_key[at] + torch.stack([distance, angle], dim=2) @ self.metric_key
        query = self.navigator.query(x, self.zone_query[destinations])
        score = linear(torch.tanh(query[:, None] + key), self.navigator.v_proj.weight)[..., 0]
        # a dead end has no candidate: a softmax over finite scores, then 0 everywhere
        share = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(1).masked_fill(~there, 0)
        step_part = self.navigator.time_estimator_linear_1(x)[:, None].expand(-1, at.shape[1], -1)
        seconds = self.scale.seconds(self.navigator.times(step_part, self.time_part[at]))
        return candidates, share, seconds.masked_fill(~there, 0)

    def _metrics(self, road: Tensor, at: Tensor, there: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
        """Return metric distance and angle of the candidates, (B, C) float32 each (see `StepFeatures`)."""
        distance_m = self.tables.distances_m(at, destinations[:, None].expand_as(at))
        nearest = distance_m.masked_fill(~there, torch.inf).amin(1, keepdim=True)
        distance = torch.log1p((distance_m - nearest).masked_fill(~there, 0) / 100)
        turn = (self.candidate_direction[road] - self.tables.directions(road, destinations)[:, None]).abs()
        return distance.float(), (torch.minimum(turn, 2 * torch.pi - turn) / torch.pi).float()


def _frozen(module: _Module) -> _Module:
    return copy.deepcopy(module).requires_grad_(False)


def _attend(block: Block, x: Tensor, pairs: Pairs) -> Tensor:
    """Return (B, T, e) after a block."""
    attention, width = block.attn, x.shape[2]
    weight, bias = attention.scaled()
    joint = linear(block.ln_1(x), weight, bias + attention.pair_bias())

    def heads(flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)

    query, key, value = (heads(joint[:, :, part * width : (part + 1) * width]) for part in range(3))
    slope = query @ attention.relative_position_emb_k.weight
    mixed, sums = attention.mix(query, key, value, slope, pairs)
    of_pairs = linear(sums, attention.relative_position_emb_v.weight)
    return block.finish(x, (mixed + of_pairs).transpose(1, 2).flatten(2))


def _candidate_tables(model: HOSER) -> dict[str, Tensor]:
    """Return `candidates` and `candidate_direction` as (N, C) arrays, at least one column."""
    start, successor, direction = (
        part.cpu().numpy()
        for part in (model.tables.successor_start, model.tables.successor, model.tables.successor_direction)
    )
    counts = np.diff(start)
    row = row_of_value(start)
    cell = row, np.arange(len(successor)) - start[row]
    candidates = np.full((len(counts), max(1, int(counts.max(initial=0)))), PADDING, np.int64)
    directions = np.zeros(candidates.shape)
    candidates[cell], directions[cell] = successor, direction
    device = model.device
    return {
        "candidates": torch.from_numpy(candidates).to(device),
        "candidate_direction": torch.from_numpy(directions).to(device),
    }


def export_next_step(student: Student | HOSER, path: str | PathLike[str]) -> None:
    """Write the next-step model of a student as a program of `torch.export`, a `.pt2` file.

    It accepts any number of paths of up to 1024 roads, as padded arrays, on the device of the student. Results equal
    those of `next_step` up to the rounding of float32. The extra file `hoser_kd.json` describes student and arrays.

    Raises TypeError for arguments of the wrong kind, ValueError for another suffix or a student without a time scale.
    """
    check_path("path", path, _CALL)
    owner = student_of(student, _CALL)
    if not str(path).endswith(".pt2"):
        raise ValueError(f"path is {str(path)!r}, a program of torch.export ends in .pt2. Call {_CALL}.")
    program = torch.export.export(NextStepModel(owner.model).eval(), _example(owner), dynamic_shapes=_dynamic_shapes())
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION_FILE: json.dumps(_description(owner), indent=1)})
    with atomic_path(path) as beside:
        beside.write_bytes(content.getvalue())


def _example(student: Student) -> tuple[Tensor, ...]:
    """Return arguments of a size that no dimension shares with another, so that export does not tie them."""
    device = student.model.device
    zeros = torch.zeros(3, 5, dtype=torch.int64, device=device)
    return zeros, zeros.clone(), torch.full((3,), 2, device=device), torch.zeros(3, dtype=torch.int64, device=device)


def _dynamic_shapes() -> tuple[dict[int, Any], ...]:
    paths, roads = torch.export.Dim("paths", min=1), torch.export.Dim("roads", min=1, max=_MAX_ROADS)
    return {0: paths, 1: roads}, {0: paths, 1: roads}, {0: paths}, {0: paths}


def _description(student: Student) -> dict[str, Any]:
    names = ("city", "stage", "seed", "version", "store_version", "license", "time_convention")
    known = {name: student.about[name] for name in names if student.about.get(name) is not None}
    return {"student": known, "num_roads": student.num_roads, "inputs": _INPUTS, "outputs": _OUTPUTS}
