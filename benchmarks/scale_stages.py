"""Measure time and memory of each stage of the pipeline as roads and trips grow.

    python benchmarks/scale_stages.py --roads 100000 --trips 100000 300000 --folder /tmp/scale
    python benchmarks/scale_stages.py --roads 1200000 --trips 1000000 10000000 --folder /tmp/scale --keep
    python benchmarks/scale_stages.py --results /tmp/scale/results.jsonl --table --plot docs/figures/scale_stages.png
    python benchmarks/scale_stages.py --results /tmp/scale/results.jsonl --extrapolate 10000000 100000000

The city is the street grid of `benchmarks/scale.py` with random trips of 8 to 10 roads, written as files in HOSER's
format. Every stage runs as in `hoser-kd make`, with its checks, in a separate process on one thread, and is one line
of JSON: CPU seconds, peak memory, and the part of the peak that is the process's own (the rest are mapped files, which
the system takes back when it needs the memory). Stages that the results file already has are not run again, so an
interrupted measurement resumes.

Kept small, since neither depends on the number of trips: the teacher that labels is untrained and has one layer of
width 16 on cells of 1 km; `teacher_training` and `student_training` stop after `--steps` optimizer steps. Validation
and test have 1 % of the trips each. From 200,000 training trips on, the same ones are repeated: no stage but the chain
of order 2 in `baseline_counts` needs less memory for a trip that it has had before.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scale import street_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hoser_kd.config.schema import CityConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

CITY = "grid_town"
STAGES = (
    "source_files",
    "road_network",
    "trajectories",
    "road_centroids",
    "road_zones",
    "zone_transitions",
    "grid_token_table",
    "teacher_corpus",
    "teacher_training",
    "teacher",
    "teacher_soft_labels",
    "baseline_counts",
    "student_training",
)
"""In this order; `teacher_training`, `baseline_counts` and `student_training` are parts of the stages `teacher`,
`baseline_trips` and `distilled_student`."""
_OF_ROADS = {"source_files", "road_network", "road_centroids", "road_zones", "grid_token_table", "teacher"}
"""Stages whose time does not grow with the trips."""
MIN_LENGTH, MAX_LENGTH = 8, 10
OTHER_SHARE = 0.01
"""Validation and test trips, as a share of the training trips, each."""
_DISTINCT = 200_000
"""Distinct training trips; writing a repeated one costs next to nothing, reading it what any trip costs."""
_POLL_S = 0.05
_LIBRARIES_GIB = 0.24
"""What a process has in memory before it starts: PyTorch, Arrow and the others."""
_GIB = 2**30


# -- the city -----------------------------------------------------------------------------------------------------


def write_roads(network: RoadNetwork, folder: Path) -> None:
    """Write roadmap.geo and roadmap.rel."""
    from hoser_kd.common.arrays import row_of_value

    lon, lat = network.coords.T
    with (folder / "roadmap.geo").open("w", encoding="utf-8") as file:
        file.write("geo_id,type,coordinates,highway,length\n")
        for road in range(network.num_roads):
            a, b = 2 * road, 2 * road + 1
            file.write(
                f'{road},LineString,"[[{lon[a]:.6f}, {lat[a]:.6f}], [{lon[b]:.6f}, {lat[b]:.6f}]]",'
                f"{network.highway[road]},{network.length_m[road]:.3f}\n"
            )
    origin, destination = row_of_value(network.successors.indptr), network.successors.indices
    with (folder / "roadmap.rel").open("w", encoding="utf-8") as file:
        file.write("rel_id,type,origin_id,destination_id\n")
        rows = zip(origin.tolist(), destination.tolist(), strict=True)
        file.writelines(f"{row},geo,{a},{b}\n" for row, (a, b) in enumerate(rows))


def random_trips(network: RoadNetwork, count: int, seed: int) -> Trajectories:
    """Return `count` random walks of 8 to 10 roads in one week."""
    from hoser_kd.common.arrays import offsets_of
    from hoser_kd.network.trajectories import Trajectories

    rng = np.random.default_rng(seed)
    start, following = network.successors
    degree = network.successors.degrees
    road = rng.integers(network.num_roads, size=count)
    roads = np.empty((count, MAX_LENGTH), np.int64)
    for step in range(MAX_LENGTH):
        roads[:, step] = road
        road = following[start[road] + (rng.random(count) * degree[road]).astype(np.int64)]
    lengths = rng.integers(MIN_LENGTH, MAX_LENGTH + 1, count)
    inside = np.arange(MAX_LENGTH) < lengths[:, None]
    seconds = rng.integers(5, 61, (count, MAX_LENGTH), dtype=np.int64).cumsum(axis=1)
    seconds += 1_372_636_800 + rng.integers(0, 604_800, (count, 1))
    return Trajectories(offsets_of(lengths), roads[inside], seconds[inside])


def write_trips(network: RoadNetwork, count: int, file: Path, seed: int) -> None:
    """Write a CSV file of random trips; those after the first `_DISTINCT` repeat them."""
    part = file.with_suffix(".part")
    random_trips(network, min(count, _DISTINCT), seed).to_hoser_csv(part)
    lines = part.read_bytes().splitlines(keepends=True)
    with file.open("wb") as out:
        out.write(lines[0])
        for first in range(0, count, _DISTINCT):
            out.writelines(lines[1 : 1 + min(_DISTINCT, count - first)])
    part.unlink()


def write_city(roads: int, trips: int, folder: Path) -> dict[str, Any]:
    """Write the files of the city and an untrained teacher for its grid."""
    place = folder / "raw"
    place.mkdir(parents=True, exist_ok=True)
    network = street_grid(roads)
    write_roads(network, place)
    for seed, (split, count) in enumerate(_sizes(trips).items(), 1):
        write_trips(network, count, place / f"{split}.csv", seed)
    _write_teacher(network, folder)
    return {"disk_gib": _disk_gib(place)}


def _sizes(trips: int) -> dict[str, int]:
    other = max(1000, round(OTHER_SHARE * trips))
    return {"train": trips, "val": other, "test": other}


def _write_teacher(network: RoadNetwork, folder: Path) -> None:
    import torch

    from hoser_kd.grid.spec import choose_grid
    from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, save
    from hoser_kd.pipeline.stages.grid import describe_grid

    grid = choose_grid(_grid_settings(), network, None, None)
    torch.manual_seed(0)
    shape = LMTADConfig(
        block_size=MAX_LENGTH + 2, vocab_size=grid.num_labels + 3, n_layer=1, n_head=1, n_embd=16, dropout=0.0
    )
    about = {"grip_size": list(grid.shape), **describe_grid(grid)}
    (folder / "teacher").mkdir(exist_ok=True)
    save(LMTADCheckpoint(LMTAD(shape), shape, about), folder / "teacher")


def _grid_settings() -> Any:
    from hoser_kd.config.grid import GridConfig

    return GridConfig(bounds="roads", cell_size_m=1000.0)


def settings(folder: Path, zones: str) -> CityConfig:
    """Return the settings of the city."""
    from hoser_kd.config.schema import CityConfig

    return CityConfig.model_validate(
        {
            "city": CITY,
            "source": {"kind": "hoser", "path": str(folder / "raw")},
            "zones": {"method": zones},
            "distill": {"ckpt_path": str(folder / "teacher")},
            "student": {"batch_size": 64, "max_epochs": 1, "precision": "fp32"},
        }
    )


# -- one stage, in its own process --------------------------------------------------------------------------------


class _EnoughError(Exception):
    """Ends a training after some steps."""


def _stop_after(steps: int) -> Any:
    began: dict[str, float] = {}

    def progress(stage: str, done: int, total: int, metrics: Any = None) -> None:  # noqa: ARG001
        if stage not in {"training", "teacher"} or metrics is None:
            return
        began.setdefault("cpu", time.process_time())
        began["last"], began["steps"] = time.process_time(), done
        if done >= steps:
            raise _EnoughError

    progress.began = began  # type: ignore[attr-defined]
    return progress


def run_stage(name: str, folder: Path, versions: dict[str, str], steps: int, zones: str) -> dict[str, Any]:
    """Run a stage in this process; returns its version and what else is known."""
    import torch

    from hoser_kd.common.progress import silent
    from hoser_kd.pipeline.checks import run_checks
    from hoser_kd.pipeline.graph import STAGES as GRAPH
    from hoser_kd.pipeline.run import make
    from hoser_kd.pipeline.store import Store

    torch.set_num_threads(1)
    config, store = settings(folder, zones), Store(folder / "store")
    artifacts = {stage: store.open(stage, CITY, version) for stage, version in versions.items()}
    if name == "teacher_training":
        return _teacher_training(artifacts, folder, steps)
    if name == "baseline_counts":
        return _baseline_counts(artifacts)
    stage = GRAPH["distilled_student" if name == "student_training" else name]
    inputs = {each: artifacts[each] for each in stage.inputs_read(config)}
    if name != "student_training":
        artifact = make(stage, config, store, inputs, progress=silent, device="cpu")
        before_checks = time.process_time()
        for _ in run_checks(artifact, inputs):
            pass
        return {
            "version": artifact.version,
            "disk_gib": round(artifact.size_bytes / _GIB, 3),
            "checks_s": round(time.process_time() - before_checks, 1),
        }
    progress = _stop_after(steps)
    with contextlib.suppress(_EnoughError):
        make(stage, config, store, inputs, seed=0, progress=progress, device="cpu")
    return _step_times(progress)


def _step_times(progress: Any) -> dict[str, float]:
    began = progress.began
    seconds = (began["last"] - began["cpu"]) / max(began["steps"] - 1, 1)
    return {"steps": began["steps"], "step_ms": round(1000 * seconds, 1)}


def _teacher_training(artifacts: dict[str, Any], folder: Path, steps: int) -> dict[str, Any]:
    """Train a teacher of one layer of width 16 on all trips, for some steps."""
    from hoser_kd.config.teacher import TeacherConfig
    from hoser_kd.pipeline.stages.grid import load_tokens
    from hoser_kd.teacher.corpus import Corpus
    from hoser_kd.teacher.training import train

    corpora = [Corpus.load(artifacts["teacher_corpus"].path / f"{split}.arrow") for split in ("train", "val")]
    vocabulary = int(load_tokens(artifacts["grid_token_table"].path).max()) + 4
    config = TeacherConfig(n_layer=1, n_head=1, n_embd=16, max_epochs=1, batch_size=64, precision="fp32")
    progress = _stop_after(steps)
    with contextlib.suppress(_EnoughError):
        train(*corpora, vocabulary, config, folder / "teacher_training", "cpu", progress, resume=False)
    shutil.rmtree(folder / "teacher_training", ignore_errors=True)
    return _step_times(progress)


def _baseline_counts(artifacts: dict[str, Any]) -> dict[str, Any]:
    """Fit what `baseline_trips` fits on the training trips, and find test trips that are copies of them."""
    from hoser_kd.evaluation.memorization import copied
    from hoser_kd.network.class_speeds import ClassSpeeds
    from hoser_kd.network.markov import MarkovChain
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

    network = RoadNetwork.load(artifacts["road_network"].path)
    train, test = (Trajectories.load(artifacts["trajectories"].path / f"{split}.arrow") for split in ("train", "test"))
    MarkovChain.fit(train, network)
    MarkovChain.fit(train, network, order=2)
    ClassSpeeds.fit(train, network)
    return {"copied": int(copied(test, train).sum())}


# -- all stages ---------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> None:
    """Run the stages that are missing in the results, size by size."""
    for trips in args.trips:
        folder = args.folder / f"{args.roads}-{trips}"
        folder.mkdir(parents=True, exist_ok=True)
        known = {
            row["stage"]: row for row in _read(args.results) if (row["roads"], row["trips"]) == (args.roads, trips)
        }
        for stage in ("city", *STAGES):
            if stage in known or (args.until and args.until < time.strftime("%H:%M", time.gmtime())):
                continue
            if args.stages and stage not in (*args.stages, "city"):
                continue
            versions = {row["stage"]: row["version"] for row in known.values() if "version" in row}
            row = {"stage": stage, "roads": args.roads, "trips": trips, **_in_child(stage, folder, versions, args)}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            if "error" in row:
                break
            known[stage] = row
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if not args.keep:
            shutil.rmtree(folder)


def _in_child(stage: str, folder: Path, versions: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """Run a stage in a fork of this process, which has imported everything, and watch its memory."""
    result_file = folder / "result.json"
    result_file.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _here(stage, folder, versions, args, result_file)
            status = 0
        except BaseException:  # noqa: BLE001  the process ends here, whatever happened
            traceback.print_exc()
        finally:
            os._exit(status)
    own = 0
    while not os.waitpid(child, os.WNOHANG)[0]:
        own = max(own, own_bytes(child))
        time.sleep(_POLL_S)
    result = json.loads(result_file.read_text()) if result_file.is_file() else {"error": "see above"}
    return {**result, "wall_s": round(time.monotonic() - began, 1), "own_gib": round(own / _GIB, 2)}


def own_bytes(pid: int) -> int:
    """Return the memory of a process that is not mapped from files."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
    return 0


