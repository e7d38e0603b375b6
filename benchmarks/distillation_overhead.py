"""Measure the cost of distillation: time of a training step with labels ÷ without, same batches, one thread.

    python benchmarks/distillation_overhead.py --folder data/porto --zones 300 --batch-size 64 --rounds 5

Both steps alternate in one process on the same trips. The labels are random scores in a memory-mapped file of the
same format as a teacher's. Without `--folder`, the synthetic city is used. The result is the median of the paired
ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hoser_kd.common.arrays import offsets_of
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.hoser import HOSER, time_label_statistics
from hoser_kd.network.road_network import RoadNetwork, read_hoser
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.network.zones import partition, transitions
from hoser_kd.student.losses import LossContext, StoredLabels, loss_terms
from hoser_kd.student.training import StudentTrainer, bucketed_batches
from hoser_kd.teacher.soft_labels import SoftLabels


def stored_labels(network: RoadNetwork, trips: Trajectories, folder: Path) -> StoredLabels:
    at, _ = trips.step_positions()
    offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
    scores = np.random.default_rng(0).normal(size=offsets[-1]).astype(np.float32)
    SoftLabels(offsets, scores).save(folder / "labels.arrow")
    return StoredLabels(SoftLabels.load(folder / "labels.arrow"), trips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder in HOSER's format")
    parser.add_argument("--zones", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=8, help="batches per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared-cells", default="replicate", choices=["replicate", "split", "aggregate"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or make_city(Path(scratch) / "city", SyntheticConfig())
        network = read_hoser(folder)
        trips = read_trips(folder / "train.csv", network)
        zones = partition(network, ZonesConfig(count=options.zones))
        counts = transitions(zones, trips, int(zones.max()) + 1)
        config = StudentConfig(batch_size=options.batch_size)
        mean, std = time_label_statistics(trips)
        labels = stored_labels(network, trips, Path(scratch))
        cells = torch.arange(network.num_roads) // 2
        trainers = {}
        for name, distill in (("plain", None), ("distilled", DistillConfig(shared_cells=options.shared_cells))):
            torch.manual_seed(0)
            model = HOSER.build(config, network, zones, counts, log1p_mean=mean, log1p_std=std)
            terms = loss_terms(LossContext(model.time_scale, config, distill, labels, cells))
            trainers[name] = StudentTrainer(model, config, 10_000, terms)
        batches = list(bucketed_batches(trips.lengths, options.batch_size, seed=0, epoch=0))
        chosen = [batches[i] for i in np.random.default_rng(0).permutation(len(batches))[: options.batches]]
        ratios, plain = [], []
        for round_number in range(options.rounds + 1):
            for rows in chosen:
                took = {}
                # the order alternates, so that a drift in the machine's speed favors neither
                for name in sorted(trainers, reverse=bool(round_number % 2)):
                    started = time.process_time()
                    trainers[name].step(trips, rows, epoch=0)
                    took[name] = time.process_time() - started
                if round_number:  # the first round is a warm-up
                    ratios.append(took["distilled"] / took["plain"])
                    plain.append(took["plain"])
    low, high = np.percentile(ratios, [25, 75])
    print(
        f"{network.num_roads} roads, batches of {options.batch_size}, {len(ratios)} pairs, one thread, "
        f"{options.shared_cells}"
    )
    print(f"plain step: median {statistics.median(plain):.3f} CPU seconds")
    print(f"with labels ÷ without: median {statistics.median(ratios):.4f} (quartiles {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
