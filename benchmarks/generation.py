"""Measure generated trips/s: the batched search against one trip at a time, same weights and requests, one thread.

    python benchmarks/generation.py                            # the synthetic city of the demo
    python benchmarks/generation.py --folder data/porto        # a city in HOSER's format
    python benchmarks/generation.py --student FOLDER           # trained weights (default: random ones)
    python benchmarks/generation.py --memory                   # peak memory from 1,000 to 100,000 requests

The plain search works as the published code does: it encodes roads and zones once; for every expanded node it
computes the features of the whole path in Python and runs the whole model on them (tests/oracle_hoser.py). Both are
measured in CPU seconds; the run stops if any generated trip differs.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from hoser_kd import hoser
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate, generate_to
from hoser_kd.generation.output_files import read_chunks, write_lines, write_published_csv
from hoser_kd.hoser import HOSER, build_graph_features, time_label_statistics
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.network.zones import partition, transitions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import oracle_hoser
    from oracle_hoser import haversine_m, heading


WALKED_ROADS = 6
"""Number of roads from origin to destination with --memory."""


class PlainSearch:
    """The published search, which expands one node at a time."""

    def __init__(self, network, model: HOSER, features) -> None:
        self.network, self.scale = network, model.time_scale
        self.candidate_angle = model.config.candidate_angle
        self.plain = oracle_hoser.PlainHoser(model.config, features).eval()
        self.plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            self.road, self.zone = self.plain.road_network_encoder()

    def expand(self, roads: list[int], times: list[int], destination: int):
        """Return the candidates after the last road, their costs -log p and their travel times in seconds."""
        network, center = self.network, self.network.centroids
        lat, lon = center[roads].T
        distance = haversine_m(lat[:, None], lon[:, None], lat[None], lon[None])
        weekend = (times[0] // 86_400 + 3) % 7 >= 5
        share = np.array([(t % 86_400) / 86_400 for t in times], np.float32)
        interval = np.abs(share[:, None] * np.float32(1440) - share[None] * np.float32(1440))
        candidates = network.successors.row(roads[-1]).tolist()
        away = [float(haversine_m(*center[c], *center[destination])) for c in candidates]
        end = network.end[:, ::-1] if self.candidate_angle == "published" else network.end
        to_goal = heading(*end[roads[-1]], *end[destination])
        turns = [abs(heading(*end[roads[-1]], *end[c]) - to_goal) for c in candidates]
        batch = {
            "temporal": torch.from_numpy(-share if weekend else share)[None],
            "distance": torch.tensor(np.clip(distance, 0, 1000) / 1000, dtype=torch.float32)[None],
            "interval": torch.tensor(np.clip(interval, 0, 5) / 5)[None],
            "mask": torch.ones(1, len(roads), dtype=torch.bool),
            "metric_dis": torch.tensor([math.log1p((d - min(away)) / 100) for d in away])[None, None],
            "metric_angle": torch.tensor([min(t, 2 * math.pi - t) / math.pi for t in turns])[None, None],
        }
        with torch.no_grad():
            at, zones = torch.tensor([roads]), self.plain.road2zone
            x = self.plain.trajectory_encoder(self.road[at], self.zone[zones[at]], batch)[:, -1:]
            goal = self.zone[zones[destination]][None]
            logits, predicted = self.plain.navigator(x, goal, self.road[torch.tensor(candidates)][None, None], batch)
        costs = (-logits[0, 0].log_softmax(0)).tolist()
        return candidates, costs, self.scale.seconds(predicted[0, 0]).round().long().tolist()

    def trip(self, origin: int, start: int, destination: int, max_steps: int):
        frontier, order, best, done = [(0.0, 0, [origin], [start])], 1, {origin: 0.0}, set()
        center, nearest = self.network.centroids, (math.inf, [])
        while frontier and len(done) < max_steps:
            cost, _, roads, times = heapq.heappop(frontier)
            if roads[-1] == destination:
                return roads, len(done)
            if roads[-1] in done:
                continue
            done.add(roads[-1])
            away = float(haversine_m(*center[roads[-1]], *center[destination]))
            if away < nearest[0]:
                nearest = (away, roads)
            if not len(self.network.successors.row(roads[-1])):
                continue
            for road, step, wait in zip(*self.expand(roads, times, destination), strict=True):
                if cost + step < best.get(road, math.inf):
                    best[road] = cost + step
                    heapq.heappush(frontier, (cost + step, order, [*roads, road], [*times, times[-1] + wait]))
                    order += 1
        return nearest[1], len(done)


def model_of(folder: Path, student: Path | None, config: StudentConfig):
    """Return the network, the test trips, the model and its features."""
    network = read_hoser(folder)
    train, test = (read_trips(folder / f"{split}.csv", network) for split in ("train", "test"))
    zones = partition(network, ZonesConfig())
    counts = transitions(zones, train, int(zones.max()) + 1)
    if student is not None:
        return network, test, hoser.load(student).eval(), build_graph_features(network, zones, counts)
    torch.manual_seed(0)
    mean, std = time_label_statistics(train)
    model = HOSER.build(config, network, zones, counts, log1p_mean=mean, log1p_std=std).eval()
    return network, test, model, build_graph_features(network, zones, counts)


def measure(folder: Path, options) -> dict[str, float]:
    network, test, model, features = model_of(folder, options.student, StudentConfig())
    rows = np.random.default_rng(0).permutation(len(test))[: options.trips]
    requests = test.origins[rows], test.start_times[rows], test.destinations[rows]
    generate(model, *(part[:1] for part in requests), 3)  # warm-up: compilation
    started = time.process_time()
    trips = generate(model, *requests, options.max_steps)
    ours_s = time.process_time() - started
    few = range(min(options.plain_trips, len(rows)))
    search = PlainSearch(network, model, features)
    started = time.process_time()
    plain = [search.trip(*(int(part[i]) for part in requests), options.max_steps) for i in few]
    plain_s = time.process_time() - started
    same = sum(trips.roads(i).tolist() == plain[i][0] and trips.expansions[i] == plain[i][1] for i in few)
    if same < len(few):
        raise SystemExit(f"{len(few) - same} of {len(few)} trips differ")
    rate, plain_rate = trips.expansions.sum() / ours_s, sum(count for _, count in plain) / plain_s
    return {
        "roads": network.num_roads,
        "trips": len(rows),
        "reached": float(trips.reached.mean()),
        "expansions_per_trip": float(trips.expansions.mean()),
        "trips_per_s": len(rows) / ours_s,
        "expansions_per_s": rate,
        "plain_trips": len(few),
        "plain_expansions_per_s": plain_rate,
        "plain_trips_per_s": plain_rate / float(trips.expansions.mean()),
        "speedup": rate / plain_rate,
        "peak_memory_mib": peak_mib(),
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def many(count: int, max_steps: int) -> dict[str, float]:
    """Generate `count` trips in a small city, write their files as the stage does, and return time and peak memory.

    Destinations are a random walk of a few roads away, and searches end after `max_steps` expansions, because memory
    is measured against the number of requests and not against the length of a search.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_city(folder, SyntheticConfig(blocks=(6, 6), num_trips=60))
        config = StudentConfig(hidden_dim=32, road_id_dim=16, attribute_dim=4)
        network, _, model, _ = model_of(folder, None, config)
        rng = np.random.default_rng(0)
        origins = rng.integers(0, network.num_roads, count)
        destinations = origins
        first, degrees = network.successors.indptr, network.successors.degrees
        for _ in range(WALKED_ROADS):
            draw = rng.integers(0, np.maximum(degrees[destinations], 1))
            onwards = network.successors.indices[np.minimum(first[destinations] + draw, first[-1] - 1)]
            destinations = np.where(degrees[destinations] > 0, onwards, destinations)
        requests = origins, np.full(count, 1_372_636_800) + rng.integers(0, 86_400, count), destinations
        # warm-up: compilation and memory that does not grow
        generate_to(
            folder / "few.parquet",
            folder / "parts",
            model,
            *(part[:256] for part in requests),
            Decoding(max_steps=max_steps),
        )
        write_lines(read_chunks(folder / "few.parquet"), network, folder / "few_lines.parquet")
        before, started = peak_mib(), time.process_time()
        generate_to(folder / "trips.parquet", folder / "parts", model, *requests, Decoding(max_steps=max_steps))
        cpu_s, generated = time.process_time() - started, peak_mib()
        write_published_csv(read_chunks(folder / "trips.parquet"), folder / "trips.csv")
        write_lines(read_chunks(folder / "trips.parquet"), network, folder / "lines.parquet")
        totals = [(int(chunk.reached.sum()), len(chunk.road_ids)) for chunk in read_chunks(folder / "trips.parquet")]
        reached, roads = (sum(column) for column in zip(*totals, strict=True))
        return {
            "requests": count,
            "max_steps": max_steps,
            "reached": reached / count,
            "roads_per_trip": roads / count,
            "cpu_s": cpu_s,
            "trips_per_cpu_s": count / cpu_s,
            "peak_mib_before": before,
            "peak_mib_generated": generated,
            "peak_mib_with_files": peak_mib(),
            "files_mib": sum((folder / name).stat().st_size for name in ("trips.parquet", "trips.csv", "lines.parquet"))
            / 2**20,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a city in HOSER's format instead of the synthetic one")
    parser.add_argument("--student", type=Path, help="folder of a trained student of that city")
    parser.add_argument("--trips", type=int, default=256, help="requests for the batched search")
    parser.add_argument("--plain-trips", type=int, default=8, help="requests that the plain search also answers")
    parser.add_argument("--max-steps", type=int, default=1000, help="expansions after which a search ends")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--memory-steps", type=int, default=20, help="expansions per trip with --memory")
    parser.add_argument("--requests", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.requests:
        results = many(options.requests, options.memory_steps)
    elif options.memory:
        # one process per size, because peak memory never decreases
        results = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--requests", str(count), "--memory-steps", str(options.memory_steps)],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
            )
            for count in (1_000, 10_000, 100_000)
        ]
    elif options.folder:
        results = measure(options.folder, options)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            make_city(scratch, SyntheticConfig())
            results = measure(Path(scratch), options)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
