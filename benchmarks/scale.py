"""Measure how time and memory of a student's training grow with the city; `scale_stages.py` measures all stages.

    python benchmarks/scale.py                                   # 10,000 and 100,000 roads, 1-2 minutes
    python benchmarks/scale.py --roads 1200000 --trips 1000000   # one size, 10 GiB
    python benchmarks/scale.py --plot scale.png                  # with a plot

The city is a synthetic street grid with random trips that never turn back, memory-mapped from a file as in the
pipeline. Each size runs in a separate process, on one thread: zones, zone transitions, the model with its road and
graph features, then `--steps` training steps with the published sizes. The result is a line of JSON per size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {10_000: 10_000, 100_000: 100_000}
PHASES = ("zones", "transitions", "model", "training")
BATCH = 64
MIN_LENGTH, MAX_LENGTH = 10, 40


def street_grid(num_roads: int):
    """Return a square grid of two-way streets with jittered corners; about `num_roads` directed roads."""
    from hoser_kd.common.arrays import Csr, offsets_of, ranges
    from hoser_kd.network.road_network import RoadNetwork

    blocks = round((num_roads / 4) ** 0.5 + 0.5)
    corner = np.arange(blocks * blocks).reshape(blocks, blocks)
    ends = np.concatenate(
        [
            np.stack([corner[:, :-1], corner[:, 1:]], -1).reshape(-1, 2),
            np.stack([corner[:-1], corner[1:]], -1).reshape(-1, 2),
        ]
    )
    ends = np.concatenate([ends, ends[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    first = offsets_of(np.bincount(ends[:, 0], minlength=blocks * blocks))
    degree = np.diff(first)[ends[:, 1]]
    origin = np.repeat(np.arange(len(ends)), degree)
    following = ranges(first[ends[:, 1]], degree)
    onward = ends[following, 1] != ends[origin, 0]
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(blocks * blocks), blocks)
    lat, lon = (39.5 + row * 0.001, 116.0 + column * 0.0013)
    lat, lon = (line + rng.uniform(-2e-4, 2e-4, len(line)) for line in (lat, lon))
    meters = np.hypot(np.diff(lat[ends])[:, 0], np.diff(lon[ends])[:, 0] * np.cos(np.radians(39.5))) * 111_195
    classes = np.array(["primary", "secondary", "tertiary", "residential"], object)
    return RoadNetwork(
        coord_offsets=np.arange(len(ends) + 1) * 2,
        coords=np.stack([lon[ends], lat[ends]], -1).reshape(-1, 2),
        length_m=meters,
        highway=classes[row[ends[:, 0]] % 4],
        successors=Csr(offsets_of(np.bincount(origin[onward], minlength=len(ends))), following[onward]),
    )


def random_walks(network, count: int):
    """Return `count` random walks of 10 to 40 roads."""
    from hoser_kd.common.arrays import offsets_of
    from hoser_kd.network.trajectories import Trajectories

    rng = np.random.default_rng(1)
    start, following = network.successors
    degree = network.successors.degrees
    road = rng.integers(network.num_roads, size=count)
    roads = np.empty((count, MAX_LENGTH), np.int32)
    for step in range(MAX_LENGTH):
        roads[:, step] = road
        road = following[start[road] + (rng.random(count) * degree[road]).astype(np.int64)]
    lengths = rng.integers(MIN_LENGTH, MAX_LENGTH + 1, count)
    inside = np.arange(MAX_LENGTH) < lengths[:, None]
    seconds = rng.integers(5, 61, (count, MAX_LENGTH), dtype=np.int32).cumsum(axis=1, dtype=np.int64)
    seconds += 1_372_636_800 + rng.integers(0, 604_800, (count, 1))
    return Trajectories(offsets_of(lengths), roads[inside].astype(np.int64), seconds[inside])


def measure(num_roads: int, num_trips: int, steps: int, method: str, updates: str) -> dict[str, float]:
    import torch

    from hoser_kd.config.student import StudentConfig
    from hoser_kd.config.zones import ZonesConfig
    from hoser_kd.hoser import HOSER, time_label_statistics
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.network.zones import partition, transitions
    from hoser_kd.student.training import StudentTrainer, bucketed_batches

    torch.set_num_threads(1)
    seconds: dict[str, float] = {}

    def phase(name, work):
        began = time.process_time()
        result = work()
        seconds[name] = round(time.process_time() - began, 2)
        sys.stderr.write(f"{num_roads} roads: {name} {seconds[name]} s, peak {peak_gib()} GiB\n")
        return result

    network = street_grid(num_roads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.arrow"
        random_walks(network, num_trips).save(path)
        trips = Trajectories.load(path)
        data_gib = peak_gib()
        zones = phase("zones", lambda: partition(network, ZonesConfig(method=method)))
        counts = phase("transitions", lambda: transitions(zones, trips, int(zones.max()) + 1))

        def build():
            mean, std = time_label_statistics(trips)
            return HOSER.build(config, network, zones, counts, log1p_mean=mean, log1p_std=std)

        config = StudentConfig(batch_size=BATCH, precision="fp32", road_updates=updates)
        model = phase("model", build)
        before_gib = peak_gib()
        trainer = StudentTrainer(model, config, total_steps=steps)

        def train():
            losses, began = [], time.process_time()
            for rows, step in zip(
                bucketed_batches(trips.lengths, BATCH, seed=0, epoch=0), range(1, steps + 1), strict=False
            ):
                losses.append(trainer.step(trips, rows, 0)["next_step"])
                if step % 10 == 0:
                    each_ms = (time.process_time() - began) / step * 1000
                    sys.stderr.write(f"  {step} of {steps} steps, {each_ms:.0f} ms each, peak {peak_gib()} GiB\n")
            return losses

        losses = phase("training", train)
    return {
        "roads": network.num_roads,
        "trips": num_trips,
        "points": len(trips.road_ids),
        "method": method,
        "steps": len(losses),
        **{f"{name}_s": seconds[name] for name in PHASES},
        "step_ms": round(1000 * seconds["training"] / len(losses), 1),
        "peak_data_gib": data_gib,
        "peak_before_training_gib": before_gib,
        "peak_gib": peak_gib(),
        "first_losses": round(float(np.mean(losses[:20])), 4),
        "last_losses": round(float(np.mean(losses[-20:])), 4),
    }


def peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def draw(results: list[dict[str, float]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    roads = np.array([row["roads"] for row in results])
    for name in PHASES:
        # the number of steps may differ between sizes
        seconds = [row["step_ms"] * 0.2 if name == "training" else row[f"{name}_s"] for row in results]
        left.loglog(roads, np.maximum(seconds, 1e-2), "o-", label="200 training steps" if name == "training" else name)
    left.loglog(roads, roads / roads[-1] * results[-1]["model_s"], "k:", label="linear")
    right.loglog(roads, [row["peak_gib"] for row in results], "o-", label="peak memory")
    right.loglog(roads, roads / roads[-1] * results[-1]["peak_gib"], "k:", label="linear")
    left.set(xlabel="roads", ylabel="CPU seconds, one thread")
    right.set(xlabel="roads", ylabel="GiB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roads", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--trips", type=int, nargs="+", help="trips per size (default: as many as roads)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--zones", choices=["kahip", "bisection"], default="bisection")
    parser.add_argument("--road-updates", choices=["dense", "touched_rows"], default="dense")
    parser.add_argument("--results", type=Path, help="file of JSON lines to append to and to plot")
    parser.add_argument("--plot", type=Path, help="PNG to write: time and memory against roads")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        sys.stdout.write(
            json.dumps(measure(args.roads[0], args.trips[0], args.steps, args.zones, args.road_updates)) + "\n"
        )
        return
    results = []
    if args.results and args.results.is_file():
        results = [json.loads(line) for line in args.results.read_text().splitlines()]
    for roads, trips in zip(args.roads, args.trips or args.roads, strict=True):
        command = [
            sys.executable,
            __file__,
            "--here",
            "--roads",
            str(roads),
            "--trips",
            str(trips),
            "--steps",
            str(args.steps),
            "--zones",
            args.zones,
            "--road-updates",
            args.road_updates,
        ]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        sys.stdout.write(line)
        results.append(json.loads(line))
        if args.results:
            with args.results.open("a") as file:
                file.write(line)
    if args.plot:
        draw(sorted(results, key=lambda row: row["roads"]), args.plot)


if __name__ == "__main__":
    main()
