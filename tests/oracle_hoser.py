"""A literal transcription of HOSER: the oracle of tests and the reference of benchmarks/student_step.py.

Features are computed one trip at a time in Python, arrays of pairs are allocated in full, all roads are encoded at each
step, times are predicted for all candidates, and PyTorch Geometric computes the graph layers. Keys of the state dict
are the published ones. It is slow, and simple enough to be compared with the paper line by line.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN

RADIUS_M = 6_371_008.8
FEATURES = (
    "road_attr_len",
    "road_attr_type",
    "road_attr_lon",
    "road_attr_lat",
    "road_edge_index",
    "intersection_attr",
    "zone_edge_index",
    "zone_edge_weight",
)


def haversine_m(lat_1, lon_1, lat_2, lon_2):
    lat_1, lon_1, lat_2, lon_2 = map(np.radians, (lat_1, lon_1, lat_2, lon_2))
    root = np.sin((lat_2 - lat_1) / 2) ** 2 + np.cos(lat_1) * np.cos(lat_2) * np.sin((lon_2 - lon_1) / 2) ** 2
    return 2 * RADIUS_M * np.arcsin(np.sqrt(np.minimum(root, 1)))


def heading(y_1, x_1, y_2, x_2):
    y_1, x_1, y_2, x_2 = map(math.radians, (y_1, x_1, y_2, x_2))
    return math.atan2(y_2 - y_1, math.cos(y_1) * (x_2 - x_1)) % (2 * math.pi)


def trip_features(network, roads, times, candidate_angle="published", time_intervals="published"):
    """Features of one trip as a dict of lists and arrays, step after step."""
    center, end = network.centroids, network.end
    order = (1, 0) if candidate_angle == "published" else (0, 1)
    history, destination = roads[:-1], roads[-1]
    lat, lon = center[history].T
    distance = haversine_m(lat[:, None], lon[:, None], lat[None], lon[None])
    weekend = (times[0] // 86_400 + 3) % 7 >= 5
    share = np.array([np.float32((t % 86_400) / 86_400) for t in times[:-1]], np.float32)
    minute = share * np.float32(1440) if time_intervals == "published" else (times[:-1] - times[0]) / 60
    interval = np.abs(minute[:, None] - minute[None])
    steps = []
    for t, road in enumerate(history):
        candidates = network.successors.row(road)
        away = [haversine_m(*center[c], *center[destination]) for c in candidates]
        to_goal = heading(*end[road][list(order)], *end[destination][list(order)])
        turns = []
        for c in candidates:
            turn = abs(heading(*end[road][list(order)], *end[c][list(order)]) - to_goal)
            turns.append(min(turn, 2 * math.pi - turn) / math.pi)
        steps.append(
            {
                "candidates": candidates,
                "metric_dis": [math.log1p((d - min(away)) / 100) for d in away],
                "metric_angle": turns,
                "label": list(candidates).index(roads[t + 1]),
                "seconds": times[t + 1] - times[t],
            }
        )
    return {
        "history": history,
        "destination": destination,
        "steps": steps,
        "temporal": -share if weekend else share,
        "distance": np.clip(distance, 0, 1000) / 1000,
        "interval": np.clip(interval, 0, 5) / 5,
    }


def collate_plain(trips):
    """Pad the features of trips with zeros, as tensors."""
    size, steps = len(trips), max(len(trip["history"]) for trip in trips)
    most = max(len(step["candidates"]) for trip in trips for step in trip["steps"])
    batch = {
        "roads": torch.zeros(size, steps, dtype=torch.long),
        "temporal": torch.zeros(size, steps),
        "distance": torch.zeros(size, steps, steps),
        "interval": torch.zeros(size, steps, steps),
        "destination": torch.tensor([int(trip["destination"]) for trip in trips]),
        "mask": torch.zeros(size, steps, dtype=torch.bool),
        "candidates": torch.zeros(size, steps, most, dtype=torch.long),
        "candidate_mask": torch.zeros(size, steps, most, dtype=torch.bool),
        "metric_dis": torch.zeros(size, steps, most),
        "metric_angle": torch.zeros(size, steps, most),
        "label": torch.zeros(size, steps, dtype=torch.long),
        "seconds": torch.zeros(size, steps),
    }
    for b, trip in enumerate(trips):
        n = len(trip["history"])
        batch["roads"][b, :n] = torch.as_tensor(np.array(trip["history"]))
        batch["temporal"][b, :n] = torch.as_tensor(trip["temporal"])
        batch["distance"][b, :n, :n] = torch.as_tensor(trip["distance"])
        batch["interval"][b, :n, :n] = torch.as_tensor(trip["interval"])
        batch["mask"][b, :n] = True
        for t, step in enumerate(trip["steps"]):
            k = len(step["candidates"])
            batch["candidates"][b, t, :k] = torch.as_tensor(np.array(step["candidates"]))
            batch["candidate_mask"][b, t, :k] = True
            batch["metric_dis"][b, t, :k] = torch.tensor(step["metric_dis"])
            batch["metric_angle"][b, t, :k] = torch.tensor(step["metric_angle"])
            batch["label"][b, t] = step["label"]
            batch["seconds"][b, t] = float(step["seconds"])
    return batch


class _RoadNetworkEncoder(nn.Module):
    def __init__(self, config, features):
        super().__init__()
        for name in FEATURES:
            self.register_buffer(name, torch.from_numpy(np.array(getattr(features, name))))
        h = config.hidden_dim
        self.road_id_emb = nn.Embedding(config.num_roads, config.road_id_dim)
        self.len_emb = nn.Linear(1, config.length_dim)
        self.type_emb = nn.Embedding(config.num_types, config.type_dim)
        self.lon_emb = nn.Linear(1, config.lon_dim)
        self.lat_emb = nn.Linear(1, config.lat_dim)
        self.zone_id_emb = nn.Embedding(config.num_zones, h)
        self.road_gat = GAT(in_channels=h, hidden_channels=h, num_layers=2, out_channels=h, v2=True, edge_dim=2)
        self.zone_gcn = GCN(in_channels=h, hidden_channels=h, num_layers=2, out_channels=h)

    def forward(self):
        raw = torch.cat(
            [
                self.road_id_emb.weight,
                self.len_emb(self.road_attr_len[:, None]),
                self.type_emb(self.road_attr_type),
                self.lon_emb(self.road_attr_lon[:, None]),
                self.lat_emb(self.road_attr_lat[:, None]),
            ],
            dim=1,
        )
        road = self.road_gat(raw, self.road_edge_index, edge_attr=self.intersection_attr)
        zone = self.zone_gcn(self.zone_id_emb.weight, self.zone_edge_index, edge_weight=self.zone_edge_weight)
        return road, zone


class _Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        e, d = config.encoder_dim, config.head_dim
        self.heads, self.d = config.num_heads, d
        self.register_buffer("bias", torch.ones(1, 1, config.max_len, config.max_len).tril())
        self.relative_position_emb_k = nn.Linear(2, d)
        self.relative_position_emb_v = nn.Linear(2, d)
        self.c_attn = nn.Linear(e, 3 * e)
        self.c_proj = nn.Linear(e, e)

    def forward(self, x, pair, mask):
        size, steps, e = x.shape
        q, k, v = (part.view(size, steps, self.heads, self.d).transpose(1, 2) for part in self.c_attn(x).split(e, 2))
        pair_k, pair_v = self.relative_position_emb_k(pair), self.relative_position_emb_v(pair)
        score = (q @ k.transpose(2, 3) + torch.einsum("bhid,bijd->bhij", q, pair_k)) / math.sqrt(self.d)
        seen = torch.ones(steps, steps, dtype=torch.bool).tril() & mask[:, None, None, :]
        share = score.masked_fill(~seen, -torch.inf).softmax(-1)
        out = share @ v + torch.einsum("bhij,bijd->bhid", share, pair_v)
        return self.c_proj(out.transpose(1, 2).reshape(size, steps, e))


class _Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        e = config.encoder_dim
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(e), _Attention(config), nn.LayerNorm(e)
        self.mlp = nn.Sequential(nn.Linear(e, 4 * e), nn.GELU(), nn.Linear(4 * e, e))

    def forward(self, x, pair, mask):
        x = x + self.attn(self.ln_1(x), pair, mask)
        return x + self.mlp(self.ln_2(x))


class _Temporal(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.freqs = nn.Parameter(torch.randn(h // 2))

    def forward(self, t):
        phase = t[..., None] * self.freqs
        return math.sqrt(1 / (2 * 2 * len(self.freqs))) * torch.cat([phase.cos(), phase.sin()], -1)


class _TrajectoryEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        h = config.hidden_dim
        self.road_zone_fusion_mlp = nn.Sequential(nn.Linear(2 * h, 64), nn.GELU(), nn.Linear(64, 1))
        self.temporal_encoder = _Temporal(h)
        self.transformer = nn.ModuleDict({"h": nn.ModuleList(_Block(config) for _ in range(config.num_layers))})

    def forward(self, road, zone, batch):
        gate = torch.sigmoid(self.road_zone_fusion_mlp(torch.cat([road, zone], -1)))
        x = torch.cat([road + gate * zone, self.temporal_encoder(batch["temporal"])], -1)
        pair = torch.stack([batch["distance"], batch["interval"]], -1)
        for block in self.transformer["h"]:
            x = block(x, pair, batch["mask"])
        return x


class _Navigator(nn.Module):
    def __init__(self, config):
        super().__init__()
        h = config.hidden_dim
        self.metric_distance_proj, self.metric_angle_proj = nn.Linear(1, h), nn.Linear(1, h)
        self.q_proj, self.k_proj = nn.Linear(3 * h, h, bias=False), nn.Linear(3 * h, h, bias=False)
        self.v_proj = nn.Linear(h, 1, bias=False)
        self.time_estimator = nn.Sequential(nn.Linear(3 * h, 64), nn.GELU(), nn.Linear(64, 1))
        self.time_estimator_linear_1, self.time_estimator_linear_2 = nn.Linear(2 * h, 64), nn.Linear(h, 64)
        self.time_estimator_linear_3 = nn.Linear(128, 1)

    def forward(self, x, goal, candidate, batch):
        query = self.q_proj(torch.cat([x, goal[:, None].expand(-1, x.shape[1], -1)], -1))
        key = self.k_proj(
            torch.cat(
                [
                    candidate,
                    self.metric_distance_proj(batch["metric_dis"][..., None]),
                    self.metric_angle_proj(batch["metric_angle"][..., None]),
                ],
                -1,
            )
        )
        logits = self.v_proj(torch.tanh(query[:, :, None] + key))[..., 0]
        history = self.time_estimator_linear_1(x)[:, :, None].expand(-1, -1, candidate.shape[2], -1)
        joint = torch.cat([history, self.time_estimator_linear_2(candidate)], -1)
        return logits, self.time_estimator_linear_3(nn.functional.gelu(joint))[..., 0]


class PlainHoser(nn.Module):
    """HOSER with nothing refactored; loads the state dict of `hoser_kd.hoser.HOSER` and of published checkpoints."""

    def __init__(self, config, features):
        super().__init__()
        self.register_buffer("road2zone", torch.from_numpy(np.array(features.road2zone)))
        self.road_network_encoder = _RoadNetworkEncoder(config, features)
        self.trajectory_encoder = _TrajectoryEncoder(config)
        self.navigator = _Navigator(config)

    def forward(self, batch):
        """Logits and standardized times of all candidates, (B, T, C)."""
        road, zone = self.road_network_encoder()
        x = self.trajectory_encoder(road[batch["roads"]], zone[self.road2zone[batch["roads"]]], batch)
        goal = zone[self.road2zone[batch["destination"]]]
        logits, times = self.navigator(x, goal, road[batch["candidates"]], batch)
        return logits.masked_fill(~batch["candidate_mask"], -torch.inf), times


def plain_losses(batch, logits, times, mean, std):
    """The two published losses."""
    mask, label = batch["mask"], batch["label"][batch["mask"]]
    next_step = nn.functional.cross_entropy(logits[mask], label)
    predicted = times[mask].gather(1, label[:, None])[:, 0] * std + mean
    target = torch.log1p(batch["seconds"][mask])
    return next_step, ((predicted - target).abs() / target.clamp(min=1)).mean()
