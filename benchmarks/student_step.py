"""Measure a training step of HOSER: this implementation and a plain transcription, one thread, in the same run.

    python benchmarks/student_step.py                          # synthetic cities of 2,000 and 20,000 roads, 1-2 minutes
    python benchmarks/student_step.py --folder data/porto      # a city in HOSER's format
    python benchmarks/student_step.py --parts                  # also the time of each part of a step

Both train the same weights on the same batch of trips (`--batch`); the run stops if their losses differ. The
transcription (tests/oracle_hoser.py) works as the published code does: pair arrays of shape (B, T, T, h), all roads
encoded at each step, times of all candidates, and features computed beforehand in Python, one trip at a time; they
are timed separately. This implementation derives features inside the step, and its time includes that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch

from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.hoser import HOSER, build_graph_features, collate, time_label_statistics
from hoser_kd.hoser.model import _Needed
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.network.zones import partition, transitions
from hoser_kd.student.losses import next_step_loss, time_loss
from hoser_kd.student.training import StudentTrainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import oracle_hoser

BLOCKS = {"synthetic_2000": (23, 23), "synthetic_20000": (71, 71)}


def timed(work, repeats):
    """Return the median CPU seconds of a call, since other processes may share the machine, and its result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return median(seconds), result


def measure(folder: Path, size: int, repeats: int, *, parts: bool = False) -> dict[str, float]:
    network = read_hoser(folder)
    trips = read_trips(folder / "train.csv", network)
    zones = partition(network, ZonesConfig())
    counts = transitions(zones, trips, int(zones.max()) + 1)
    mean, std = time_label_statistics(trips)
    rows = np.sort(np.random.default_rng(0).permutation(len(trips))[:size])

    torch.manual_seed(0)
    config = StudentConfig(batch_size=size, precision="fp32", candidate_angle="published")
    model = HOSER.build(config, network, zones, counts, log1p_mean=mean, log1p_std=std)
    plain = oracle_hoser.PlainHoser(model.config, build_graph_features(network, zones, counts))
    plain.load_state_dict(model.state_dict())

    def plain_features():
        return [
            oracle_hoser.trip_features(network, trips.roads(i), trips.times[trips.offsets[i] : trips.offsets[i + 1]])
            for i in rows
        ]

    plain_features_s, features = timed(plain_features, 1)
    features_s, _ = timed(lambda: model.tables.derive(collate(trips, rows)), 5)

    trainer = StudentTrainer(model, config, total_steps=1000)
    first = trainer.step(trips, rows, 0)
    adamw = torch.optim.AdamW(plain.parameters(), lr=trainer.optimizer.learning_rate, weight_decay=0.1)

    def plain_step():
        batch = oracle_hoser.collate_plain(features)
        losses = oracle_hoser.plain_losses(batch, *plain(batch), mean, std)
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return losses[0].item()

    plain_first = plain_step()
    if abs(plain_first / first["next_step"] - 1) > 1e-4:
        raise SystemExit(f"the losses differ: {plain_first} and {first['next_step']}")
    plain_s, _ = timed(plain_step, max(repeats // 3, 2))
    ours_s, _ = timed(lambda: trainer.step(trips, rows, 0), repeats)
    part_times = parts_ms(trainer, trips, rows, repeats) if parts else None
    return {
        "roads": network.num_roads,
        "trips": len(rows),
        "steps": int((trips.lengths[rows] - 1).sum()),
        "longest": int(trips.lengths[rows].max()) - 1,
        "step_s": ours_s,
        "plain_step_s": plain_s,
        "step_ratio": plain_s / ours_s,
        "features_s": features_s,
        "plain_features_s": plain_features_s,
        "features_ratio": plain_features_s / features_s,
        **(
            {}
            if part_times is None
            else {"parts_ms": {**part_times, "rest": round(ours_s * 1e3 - sum(part_times.values()), 1)}}
        ),
    }


def parts_ms(trainer: StudentTrainer, trips, rows, repeats: int) -> dict[str, float]:
    """Return the CPU milliseconds of each part of a step by itself, forward and backward together."""
    model, encoder = trainer.model, trainer.model.road_network_encoder
    steps = model.tables.derive(collate(trips, rows))
    roads = torch.unique(torch.cat([steps.road, steps.candidate]))
    with torch.no_grad():
        needed = _Needed(roads, encoder.encode_roads(roads), encoder.encode_zones())
        history = model._histories(steps, needed)
    for leaf in (needed.road, needed.zone, history):
        leaf.requires_grad_()

    def both(forward):
        output = forward()
        output.backward(torch.ones_like(output))
        for parameter in model.parameters():
            parameter.grad = None

    def predictions():
        output = model._predict(steps, history, needed, all_times=False)
        return next_step_loss(output) + time_loss(output, model.time_scale)

    gradients = [None if p.grad is None else p.grad.clone() for p in with_gradients(model, trips, rows)]

    def move():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        trainer.optimizer.step()

    work = {
        "features of the batch": lambda: model.tables.derive(collate(trips, rows)),
        "road graph": lambda: both(lambda: encoder.encode_roads(roads)),
        "zone graph": lambda: both(encoder.encode_zones),
        "histories": lambda: both(lambda: model._histories(steps, needed)),
        "candidates, times and losses": lambda: both(predictions),
        "clipping and AdamW": move,
    }
    return {name: round(timed(call, repeats)[0] * 1e3, 1) for name, call in work.items()}


def with_gradients(model, trips, rows):
    """Return the parameters with the gradients of a batch."""
    output = model(collate(trips, rows))
    (next_step_loss(output) + time_loss(output, model.time_scale)).backward()
    return model.parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a city in HOSER's format instead of the synthetic ones")
    parser.add_argument(
        "--synthetic", nargs="+", choices=list(BLOCKS), default=list(BLOCKS), help="which synthetic cities"
    )
    parser.add_argument("--batch", type=int, default=64, help="trips per step")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps; a third of it for the transcription")
    parser.add_argument("--parts", action="store_true", help="also time each part of a step by itself")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    if args.folder:
        results[args.folder.name] = measure(args.folder, args.batch, args.repeats, parts=args.parts)
    else:
        for name in args.synthetic:
            with tempfile.TemporaryDirectory() as folder:
                make_city(folder, SyntheticConfig(blocks=BLOCKS[name], num_trips=400))
                results[name] = measure(Path(folder), args.batch, args.repeats, parts=args.parts)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
