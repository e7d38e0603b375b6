"""HOSER one road at a time, for searches that grow many paths together.

Road vectors, candidate keys and time parts are made once for all N roads. A path's keys and values are kept, so a
new road costs one token. What comes out equals the full forward pass (see `HOSER.forward`).

Letters: n new tokens (paths that grow by one road), P roads of the longest prefix, C candidates of the token that
has most, l layers, e width of the trajectory encoder, N roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding

from hoser_kd.hoser.batches import clipped_distances, clipped_intervals, time_of_day
from hoser_kd.hoser.model import Pairs

if TYPE_CHECKING:
    from hoser_kd.hoser.model import HOSER, CandidateMap


@dataclass(frozen=True)
class Prefix:
    """The roads before each new token, and what attention kept of them; padded anywhere, `mask` tells."""

    road_ids: Tensor
    """(n, P) int64; any road in padding."""
    times: Tensor
    """(n, P) int64: seconds since the epoch."""
    mask: Tensor
    """(n, P) bool: True where there is a road."""
    keys: Tensor
    """(l, n, P, e) float32, as `Decoded.keys` gave them; finite in padding."""
    values: Tensor
    """(l, n, P, e) float32."""


@dataclass(frozen=True)
class Decoded:
    """What HOSER says after each new road."""

    candidates: Tensor
    """(n, C) int64: road ids in the order of the network's successors; -1 where there is none."""
    logits: Tensor
    """(n, C) float32: scores; -inf where there is no candidate. A dead end has a row of -inf."""
    times: Tensor
    """(n, C) float32: standardised time until the candidate is entered (see `HOSER.time_scale`)."""
    keys: Tensor
    """(l, n, e) float32: to be handed back in `Prefix.keys`."""
    values: Tensor
    """(l, n, e) float32: to be handed back in `Prefix.values`."""


class Decoder:
    """A HOSER made ready for generation; weights are read when it is built, and must not change after."""

    @torch.no_grad()
    def __init__(self, model: HOSER) -> None:
        """Encode all roads and zones of the model, on the model's device."""
        self.model = model
        self.tables = model.tables
        road = model.encode_all_roads()
        zone = model.road_network_encoder.encode_zones()
        self.fused = model.trajectory_encoder.fuse(road, embedding(model.road2zone, zone))
        """(N, h): what enters the transformer for a road."""
        self.zone_query = model.navigator.zone_query(zone)
        """(Z, h): what a destination's zone adds to a query."""
        self.candidate_map: CandidateMap = model.navigator.candidate_map(road)
        self.time_part = model.navigator.time_estimator_linear_2(road)
        """(N, 64): what a candidate adds to its predicted time."""

    @property
    def num_layers(self) -> int:
        """Attention blocks, l."""
        return self.model.config.num_layers

    @property
    def token_width(self) -> int:
        """Width e of a token's key and of its value in a layer."""
        return self.model.config.encoder_dim

    @torch.no_grad()
    def step(self, road_ids: Tensor, times: Tensor, start_times: Tensor, destinations: Tensor,
             prefix: Prefix | None = None) -> Decoded:
        """Extend n paths by one road each.

        `road_ids`, `times`, `start_times`, `destinations`: (n,) int64: the road entered, when, when the path
        started (its weekday decides the sign of the time of day), and where it goes. `prefix` None: paths of
        one road.
        """
        x, keys, values = self._attend(road_ids, times, start_times, prefix)
        navigator = self.model.navigator
        candidate, token, place, metric_distance, metric_angle = self.tables.metrics(road_ids, destinations)
        query = navigator.query(x, embedding(self.model.road2zone[destinations], self.zone_query))
        key = navigator.keys(self.candidate_map, candidate, metric_distance, metric_angle)
        step_part = navigator.time_estimator_linear_1(x)
        times_pred = navigator.times(embedding(token, step_part), embedding(candidate, self.time_part))
        shape = (len(road_ids), int(place.max()) + 1 if len(place) else 0)
        return Decoded(
            candidates=candidate.new_full(shape, -1).index_put((token, place), candidate),
            logits=x.new_full(shape, -torch.inf).index_put((token, place), navigator.scores(query, key, token)),
            times=x.new_zeros(shape).index_put((token, place), times_pred),
            keys=keys,
            values=values,
        )

    def _attend(self, road_ids: Tensor, times: Tensor, start_times: Tensor,
                prefix: Prefix | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n, e) histories and the new tokens' keys and values, both (l, n, e)."""
        encoder = self.model.trajectory_encoder
        clock = encoder.temporal_encoder(time_of_day(times[:, None], start_times))
        x = torch.cat([embedding(road_ids, self.fused), clock[:, 0]], dim=-1)
        pairs = self._pairs(road_ids, times, prefix)
        kept_keys, kept_values = [], []
        for layer, block in enumerate(encoder.blocks):
            query, key, value = block.attn.split(block.attn.project(block.ln_1(x))[:, None])
            kept_keys.append(key.transpose(1, 2).flatten(1))
            kept_values.append(value.transpose(1, 2).flatten(1))
            if prefix is not None:
                key = torch.cat([self._heads(prefix.keys[layer]), key], dim=2)
                value = torch.cat([self._heads(prefix.values[layer]), value], dim=2)
            x = block.finish(x, block.attn.mix(query, key, value, pairs)[:, 0])
        return x, torch.stack(kept_keys), torch.stack(kept_values)

    def _heads(self, flat: Tensor) -> Tensor:
        """(n, P, e) as (n, heads, P, head_dim)."""
        config = self.model.config
        return flat.view(*flat.shape[:2], config.num_heads, config.head_dim).transpose(1, 2)

    def _pairs(self, road_ids: Tensor, times: Tensor, prefix: Prefix | None) -> Pairs:
        """Return the (n, 1, 1, P + 1) pairs of each new token with its prefix and, last, itself."""
        own = self.fused.new_zeros(len(road_ids), 1)
        if prefix is None:
            return Pairs(*(part[:, None, None] for part in (own, own, own)))
        distance = clipped_distances(self.tables.unit_vector[prefix.road_ids],
                                     self.tables.unit_vector[road_ids, None])
        interval = clipped_intervals(prefix.times, times[:, None], self.tables.time_intervals)
        hidden = own.new_zeros(prefix.mask.shape).masked_fill(~prefix.mask, -torch.inf)
        return Pairs(*(torch.cat([part, own], dim=1)[:, None, None] for part in (distance, interval, hidden)))
