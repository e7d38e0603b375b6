"""Measure and check a GPU: training step, labels, generation, synthetic trips and teacher, beside the published code.

    python benchmarks/gpu.py                                                # the demo's city, this project alone
    python benchmarks/gpu.py --hoser CHECKOUT --lmtad CHECKOUT              # also the published code on the same card
    python benchmarks/gpu.py --city data/porto --batch 64 --only step generation --json gpu.json

First, results of the GPU are compared with those of the CPU (`equal`). All times are wall-clock seconds between two
synchronizations, after a warm-up; both sides alternate on the same inputs. `step` also counts how often the host waits
for the device in a step, and the share of the time in which a kernel runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from against_published import DEMO, City
from published_code import PublishedSearch, PublishedTraining, published_teacher
from teacher_labels import city as teacher_city

from hoser_kd.common.arrays import offsets_of
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.loading import load_config
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import collate
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.student.losses import LossContext, StoredLabels, loss_terms
from hoser_kd.student.training import StudentTrainer
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.soft_labels import SoftLabels, label
from hoser_kd.teacher.training import PRESETS
from hoser_kd.teacher.trip_sampling import TripSampler

PARTS = ("equal", "step", "labels", "generation", "sampling", "teacher")


def clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(work, *arguments, **more):
    """Return the milliseconds of a call and its result."""
    started = clock()
    result = work(*arguments, **more)
    return (clock() - started) * 1000, result


@contextmanager
def tf32(allowed: bool):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Results:
    """Rows by part, printed as they come."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}

    def add(self, part: str, **values: object) -> None:
        rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
        self.rows.setdefault(part, {}).update(rounded)
        print(part, json.dumps(rounded), flush=True)


VARIANTS: dict[str, dict[str, object]] = {
    "fp32, kernel by kernel": {"precision": "fp32", "cuda_graphs": False},
    "fp32": {"precision": "fp32"},
    "fp32, tf32 allowed": {"precision": "fp32"},
    "fp32, with kl": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
}


def students(city: City) -> dict[str, StudentTrainer]:
    """Return trainers on the GPU with the same weights, by name of their variant."""
    trainers = {}
    for name, changes in VARIANTS.items():
        model = copy.deepcopy(city.model).to("cuda")
        config = city.config.model_copy(update=changes)
        terms = None
        if "kl" in name:
            context = LossContext(model.time_scale, config, DistillConfig(), random_labels(city), device="cuda")
            terms = loss_terms(context)
        trainers[name] = StudentTrainer(model, config, 10_000, terms)
    return trainers


def random_labels(city: City) -> StoredLabels:
    """Return labels without meaning; their cost is that of any others."""
    steps = city.trips.road_ids[city.trips.step_positions()[0]]
    offsets = offsets_of(city.network.successors.degrees[steps])
    return StoredLabels(SoftLabels(offsets, np.random.default_rng(0).random(offsets[-1], np.float32), None), city.trips)


def check_equal(city: City, results: Results) -> None:
    """Compare losses, gradients, generated trips and labels of the GPU with those of the CPU."""
    rows = city.batches["random"][0]
    gradients, losses = {}, {}
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(city.model).to(device).eval()
        trainer = StudentTrainer(model, city.config, 100)
        model.train(mode=False)
        batch = collate(city.trips, rows).to(device)
        output = model(batch)
        terms = [term.compute(batch, output, 0) for term in trainer.terms]
        sum(terms).backward()
        losses[device] = [float(term) for term in terms]
        gradients[device] = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    worst = max(
        float((gradients["cpu"][n] - g).norm() / (gradients["cpu"][n].norm() + 1e-12))
        for n, g in gradients["cuda"].items()
        if float(gradients["cpu"][n].norm()) > 1e-6
    )
    difference = max(abs(a / b - 1) for a, b in zip(losses["cpu"], losses["cuda"], strict=True))
    results.add("equal", loss_relative=difference, gradient_relative_worst=worst)
    test = city.test.take(np.arange(min(100, len(city.test))))
    request = test.origins, test.start_times, test.destinations
    model = copy.deepcopy(city.model).eval()
    cpu = generate(model, *request, 200)
    gpu = generate(model.to("cuda"), *request, 200)
    same = sum(cpu.roads(i).tolist() == gpu.roads(i).tolist() for i in range(len(test)))
    results.add("equal", generated_trips=len(test), generated_same=same)
    network, trips = teacher_city(20, 20, 30, seed=0)
    layers, heads, width = PRESETS["small"]
    torch.manual_seed(0)
    teacher = LMTAD(LMTADConfig(1186, 8220, layers, heads, width)).eval()
    tokens = np.arange(network.num_roads) // 4 % teacher.config.num_labels
    on_cpu = label(teacher, tokens, trips, network).scores
    for name, half in (("fp32", False), ("bf16", True)):
        on_gpu = label(copy.deepcopy(teacher), tokens, trips, network, device="cuda", half=half).scores
        results.add("equal", **{f"label_{name}_max_difference": float(np.abs(on_cpu - on_gpu).max())})


