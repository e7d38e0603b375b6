"""HOSER (Cao et al., AAAI 2025): predicts the next road of a trip and the time until it is entered.

Results equal those of the published code, and its checkpoints load, but less is computed: no (B, T, T, h) array, since
the two scalars of a pair enter through two vectors; candidate keys once per road; only the roads that a batch needs;
in training, times at the label only.

Shapes: B trips, T steps, S valid steps, K candidates of all steps, C maximum number of candidates per step, N roads,
R roads that a batch needs, Z zones, h width of road and zone vectors, e = 2h width of the trajectory encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, linear

from hoser_kd.hoser.attention import HeadLayout, PairAttention, Pairs
from hoser_kd.hoser.batches import PADDING, RoadTables, road_tables
from hoser_kd.hoser.config import HoserConfig
from hoser_kd.hoser.features import GraphFeatures, build_graph_features
from hoser_kd.hoser.graph_layers import ConvStack, GATv2Conv, GCNConv, Neighborhood, road_edges, zone_edges
from hoser_kd.hoser.output import StepOutput, StudentOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.hoser.batches import Batch, StepFeatures
    from hoser_kd.network.road_network import RoadNetwork

GATE_DIM = 64
TIME_DIM = 64
NUM_EDGE_ATTRIBUTES = 2


@dataclass(frozen=True)
class TimeScale:
    """Scale of predicted times: the network predicts (log1p(seconds) - mean) / std."""

    mean: float
    std: float

    def log1p_seconds(self, predicted: Tensor) -> Tensor:
        """Return log1p of the predicted seconds."""
        return predicted * self.std + self.mean

    def seconds(self, predicted: Tensor) -> Tensor:
        """Return the predicted seconds, never negative."""
        return torch.expm1(self.log1p_seconds(predicted)).clamp(min=0)


class RoadNetworkEncoder(nn.Module):
    """Encodes roads by the road graph and zones by the zone graph."""

    road_attr_len: Tensor
    road_attr_type: Tensor
    road_attr_lon: Tensor
    road_attr_lat: Tensor
    zone_edge_index: Tensor
    zone_edge_weight: Tensor

    def __init__(self, config: HoserConfig, features: GraphFeatures) -> None:
        super().__init__()
        for name in (
            "road_attr_len",
            "road_attr_type",
            "road_attr_lon",
            "road_attr_lat",
            "road_edge_index",
            "intersection_attr",
            "zone_edge_index",
            "zone_edge_weight",
        ):
            self.register_buffer(name, torch.from_numpy(np.array(getattr(features, name))))
        width = config.hidden_dim
        self.road_id_emb = nn.Embedding(config.num_roads, config.road_id_dim)
        self.on_read: Callable[[Tensor], None] | None = None
        self.len_emb = nn.Linear(1, config.length_dim)
        self.type_emb = nn.Embedding(config.num_types, config.type_dim)
        self.lon_emb = nn.Linear(1, config.lon_dim)
        self.lat_emb = nn.Linear(1, config.lat_dim)
        self.zone_id_emb = nn.Embedding(config.num_zones, width)
        self.road_gat = ConvStack(*(GATv2Conv(width, width, NUM_EDGE_ATTRIBUTES) for _ in range(2)))
        self.zone_gcn = ConvStack(*(GCNConv(width, width) for _ in range(2)))
        self.road_graph = road_edges(
            torch.from_numpy(np.array(features.road_edge_index)),
            torch.from_numpy(np.array(features.intersection_attr)),
            config.num_roads,
        )
        self.zone_graph = zone_edges(
            torch.from_numpy(np.array(features.zone_edge_index)),
            torch.from_numpy(np.array(features.zone_edge_weight)),
            config.num_zones,
        )

    def raw_roads(self, roads: Tensor) -> Tensor:
        """Return (R, h): concatenated embeddings of the road attributes, the input of the road graph.

        `on_read`, if it is set, gets the distinct road ids before their embeddings are read, and the gradient of the
        table is then sparse.
        """
        if self.on_read is not None:
            self.on_read(roads)
        return torch.cat(
            [
                embedding(roads, self.road_id_emb.weight, sparse=self.on_read is not None),
                self.len_emb(self.road_attr_len[roads, None]),
                embedding(self.road_attr_type[roads], self.type_emb.weight),
                self.lon_emb(self.road_attr_lon[roads, None]),
                self.lat_emb(self.road_attr_lat[roads, None]),
            ],
            dim=1,
        )

    def encode_roads(self, roads: Tensor | Int64Array) -> Tensor:
        """Return (R, h) vectors of distinct, ascending road ids, best on the host.

        Only their dependencies are computed: the first layer for their neighbors, inputs up to two roads away.
        """
        last = self.road_graph.into(roads)
        return self.encode(self.road_graph.into(last.host_sources), last)

    def encode(self, first: Neighborhood, last: Neighborhood) -> Tensor:
        """Return (R, h) vectors of the targets of `last`; the targets of `first` are the sources of `last`."""
        inner, outer = self.road_gat.convs
        return outer(inner(self.raw_roads(first.sources), first).relu(), last)  # type: ignore[no-any-return]

    def encode_zones(self) -> Tensor:
        """Return (Z, h) vectors of all zones."""
        inner, outer = self.zone_gcn.convs
        return outer(inner(self.zone_id_emb.weight, self.zone_graph).relu(), self.zone_graph)  # type: ignore[no-any-return]


class TemporalEncoder(nn.Module):
    """Time of day as cosines and sines of learned frequencies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.randn(width // 2))

    def forward(self, time_of_day: Tensor) -> Tensor:
        """Return (…, h) from (…) float32."""
        phase = time_of_day[..., None] * self.freqs
        scale = math.sqrt(1 / (4 * len(self.freqs)))
        return torch.cat([phase.cos(), phase.sin()], dim=-1) * scale


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: HoserConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.ln_1 = nn.LayerNorm(width)
        self.attn = PairAttention(config)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(config.dropout)
        )

    def forward(self, x: Tensor, pairs: Pairs, layout: HeadLayout) -> Tensor:
        """Return (S, e) from (S, e)."""
        return self._feed(x + self.attn(self.ln_1(x), pairs, layout))

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return (…, e) from the input of the block and the output of attention before its projection."""
        return self._feed(x + self.attn.finish(mixed))

    def _feed(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class TrajectoryEncoder(nn.Module):
    """Encodes histories: roads fused with their zones and times of day, then a causal transformer."""

    def __init__(self, config: HoserConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.road_zone_fusion_mlp = nn.Sequential(nn.Linear(2 * width, GATE_DIM), nn.GELU(), nn.Linear(GATE_DIM, 1))
        self.temporal_encoder = TemporalEncoder(width)
        self.transformer = nn.ModuleDict({"h": nn.ModuleList(Block(config) for _ in range(config.num_layers))})

    @property
    def blocks(self) -> list[Block]:
        """The transformer's blocks, first to last."""
        return [block for block in cast("nn.ModuleList", self.transformer["h"]) if isinstance(block, Block)]

    def fuse(self, road: Tensor, zone: Tensor) -> Tensor:
        """Return (…, h): road vectors plus gated zone vectors."""
        gate = self.road_zone_fusion_mlp(torch.cat([road, zone], dim=-1)).sigmoid()
        return road + gate * zone  # type: ignore[no-any-return]

    def forward(self, fused: Tensor, steps: StepFeatures) -> Tensor:
        """Return (S, e): the encoded history r_0 … r_t of each step t. `fused` (S, h)."""
        clock = self.temporal_encoder(steps.time_of_day.flatten()[steps.index.flat])
        x = torch.cat([fused, clock], dim=-1)
        num_steps = steps.step_mask.shape[1]
        layout = HeadLayout.of(steps.step_mask, steps.index.flat, self.blocks[0].attn.num_heads)
        # padding comes after all valid steps, so the causal mask covers it
        hidden = x.new_full((num_steps, num_steps), -torch.inf).triu(1)
        pairs = Pairs(steps.distance[:, None], steps.interval[:, None], hidden)
        for block in self.blocks:
            x = block(x, pairs, layout)
        return x


