"""Time the published code beside this project's: same inputs, one process, one thread, CPU seconds.

    python benchmarks/against_published.py --hoser CHECKOUT --lmtad CHECKOUT                 # the demo's city
    python benchmarks/against_published.py --hoser CHECKOUT --lmtad CHECKOUT --city data/porto

The checkouts are those of caoji2001/HOSER and jonathankabala/LMTAD (`benchmarks/published_code.py` says how they run).
Without one of them its rows are skipped by name. Both sides alternate, and each row has the median and the quartiles of
the paired ratios. The run stops where the two sides give different results.

Rows: a training step of the student on the same batches, random ones and batches of similar length, with the published
collating (its features are computed beforehand and not counted; ours are computed in the step and are counted) and
without; generation, CPU seconds per expanded node; the metrics of generated trips; labels of the teacher, CPU seconds
per step, against one call of the published model per step on its history.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from published_code import PublishedMetrics, PublishedSearch, PublishedTraining, published_teacher
from teacher_labels import city as teacher_city

from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.config.loading import load_config
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.generation.generator import generate
from hoser_kd.generation.output_files import write_published_csv
from hoser_kd.hoser import HOSER, time_label_statistics
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.network.road_network import read_hoser
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import read_hoser as read_trips
from hoser_kd.network.zones import partition, transitions
from hoser_kd.student.training import StudentTrainer, bucketed_batches
from hoser_kd.teacher.soft_labels import label
from hoser_kd.teacher.training import PRESETS

DEMO = Path(__file__).parents[1] / "config" / "demo.yaml"


class Row(NamedTuple):
    """One line of the table: CPU milliseconds of a unit on both sides, in alternation."""

    name: str
    unit: str
    theirs: list[float]
    ours: list[float]

    def __str__(self) -> str:
        ratios = np.array(self.theirs) / np.array(self.ours)
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        theirs, ours = (f"{np.median(part):,.3g}" for part in (self.theirs, self.ours))
        return f"| {self.name} | {self.unit} | {theirs} | {ours} | {middle:.3g} ({low:.3g} to {high:.3g}) |"


HEADER = "| what | ms per | published | ours | times faster (quartiles) |\n|---|---|---|---|---|"


class City:
    """A city in HOSER's format, our model of it, and a folder on which the published code runs."""

    def __init__(self, source: Path, scratch: Path, config: StudentConfig, batches: int) -> None:
        self.source, self.config = source, config
        self.network = read_hoser(source)
        trips = read_trips(source / "train.csv", self.network)
        self.test = read_trips(source / "test.csv", self.network)
        zones = partition(self.network, ZonesConfig())
        counts = transitions(zones, trips, int(zones.max()) + 1)
        # the published features are computed for the trips of the batches only
        kept = self._choose(trips.lengths, batches)
        self.trips = trips.take(kept)
        torch.manual_seed(0)
        mean, std = time_label_statistics(self.trips)
        self.model = HOSER.build(config, self.network, zones, counts, log1p_mean=mean, log1p_std=std)
        self.folder = scratch / "published"
        data = self.folder / "data" / "city"
        data.mkdir(parents=True)
        for name in ("roadmap.geo", "roadmap.rel"):
            (data / name).symlink_to((source / name).resolve())
        lines = (source / "train.csv").read_text().splitlines()
        (data / "train.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in kept)]) + "\n")
        for name in ("val.csv", "test.csv"):
            (data / name).write_text("\n".join((source / name).read_text().splitlines()[:3]) + "\n")
        np.savetxt(data / "road_network_partition", zones, fmt="%d")
        dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
        np.save(data / "zone_trans_mat.npy", dense)

    def _choose(self, lengths: np.ndarray, batches: int) -> np.ndarray:
        """Choose the batches; returns the rows of their trips, and keeps the batches as rows among these."""
        size = self.config.batch_size
        shuffled = np.random.default_rng(0).permutation(len(lengths))
        chosen = {"random": [shuffled[i * size : (i + 1) * size] for i in range(batches)]}
        bucketed = [rows for rows in bucketed_batches(lengths, size, seed=0, epoch=0) if len(rows) == size]
        bucketed.sort(key=lambda rows: lengths[rows].sum())
        spread = np.linspace(0, len(bucketed) - 1, 2 * batches + 1).astype(int)[1::2]
        chosen["of similar length"] = [bucketed[i] for i in spread]
        kept = np.unique(np.concatenate([rows for group in chosen.values() for rows in group]))
        self.batches = {
            name: [np.sort(np.searchsorted(kept, rows)) for rows in group] for name, group in chosen.items()
        }
        return kept


def timed(work, *arguments) -> tuple[float, object]:
    """Return the CPU milliseconds of a call and its result."""
    started = time.process_time()
    result = work(*arguments)
    return (time.process_time() - started) * 1000, result


def require_equal(what: str, theirs: float, ours: float, tolerance: float = 1e-4) -> None:
    if not np.isclose(theirs, ours, rtol=tolerance, atol=1e-6):
        raise SystemExit(f"{what} differs: published {theirs}, ours {ours}")


def step_rows(city: City, published: PublishedTraining, rounds: int) -> list[Row]:
    trainer = StudentTrainer(city.model, city.config, 10_000)
    first = city.batches["random"][0]
    theirs = published.step(published.collate(published.prepare(first)))
    ours = trainer.step(city.trips, first, 0)
    for name in ("next_step", "time"):
        require_equal(
            f"loss {name}", theirs[{"next_step": "loss_next_step", "time": "loss_time_pred"}[name]], ours[name]
        )
    rows = []
    for name, batches in city.batches.items():
        steps, collated, own = [], [], []
        for number in range(rounds):
            for batch in batches:
                items = published.prepare(batch)
                if number % 2:
                    own.append(timed(trainer.step, city.trips, batch, 0)[0])
                collate_ms, tensors = timed(published.collate, items)
                step_ms, _ = timed(published.step, tensors)
                if not number % 2:
                    own.append(timed(trainer.step, city.trips, batch, 0)[0])
                steps.append(step_ms)
                collated.append(collate_ms + step_ms)
        rows += [
            Row(f"student step, batches {name}", "step", collated, own),
            Row(f"student step, batches {name}, published collating not counted", "step", steps, own),
        ]
    return rows


def generation_row(city: City, published: PublishedTraining, checkout: Path, options) -> Row:
    scale = city.model.time_scale
    published.model.load_state_dict(city.model.state_dict())
    city.model.eval()
    search = PublishedSearch(checkout, published, city.network, scale)
    test = city.test
    at = np.random.default_rng(0).integers(0, len(test), options.requests)
    requests = test.origins[at], test.start_times[at], test.destinations[at]
    generate(city.model, *(part[:2] for part in requests), 20)  # warm-up: compilation
    theirs, ours = [], []
    for number in range(options.rounds):
        ms, trips = timed(generate, city.model, *requests, options.max_steps)
        ours.append(ms / trips.expansions.sum())
        search.expansions, ms = 0, 0.0
        for row in range(number * options.plain_trips, (number + 1) * options.plain_trips):
            origin, start, destination = (int(part[row]) for part in requests)
            moment = datetime.fromtimestamp(start, UTC).replace(tzinfo=None)
            part_ms, roads = timed(search.trip, origin, moment, destination, options.max_steps)
            ms += part_ms
            if roads != trips.roads(row).tolist():
                raise SystemExit(f"trip {row} differs")
        theirs.append(ms / search.expansions)
    return Row(f"generation, {options.requests} requests", "expansion", theirs, ours)


def metrics_row(city: City, checkout: Path, scratch: Path, options) -> Row:
    test = city.test.take(np.arange(min(len(city.test), options.metric_trips)))
    lines = (city.source / "test.csv").read_text().splitlines()[: 1 + len(test)]
    data = scratch / "metrics_data"
    data.mkdir()
    (data / "test.csv").write_text("\n".join(lines) + "\n")
    (data / "roadmap.geo").symlink_to((city.source / "roadmap.geo").resolve())
    generated = generate(city.model, test.origins, test.start_times, test.destinations, options.max_steps)
    write_published_csv([generated], data / "generated.csv")
    (scratch / "notebook").mkdir()
    notebook = PublishedMetrics(checkout, scratch / "notebook", city.network)
    south, west = city.network.centroids.min(0).tolist()  # the corner of the notebook's cells
    config = EvaluationConfig(od_corner=(south, west))
    evaluate(test, generated, city.network, config)  # warm-up: compilation
    theirs, ours = [], []
    for _ in range(options.rounds):
        seconds, values = notebook(data, data / "generated.csv")
        theirs.append(seconds * 1000)
        ms, result = timed(evaluate, test, generated, city.network, config)
        ours.append(ms)
    require_equal("Hausdorff distance", values["hausdorff"], result["similarity"]["hausdorff"], 1e-3)
    return Row(f"metrics, {len(test)} trips", "evaluation", theirs, ours)


def label_row(checkout: Path, preset: str, options) -> Row:
    layers, heads, width = PRESETS[preset]
    network, trips = teacher_city(40, 48, 60, seed=0)
    torch.manual_seed(0)
    model = LMTAD(LMTADConfig(1186, 8220, layers, heads, width)).eval()
    tokens = np.arange(network.num_roads) // 4 % model.config.num_labels
    published = published_teacher(checkout, model)
    at, row = trips.step_positions()
    rng = np.random.default_rng(1)
    theirs, ours = [], []
    label(model, tokens, trips.take(np.arange(2)), network)
    for _ in range(options.rounds):
        ms, scores = timed(label, model, tokens, trips, network)
        ours.append(ms / trips.num_steps)
        total = 0.0
        for step in rng.choice(len(at), options.plain_steps, replace=False):
            roads = trips.road_ids[trips.offsets[row[step]] : at[step] + 1]
            history = torch.from_numpy(np.concatenate([[model.config.sot_token], tokens[roads]]))[None]
            with torch.no_grad():
                ms, (logits, _) = timed(published, history)
            total += ms
            cells = tokens[network.successors.row(roads[-1])]
            own = np.asarray(scores.scores[scores.offsets[step] : scores.offsets[step + 1]], np.float64)
            # scores are logits up to a constant per step
            plain = logits[0, -1].numpy()[cells]
            if not np.allclose(own - own[0], plain - plain[0], atol=1e-2):
                raise SystemExit(f"the labels of step {step} differ")
        theirs.append(total / options.plain_steps)
    return Row(f"labels, teacher `{preset}`", "step", theirs, ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hoser", type=Path, help="checkout of caoji2001/HOSER")
    parser.add_argument("--lmtad", type=Path, help="checkout of jonathankabala/LMTAD")
    parser.add_argument("--city", type=Path, help="a city in HOSER's format; default: the demo's, with its student")
    parser.add_argument("--batch", type=int, help="trips per step; default: 16 for the demo's city, 64 for another")
    parser.add_argument("--batches", type=int, default=3, help="batches of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each measurement")
    parser.add_argument("--train-steps", type=int, default=60, help="training steps before generation")
    parser.add_argument("--requests", type=int, default=512, help="requests that our generation answers together")
    parser.add_argument(
        "--plain-trips", type=int, default=3, help="of these, requests that the published search answers"
    )
    parser.add_argument("--max-steps", type=int, default=300, help="expansions after which a search ends")
    parser.add_argument("--metric-trips", type=int, default=40, help="test trips that the metrics compare")
    parser.add_argument("--plain-steps", type=int, default=40, help="steps that the published teacher labels")
    parser.add_argument("--preset", default="small", choices=list(PRESETS), help="size of the labeling teacher")
    parser.add_argument(
        "--only", nargs="+", default=["step", "generation", "metrics", "labels"], help="parts to measure"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print(HEADER)
    if options.hoser is None:
        print("skipped: student step, generation, metrics (no --hoser, a checkout of caoji2001/HOSER)")
    elif set(options.only) & {"step", "generation", "metrics"}:
        with tempfile.TemporaryDirectory() as scratch:
            _compare_students(options, Path(scratch))
    if options.lmtad is None:
        print("skipped: labels (no --lmtad, a checkout of jonathankabala/LMTAD)")
    elif "labels" in options.only:
        print(label_row(options.lmtad.resolve(), options.preset, options), flush=True)


def _compare_students(options, scratch: Path) -> None:
    checkout = options.hoser.resolve()
    if options.city is None:
        config, source = load_config(DEMO).student, make_city(scratch / "city", SyntheticConfig())
    else:
        config, source = StudentConfig(batch_size=64), options.city
    changes = {"precision": "fp32", "candidate_angle": "published"}
    config = config.model_copy(update=changes | ({"batch_size": options.batch} if options.batch else {}))
    city = City(Path(source), scratch, config, options.batches)
    published = (
        PublishedTraining(checkout, city.folder, city.model) if {"step", "generation"} & {*options.only} else None
    )
    if "step" in options.only:
        for row in step_rows(city, published, options.rounds):
            print(row, flush=True)
    trainer = StudentTrainer(city.model, config, options.train_steps + 1)
    batches = [rows for group in city.batches.values() for rows in group]
    for number in range(options.train_steps if set(options.only) & {"generation", "metrics"} else 0):
        trainer.step(city.trips, batches[number % len(batches)], 0)
    if "generation" in options.only:
        print(generation_row(city, published, checkout, options), flush=True)
    if "metrics" in options.only:
        city.model.eval()
        print(metrics_row(city, checkout, scratch, options), flush=True)


if __name__ == "__main__":
    main()