def syncs_of(trainer: StudentTrainer, city: City, rows) -> Counter:
    """Return where the host waits for the device in a step, by file and line."""
    trainer.step(city.trips, rows, 0)
    trainer.step(city.trips, rows, 0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step(city.trips, rows, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message))


def kernel_share(work, steps: int) -> dict[str, float]:
    """Return the share of the time in which kernels run, and kernels per step, over 5 calls of `steps` steps."""
    from torch.profiler import ProfilerActivity, profile

    work()
    started = clock()
    for _ in range(5):
        work()
    wall = clock() - started
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(5):
            work()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    count = sum(event.count for event in profiled.key_averages())
    return {"share_of_time": busy / wall, "per_step": count / 5 / steps, "busy_ms_per_step": busy * 1000 / 5 / steps}


def step_rows(city: City, results: Results, options) -> None:
    trainers = students(city)
    published = None
    if options.hoser is not None:
        published = PublishedTraining(options.hoser.resolve(), city.folder, city.model, device="cuda")
        published.names["model"].to("cuda")
    for name, trainer in trainers.items():
        with tf32(allowed="tf32" in name):
            where = syncs_of(trainer, city, city.batches["random"][0])
        results.add(f"waits per step, {name}", count=sum(where.values()), places=dict(where.most_common(6)))
    compare_weights(city, results)
    for name, batches in city.batches.items():
        times: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for batch in batches if published is not None else []:
                collated_ms, tensors = timed(published.collate, published.prepare(batch))
                ms, _ = timed(published.step, tensors)
                if number:
                    times.setdefault("published", []).append(ms)
                    times.setdefault("published, with collating", []).append(ms + collated_ms)
            for kind, trainer in trainers.items():
                with tf32(allowed="tf32" in kind):
                    run_steps(trainer, city, batches)
                    ms, _ = timed(run_steps, trainer, city, batches * 5)
                if number:
                    times.setdefault(kind, []).append(ms / len(batches) / 5)
        medians = {f"{kind}, ms": float(np.median(each)) for kind, each in times.items()}
        steps = float(np.mean([city.trips.lengths[batch].sum() - len(batch) for batch in batches]))
        results.add(f"step, {name}", trips_per_batch=len(batches[0]), steps_per_batch=steps, **medians)
        if published is not None:
            ratios = {kind: medians["published, ms"] / medians[f"{kind}, ms"] for kind in trainers}
            results.add(f"step, {name}, times faster than published", **ratios)
        for kind in ("fp32, kernel by kernel", "fp32", "bf16"):
            share = kernel_share(partial(run_steps, trainers[kind], city, batches), len(batches))
            results.add(f"kernels, {name}, {kind}", **share)


def run_steps(trainer: StudentTrainer, city: City, batches) -> None:
    for rows, prepared in trainer.ahead(city.trips, batches):
        trainer.step(city.trips, rows, 0, prepared)