def _here(stage: str, folder: Path, versions: dict[str, str], args: argparse.Namespace, result_file: Path) -> None:
    trips = int(folder.name.split("-")[1])
    if stage == "city":
        result = write_city(args.roads, trips, folder)
    else:
        result = run_stage(stage, folder, versions, args.steps, args.zones)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)}
    result_file.write_text(json.dumps(result))


def _import_everything() -> None:
    """Import what the stages import, once, so that the times are those of the work."""
    import torch

    for module in ("pipeline.stages.all", "pipeline.checks", "pipeline.run", "plots", "teacher.training", "lmtad"):
        importlib.import_module(f"hoser_kd.{module}")
    torch.set_num_threads(1)


# -- table and plot -----------------------------------------------------------------------------------------------


def slopes(rows: list[dict[str, Any]], stage: str, value: str) -> tuple[float | None, float | None]:
    """Return how much a value grows per trip at the same number of roads, and per road; None if not measured.

    Per road: from the smallest to the largest network, less what the other trips account for.
    """
    of_stage = sorted((row for row in rows if row["stage"] == stage), key=lambda row: (row["roads"], row["trips"]))
    per_trip = None
    for roads in {row["roads"] for row in of_stage}:
        same = [row for row in of_stage if row["roads"] == roads]
        if len(same) > 1:
            per_trip = (same[-1][value] - same[0][value]) / (same[-1]["trips"] - same[0]["trips"])
    first, last = of_stage[0], of_stage[-1]
    if per_trip is None or first["roads"] == last["roads"]:
        return per_trip, None
    of_trips = per_trip * (last["trips"] - first["trips"])
    return per_trip, (last[value] - first[value] - of_trips) / (last["roads"] - first["roads"])