@dataclass(frozen=True)
class CandidateMap:
    """The part of the navigator's key that depends on the road only, and the contributions of the two metrics."""

    road_key: Tensor
    """(R, h): contribution of each road."""
    metric_key: Tensor
    """(2, h): contributions of a unit of metric_distance and of metric_angle."""


class Navigator(nn.Module):
    """Scores candidates given history and destination, and predicts their times."""

    def __init__(self, config: HoserConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.metric_distance_proj = nn.Linear(1, width)
        self.metric_angle_proj = nn.Linear(1, width)
        self.q_proj = nn.Linear(3 * width, width, bias=False)
        self.k_proj = nn.Linear(3 * width, width, bias=False)
        self.v_proj = nn.Linear(width, 1, bias=False)
        # unused: published checkpoints contain it
        self.time_estimator = nn.Sequential(nn.Linear(3 * width, TIME_DIM), nn.GELU(), nn.Linear(TIME_DIM, 1))
        self.time_estimator_linear_1 = nn.Linear(2 * width, TIME_DIM)
        self.time_estimator_linear_2 = nn.Linear(width, TIME_DIM)
        self.time_estimator_linear_3 = nn.Linear(2 * TIME_DIM, 1)

    def query(self, x: Tensor, zone_query: Tensor) -> Tensor:
        """Return (S, h) queries from (S, e) steps and the (S, h) parts of their destinations' zones."""
        return linear(x, self.q_proj.weight[:, : x.shape[-1]]) + zone_query

    def zone_query(self, zone: Tensor) -> Tensor:
        """Return (…, h): contribution of the destination's zone vector (…, h) to a query."""
        return linear(zone, self.q_proj.weight[:, -zone.shape[-1] :])

    def candidate_map(self, road: Tensor) -> CandidateMap:
        """Split the key projection of (R, h) road vectors into one part per road and two fixed vectors."""
        by_road, by_distance, by_angle = self.k_proj.weight.chunk(3, dim=1)
        constant = by_distance @ self.metric_distance_proj.bias + by_angle @ self.metric_angle_proj.bias
        metric_key = torch.stack(
            [by_distance @ self.metric_distance_proj.weight[:, 0], by_angle @ self.metric_angle_proj.weight[:, 0]]
        )
        return CandidateMap(linear(road, by_road, constant), metric_key)

    def keys(self, candidates: CandidateMap, at: Tensor, metric_distance: Tensor, metric_angle: Tensor) -> Tensor:
        """Return (K, h) keys of the candidates with indices `at` (K,) in the map."""
        metrics = torch.stack([metric_distance, metric_angle], dim=1)
        return embedding(at, candidates.road_key) + metrics @ candidates.metric_key

    def scores(self, query: Tensor, key: Tensor, step: Tensor) -> Tensor:
        """Return (K,) logits of (K, h) keys for the (S, h) queries of their steps."""
        return linear(torch.tanh(embedding(step, query) + key), self.v_proj.weight)[:, 0]

    def times(self, step_part: Tensor, road_part: Tensor) -> Tensor:
        """Return (K,) standardized times.

        `step_part` (K, TIME_DIM) is `time_estimator_linear_1` of the steps, `road_part` (K, TIME_DIM)
        `time_estimator_linear_2` of the candidates' road vectors, each computed once per step or road and gathered.
        """
        joint = torch.cat([step_part, road_part], dim=-1)
        return self.time_estimator_linear_3(gelu(joint))[..., 0]  # type: ignore[no-any-return]


class HOSER(nn.Module):
    """The student network."""

    road2zone: Tensor
    """(N,) int64: zone of each road."""

    def __init__(self, config: HoserConfig, features: GraphFeatures, tables: RoadTables) -> None:
        """`features` and `tables` must be of the same network; weights are drawn from torch's generator."""
        super().__init__()
        self.config = config
        self.register_buffer("road2zone", torch.from_numpy(np.array(features.road2zone)))
        self.road_network_encoder = RoadNetworkEncoder(config, features)
        self.trajectory_encoder = TrajectoryEncoder(config)
        self.navigator = Navigator(config)
        self.tables = tables

    @classmethod
    def build(
        cls, student: StudentConfig, network: RoadNetwork, zones: Int64Array, zone_transitions: Any, **more: Any
    ) -> HOSER:
        """Build an untrained model for a city; `zones` (N,) int64, `zone_transitions` (Z, Z) counts.

        `more` overrides fields of `HoserConfig`, such as `log1p_mean` and `log1p_std`.
        """
        features = build_graph_features(network, zones, zone_transitions)
        config = HoserConfig.from_student(student, features, zone_transitions.shape[0], **more)
        tables = RoadTables(road_tables(network, config.candidate_angle), time_intervals=config.time_intervals)
        return cls(config, features, tables)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.road2zone.device

    @property
    def time_scale(self) -> TimeScale:
        """Scale of the predicted times; raises ValueError if the model was loaded without one."""
        if self.config.log1p_mean is None or self.config.log1p_std is None:
            raise ValueError(
                "this model has no log1p_mean and log1p_std. Pass both to load_student: mean and standard deviation of "
                "log1p(seconds to the next road) over the training steps (time_label_statistics)."
            )
        return TimeScale(self.config.log1p_mean, self.config.log1p_std)

    def forward(self, batch: Batch, *, all_times: bool = False) -> StudentOutput:
        """Score the candidates of every step of a batch on the model's device (equations of section 4).

        `all_times` also predicts the times of all candidates, which training does not need.
        """
        steps = self.tables.derive(batch)
        graph = self.road_network_encoder.road_graph
        last = graph.into(steps.index.host_roads)
        rows = self.rows(steps, graph.into(last.host_sources), last, all_times=all_times)
        return StepOutput(steps.step_mask, steps.index.flat, rows)

    def rows(
        self, steps: StepFeatures, first: Neighborhood, last: Neighborhood, *, all_times: bool = False
    ) -> dict[str, Tensor]:
        """Return the fields of a `StepOutput` as rows of the steps; no shape depends on values.

        `last`: edges into `steps.index.roads`, `first`: edges into its sources.
        """
        with torch.autocast(self.device.type, enabled=False):
            # this part is bound by gathers, so half precision would lose accuracy without a gain in speed
            encoder = self.road_network_encoder
            needed = _Needed(steps.index.roads, encoder.encode(first, last), encoder.encode_zones())
        return self._predict(steps, self._histories(steps, needed), needed, all_times=all_times)

    @torch.no_grad()
    def encode_all_roads(self) -> Tensor:
        """Return (N, h) float32 vectors of all roads after the graph layers, for inference."""
        return self.road_network_encoder.encode_roads(torch.arange(self.config.num_roads, device=self.device))

    def _histories(self, steps: StepFeatures, needed: _Needed) -> Tensor:
        """Return (S, e) vectors of the valid steps."""
        zone = embedding(self.road2zone[needed.roads], needed.zone)
        fused = self.trajectory_encoder.fuse(needed.road, zone)
        return self.trajectory_encoder(embedding(steps.index.road_at, fused), steps)  # type: ignore[no-any-return]

    def _predict(self, steps: StepFeatures, x: Tensor, needed: _Needed, *, all_times: bool) -> dict[str, Tensor]:
        navigator = self.navigator
        at = steps.index.candidate_at
        zone_query = navigator.zone_query(embedding(self.road2zone[steps.destination], needed.zone))
        query = navigator.query(x, embedding(steps.index.trip, zone_query))
        key = navigator.keys(navigator.candidate_map(needed.road), at, steps.metric_distance, steps.metric_angle)
        logits = steps.rows(navigator.scores(query, key, steps.candidate_step).float(), -torch.inf)
        step_part = navigator.time_estimator_linear_1(x)
        road_part = navigator.time_estimator_linear_2(needed.road)
        time_pred = navigator.times(step_part, embedding(at[steps.label_candidate], road_part))
        rows = {
            "logits": logits,
            "candidates": steps.rows(steps.candidate, PADDING),
            "label": steps.label,
            "time_pred": time_pred.float(),
            "seconds": steps.seconds,
        }
        if all_times:
            times = navigator.times(embedding(steps.candidate_step, step_part), embedding(at, road_part))
            rows["all_times"] = steps.rows(times.float(), 0.0)
        return rows


@dataclass(frozen=True)
class _Needed:
    """Encoded roads and zones that a batch needs."""

    roads: Tensor
    """(R,) int64: distinct road ids, ascending."""
    road: Tensor
    """(R, h): vectors of these roads."""
    zone: Tensor
    """(Z, h): vectors of all zones."""