def compare_weights(city: City, results: Results) -> None:
    """Compare the weights after 10 steps from graphs with those after 10 steps kernel by kernel, and with the CPU's."""
    batches = [rows for group in city.batches.values() for rows in group]
    weights = {}
    for name, device, changes in (
        ("cpu", "cpu", {}),
        ("kernels", "cuda", {"cuda_graphs": False}),
        ("again", "cuda", {"cuda_graphs": False}),
        ("graphs", "cuda", {}),
    ):
        model = copy.deepcopy(city.model).to(device)
        trainer = StudentTrainer(model, city.config.model_copy(update=changes), 10_000)
        run_steps(trainer, city, [batches[i % len(batches)] for i in range(10)])
        weights[name] = torch.cat([p.detach().flatten().cpu() for p in model.parameters()])
    start = torch.cat([p.detach().flatten().cpu() for p in city.model.parameters()])
    moved = (weights["kernels"] - start).norm()
    for name in ("cpu", "again", "graphs"):
        results.add("weights after 10 steps", **{name: float((weights[name] - weights["kernels"]).norm() / moved)})


def label_rows(results: Results, options) -> None:
    for preset, sizes in (("small", (40, 960, 60)), ("published", (40, 480, 60))):
        layers, heads, width = PRESETS[preset]
        network, trips = teacher_city(*sizes, seed=0)
        torch.manual_seed(0)
        model = LMTAD(LMTADConfig(1186, 8220, layers, heads, width)).eval().to("cuda")
        tokens = np.arange(network.num_roads) // 4 % model.config.num_labels
        row: dict[str, float] = {}
        for name, half, matmul in (("fp32", False, False), ("tf32", False, True), ("bf16", True, True)):
            with tf32(matmul):
                scorer = SoftLabelScorer(model, tokens, network, half=half)
                best = min(timed(scorer.score, trips)[0] for _ in range(3))
            row[f"{name}_steps_per_s"] = trips.num_steps / best * 1000
        if options.lmtad is not None:
            published = published_teacher(options.lmtad.resolve(), copy.deepcopy(model).cpu()).to("cuda")
            at, of_trip = trips.step_positions()
            chosen = np.random.default_rng(1).choice(len(at), options.plain_steps, replace=False)
            taken = []
            for step in chosen:
                roads = trips.road_ids[trips.offsets[of_trip[step]] : at[step] + 1]
                history = torch.from_numpy(np.concatenate([[model.config.sot_token], tokens[roads]]))[None].to("cuda")
                with torch.no_grad():
                    taken.append(timed(last_logits, published, history)[0])
            row["published_steps_per_s"] = 1000 / float(np.median(taken))
            row["bf16_ratio"] = row["bf16_steps_per_s"] / row["published_steps_per_s"]
            row["fp32_ratio"] = row["fp32_steps_per_s"] / row["published_steps_per_s"]
        results.add(f"labels, {preset}", steps=trips.num_steps, **row)


def last_logits(teacher, history: torch.Tensor) -> torch.Tensor:
    return teacher(history)[0][0, -1].cpu()


def generation_rows(city: City, results: Results, options) -> None:
    model = copy.deepcopy(city.model).to("cuda").eval()
    test = city.test
    row: dict[str, float] = {}
    for concurrent in options.concurrent:
        at = np.random.default_rng(0).integers(0, len(test), max(options.requests, concurrent))
        requests = test.origins[at], test.start_times[at], test.destinations[at]
        generate(model, *(part[:64] for part in requests), 40, concurrent=concurrent)
        ms, trips = timed(generate, model, *requests, options.max_steps, concurrent=concurrent)
        row[f"at_{concurrent}_nodes_per_s"] = trips.expansions.sum() / ms * 1000
        row[f"at_{concurrent}_trips_per_s"] = len(at) / ms * 1000
    model.cpu()
    torch.set_num_threads(1)
    at = np.random.default_rng(0).integers(0, len(test), 256)
    requests = test.origins[at], test.start_times[at], test.destinations[at]
    ms, trips = timed(generate, model, *requests, options.max_steps)
    row["cpu_one_thread_nodes_per_s"] = trips.expansions.sum() / ms * 1000
    if options.hoser is not None:
        published = PublishedTraining(options.hoser.resolve(), city.folder, city.model, device="cuda")
        published.model.to("cuda")
        published.model.load_state_dict(city.model.state_dict())
        scale = city.model.time_scale
        search = PublishedSearch(options.hoser.resolve(), published, city.network, scale, device="cuda")
        started = clock()
        for which in range(options.plain_trips + 1):
            if which == 1:
                search.expansions, started = 0, clock()
            origin, start, destination = (int(part[which]) for part in requests)
            search.trip(origin, datetime.fromtimestamp(start, UTC).replace(tzinfo=None), destination, 100)
        row["published_nodes_per_s"] = search.expansions / (clock() - started)
        best = max(row[f"at_{n}_nodes_per_s"] for n in options.concurrent)
        row["ratio"] = best / row["published_nodes_per_s"]
    results.add("generation", **row)