def write_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a row per stage, a column per size, and the slopes."""
    sizes = sorted({(row["roads"], row["trips"]) for row in rows})
    heads = [f"{roads:,} roads, {trips:,} trips" for roads, trips in sizes]
    yield "| stage | " + " | ".join([*heads, "bytes per trip", "bytes per road"]) + " |"
    yield "|---" * (len(sizes) + 3) + "|"
    for stage in ("city", *STAGES):
        found = {(row["roads"], row["trips"]): row for row in rows if row["stage"] == stage}
        if not found:
            continue
        cells = [_cell(found.get(size)) for size in sizes]
        measured = slopes(rows, stage, "own_gib")
        cells += ["" if slope is None else f"{max(slope, 0.0) * _GIB:,.0f}" for slope in measured]
        yield f"| `{stage}` | " + " | ".join(cells) + " |"


def extrapolate(rows: list[dict[str, Any]], roads: int, trips: int) -> Iterator[str]:
    """Yield the lines of a table of what each stage would need, from the largest size measured.

    Memory that does not grow with the trips is taken to grow with the roads, all of it but the libraries. CPU time is
    that of the slope per trip, and the rest grows with the roads. With one size, it grows with the roads in the stages
    of the network, and with the larger of both ratios in the others.
    """
    yield f"| stage | own memory at {roads:,} roads and {trips:,} trips, GiB | CPU time (of a step: as measured) |"
    yield "|---|---|---|"
    for stage in STAGES:
        of_stage = sorted((row for row in rows if row["stage"] == stage), key=lambda row: (row["roads"], row["trips"]))
        if of_stage:
            last = of_stage[-1]
            memory = _grown(last, slopes(rows, stage, "own_gib")[0] or 0.0, "own_gib", _LIBRARIES_GIB, roads, trips)
            per_trip = slopes(rows, stage, "cpu_s")[0]
            ratio = roads / last["roads"] if stage in _OF_ROADS else max(roads / last["roads"], trips / last["trips"])
            seconds = last["cpu_s"] * ratio if per_trip is None else _grown(last, per_trip, "cpu_s", 0.0, roads, trips)
            step = f"{last['step_ms'] / 1000:.2f} s a step" if "step_ms" in last else _duration(seconds)
            yield f"| `{stage}` | {memory:.1f} | {step} |"


def _grown(row: dict[str, Any], per_trip: float, value: str, fixed: float, roads: int, trips: int) -> float:
    of_roads = max(row[value] - fixed - max(per_trip, 0.0) * row["trips"], 0.0)
    return fixed + of_roads * roads / row["roads"] + max(per_trip, 0.0) * trips


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 0.1):.1f} min"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    step = f", {row['step_ms']:,.0f} ms a step" if "step_ms" in row else ""
    return f"{row['cpu_s']:,.0f} s, {row['peak_gib']:.2f} GiB ({row['own_gib']:.2f}){step}"


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot own memory and CPU time of each stage against the number of trips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    stages = [stage for stage in STAGES if any(row["stage"] == stage for row in rows)]
    most = max(row["roads"] for row in rows)
    for number, stage in enumerate(stages):
        for roads in sorted({row["roads"] for row in rows}):
            same = sorted(
                (row for row in rows if row["stage"] == stage and row["roads"] == roads), key=lambda row: row["trips"]
            )
            for place, value in zip(axes, ("own_gib", "cpu_s"), strict=True):
                place.loglog(
                    [row["trips"] for row in same],
                    [max(row[value], 0.1) for row in same],
                    "o-" if roads == most else "x:",
                    color=f"C{number % 10}",
                    alpha=1.0 if number < 10 else 0.5,
                    label=stage if roads == most else None,
                )
    axes[0].axhline(20, color="k", lw=0.8, ls="--")
    axes[0].set(xlabel="training trips", ylabel="peak memory of the process, GiB")
    axes[1].set(xlabel="training trips", ylabel="CPU seconds, one thread")
    for place in axes:
        place.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(file, dpi=110)


def _disk_gib(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / _GIB, 3)


def _read(results: Path | None) -> list[dict[str, Any]]:
    if results is None or not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roads", type=int, default=100_000)
    parser.add_argument("--trips", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--folder", type=Path, default=Path("scale"), help="files of the cities and the store")
    parser.add_argument("--results", type=Path, help="file of JSON lines (default: results.jsonl in the folder)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="only these, whose inputs exist")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of teacher and student")
    parser.add_argument("--zones", choices=["kahip", "bisection"], default="bisection")
    parser.add_argument("--until", help="start no stage after this time of day (UTC), such as 16:20")
    parser.add_argument("--keep", action="store_true", help="keep the files of each city")
    parser.add_argument("--table", action="store_true", help="print the results as a table, and measure nothing")
    parser.add_argument(
        "--extrapolate", type=int, nargs=2, metavar=("ROADS", "TRIPS"), help="print what these would need"
    )
    parser.add_argument("--plot", type=Path, help="PNG to write of the results")
    args = parser.parse_args()
    args.folder, args.results = args.folder.resolve(), args.results or args.folder / "results.jsonl"
    if args.table:
        sys.stdout.write("\n".join(write_table(_read(args.results))) + "\n")
    if args.extrapolate:
        sys.stdout.write("\n".join(extrapolate(_read(args.results), *args.extrapolate)) + "\n")
    if args.plot:
        draw(_read(args.results), args.plot)
    if not (args.table or args.plot or args.extrapolate):
        args.folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {"OMP_NUM_THREADS": "1"}
        _import_everything()
        measure(args)


if __name__ == "__main__":
    main()
