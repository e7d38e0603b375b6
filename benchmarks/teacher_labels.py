"""Measure how fast the teacher labels: whole trips at once against one call per step, one thread, in the same run.

    python benchmarks/teacher_labels.py                       # a small teacher, seconds
    python benchmarks/teacher_labels.py --preset published    # 8 layers of 768, V = 8220, random weights

The city is a street grid with random walks, so nothing is read from disk. The baseline calls
`predict_next_distribution` for each step with the last 64 tokens, as published distillation scripts do; it is timed
on `--plain-steps` steps, labeling on all trips. The share of the machine's speed compares the FLOP/s of the model's
matrix products and attention with those of one large float32 matrix product on the same thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.teacher.history_encoding import Window
from hoser_kd.teacher.soft_labels import label
from hoser_kd.teacher.training import PRESETS


def city(side: int, num_trips: int, num_roads: int, seed: int) -> tuple[RoadNetwork, Trajectories]:
    """Return the one-way links of a torus of `side` × `side` crossings (three successors each), and random walks."""
    crossing, way = np.divmod(np.arange(side * side * 4), 4)
    row, column = np.divmod(crossing, side)
    end = ((row + np.array([0, 1, 0, -1])[way]) % side) * side + (column + np.array([1, 0, -1, 0])[way]) % side
    following = end[:, None] * 4 + (way[:, None] + np.array([3, 0, 1])) % 4
    lat, lon = 41.0 + np.stack([row, end // side], 1) * 1e-3, -8.0 + np.stack([column, end % side], 1) * 1e-3
    network = RoadNetwork(
        np.arange(len(end) + 1) * 2,
        np.stack([lon, lat], 2).reshape(-1, 2),
        np.full(len(end), 100.0),
        np.full(len(end), "residential", object),
        Csr(offsets_of(np.full(len(end), 3)), following.reshape(-1)),
    )
    rng = np.random.default_rng(seed)
    lengths = rng.integers(num_roads // 2, num_roads * 3 // 2, num_trips)
    walks = [rng.integers(len(end), size=num_trips)]
    for turns in rng.integers(0, 3, (int(lengths.max()) - 1, num_trips)):
        walks.append(following[walks[-1], turns])
    roads = np.concatenate([walk[:length] for walk, length in zip(np.stack(walks, 1), lengths, strict=True)])
    return network, Trajectories(offsets_of(lengths), roads, np.zeros(len(roads), np.int64))


def flops(config: LMTADConfig, lengths: np.ndarray) -> float:
    """Return the floating-point operations of one pass over sequences of these lengths, without the output layer."""
    weights = config.n_layer * 12 * config.n_embd**2
    return float((2 * weights * lengths + config.n_layer * 2 * config.n_embd * lengths**2).sum())


def machine_flops(seconds: float = 1.0) -> float:
    """Return the FLOP/s of a float32 product of 1536 × 1536 matrices."""
    a, b = torch.rand(1536, 1536), torch.rand(1536, 1536)
    torch.mm(a, b)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.mm(a, b)
        count += 1
    return 2 * 1536**3 * count / (time.perf_counter() - started)


def one_call_per_step(model: LMTAD, tokens: np.ndarray, trips: Trajectories, num_steps: int, window: int) -> float:
    """Return steps/s with one call per step, over steps sampled from all trips."""
    at, row = trips.step_positions()
    drawn = np.random.default_rng(1).choice(len(at), min(num_steps, len(at)), replace=False)
    histories = [
        np.concatenate([[model.config.sot_token], tokens[trips.road_ids[trips.offsets[row[i]] : at[i] + 1]]])
        for i in drawn
    ]
    model.predict_next_distribution(histories[0], window)
    started = time.perf_counter()
    for history in histories:
        model.predict_next_distribution(history, window)
    return len(histories) / (time.perf_counter() - started)


def timed(
    model: LMTAD,
    tokens: np.ndarray,
    trips: Trajectories,
    network: RoadNetwork,
    window: Window,
    batch_tokens: int | None,
) -> float:
    """Return the seconds that `label` takes, including digests and batching."""
    started = time.perf_counter()
    label(model, tokens, trips, network, window, batch_tokens=batch_tokens)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="size of the teacher")
    parser.add_argument("--vocabulary", type=int, default=8220, help="tokens, special ones included")
    parser.add_argument("--trips", type=int, default=48, help="trips to label")
    parser.add_argument("--roads", type=int, default=60, help="mean roads per trip")
    parser.add_argument("--window", type=int, default=64, help="tokens of history of the baseline")
    parser.add_argument("--plain-steps", type=int, default=100, help="steps on which the baseline is timed")
    parser.add_argument("--windowed-trips", type=int, default=8, help="trips labeled with the same window; 0 for none")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of all measurements")
    parser.add_argument("--batch-tokens", type=int, default=None, help="tokens per labeling batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers, heads, width = PRESETS[options.preset]
    network, trips = city(40, options.trips, options.roads, seed=0)
    torch.manual_seed(0)
    model = LMTAD(LMTADConfig(1186, options.vocabulary, layers, heads, width)).eval()
    tokens = np.arange(network.num_roads) // 4 % model.config.num_labels
    label(model, tokens, trips.take(np.arange(2)), network)

    # Other processes may slow any measurement, so they alternate and the best of each counts.
    peak = plain = seconds = windowed = 0.0
    some = trips.take(np.arange(min(options.windowed_trips, len(trips))))
    for _ in range(options.rounds):
        peak = max(peak, machine_flops())
        plain = max(plain, one_call_per_step(model, tokens, trips, options.plain_steps, options.window))
        taken = timed(model, tokens, trips, network, "full", options.batch_tokens)
        seconds = min(seconds or taken, taken)
        if len(some):
            taken = timed(model, tokens, some, network, options.window, options.batch_tokens)
            windowed = max(windowed, some.num_steps / taken)
    results = {
        "teacher": f"{options.preset}: {layers} layers of {width}, {model.num_parameters() / 1e6:.1f} M weights",
        "labeled steps": trips.num_steps,
        "one call per step, steps/s": plain,
        "full window, steps/s": trips.num_steps / seconds,
        "full window, times faster": trips.num_steps / seconds / plain,
        "machine, GFLOP/s": peak / 1e9,
        "full window, GFLOP/s": flops(model.config, trips.lengths) / seconds / 1e9,
        "full window, share of the machine": flops(model.config, trips.lengths) / seconds / peak,
    }
    if len(some):
        name = f"window {options.window}"
        results |= {f"{name}, steps/s": windowed, f"{name}, times faster": windowed / plain}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