def sampling_rows(results: Results) -> None:
    for preset in ("tiny", "small", "published"):
        layers, heads, width = PRESETS[preset]
        network, _ = teacher_city(40, 48, 60, seed=0)
        torch.manual_seed(0)
        model = LMTAD(LMTADConfig(128, 2400, layers, heads, width)).eval().to("cuda")
        tokens = np.arange(network.num_roads) // 4 % model.config.num_labels
        sampler = TripSampler(model, tokens, network, max_steps=60, half=preset != "tiny")
        sampler.sample(4096, 4096)
        ms, sampled = timed(sampler.sample, 0, 4096)
        roads = len(sampled.road_ids) + sampled.too_long * 60
        results.add(f"sampling, {preset}", attempts_per_s=4096 / ms * 1000, roads_per_s=roads / ms * 1000)


def teacher_rows(results: Results) -> None:
    from teacher_training import measure

    for preset, precision in (("small", "bf16"), ("published", "bf16"), ("published", "fp32")):
        options = argparse.Namespace(
            batch_size=128, steps=8, length=120, vocabulary=8220, block_size=1186, device="cuda", rounds=2,
            peak_seconds=0.5, precision=precision, compile=False,
        )  # fmt: skip
        with tf32(precision != "fp32"):
            results.add(f"teacher, {preset}, {precision}", **measure(preset, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hoser", type=Path, help="checkout of caoji2001/HOSER")
    parser.add_argument("--lmtad", type=Path, help="checkout of jonathankabala/LMTAD")
    parser.add_argument("--city", type=Path, help="a city in HOSER's format; default: the demo's, with its student")
    parser.add_argument("--batch", type=int, help="trips per step; default: 16 for the demo's city, 64 for another")
    parser.add_argument("--batches", type=int, default=3, help="batches of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement")
    parser.add_argument("--train-steps", type=int, default=40, help="training steps before generation")
    parser.add_argument("--requests", type=int, default=2048, help="requests that are answered together")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[512, 2048, 4096], help="trips under way")
    parser.add_argument("--plain-trips", type=int, default=3, help="requests that the published search answers")
    parser.add_argument("--plain-steps", type=int, default=40, help="steps that the published teacher labels")
    parser.add_argument("--max-steps", type=int, default=300, help="expansions after which a search ends")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, help="parts to run")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU.")
    warnings.filterwarnings("ignore")
    results = Results()
    results.add("device", name=torch.cuda.get_device_name(), torch=torch.__version__, python=sys.version.split()[0])
    with tempfile.TemporaryDirectory() as scratch:
        if options.city is None:
            config, source = load_config(DEMO).student, make_city(Path(scratch) / "city", SyntheticConfig())
        else:
            config, source = StudentConfig(batch_size=64), options.city
        changes = {"precision": "fp32", "candidate_angle": "published"}
        config = config.model_copy(update=changes | ({"batch_size": options.batch} if options.batch else {}))
        city = City(Path(source), Path(scratch), config, options.batches)
        trainer = StudentTrainer(city.model.to("cuda"), config, options.train_steps + 1)
        batches = [rows for group in city.batches.values() for rows in group]
        for number in range(options.train_steps):
            trainer.step(city.trips, batches[number % len(batches)], 0)
        city.model.cpu().eval()
        work = {
            "equal": lambda: check_equal(city, results),
            "step": lambda: step_rows(city, results, options),
            "labels": lambda: label_rows(results, options),
            "generation": lambda: generation_rows(city, results, options),
            "sampling": lambda: sampling_rows(results),
            "teacher": lambda: teacher_rows(results),
        }
        for part in PARTS:
            if part in options.only:
                started = time.perf_counter()
                try:
                    work[part]()
                except Exception:  # noqa: BLE001  the other parts are measured all the same
                    traceback.print_exc()
                print(f"{part} took {time.perf_counter() - started:.1f} s", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results.rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
