"""Materialize all assets of a city in the instance that `make dev` shows, and print a summary.

Jobs that do not depend on each other run side by side, each in a separate process, as many as the cores have threads
for (--jobs) and as the pool `gpu` allows.

Run as `python -m dagster_project.demo --city demo --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from hoser_kd.common.side_by_side import Send, SideBySide, begin_preload
from hoser_kd.common.threads import available_cores, num_jobs

_PRELOAD = ["dagster_project.preload"]
_RUNS_HERE = {"-h", "--help", "--only"}
"""Options with which nothing, or usually one job, runs."""
if __name__ == "__main__" and os.environ.get("DAGSTER_HOME") and num_jobs() > 1 and _RUNS_HERE.isdisjoint(sys.argv):
    begin_preload(_PRELOAD)  # the imports below take seconds too

import dagster as dg

from assets.partitions import CONFIG_FOLDER, SEEDS, cities
from assets.pool import num_slots
from dagster_project.dead_runs import end_dead_runs, process_tag
from dagster_project.definitions import build_defs
from dagster_project.jobs import JOBS, distill, evaluate, prepare_city, report, train_teacher, train_vanilla
from dagster_project.paths import store_root
from dagster_project.records import recorded_version
from dagster_project.storage import require_database
from hoser_kd.common.errors import ConfigError, HoserKdError, ProcessError, StoreError
from hoser_kd.common.progress import duration
from hoser_kd.config.loading import load_config
from hoser_kd.pipeline.store import Artifact, Store

REPORT_FILES = {"report": "report.html", "map": "map.html"}
"""Files of the report that the closing screen names."""


def main() -> int:
    """Run the jobs in order and return the exit status."""
    parser = argparse.ArgumentParser(description="Materialize all assets of a city.")
    parser.add_argument("--city", default="demo", help=f"one of {', '.join(cities())}")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="seeds of the students")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[job.name for job in JOBS],
        metavar="JOB",
        help=f"run only these jobs, without the summary: {', '.join(job.name for job in JOBS)}",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=num_jobs(),
        help="jobs that run side by side (default: $HOSER_KD_JOBS, or the number of cores over $OMP_NUM_THREADS)",
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        require_database()
        _validate(options.city, options.seeds)
        with dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral() as instance:
            run_all(instance, options.city, options.seeds, options.only, options.jobs)
            if not options.only:
                sys.stdout.write(summary(instance, options.city, options.seeds, time.monotonic() - started))
    except (HoserKdError, dg.DagsterError) as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        sys.stderr.write("\ndemo: interrupted. Finished work is kept; the same command resumes from there.\n")
        return 130
    return 0


def _validate(city: str, seeds: list[str]) -> None:
    """Raise ConfigError if the city, a seed or the YAML is not valid, StoreError if the store is not."""
    if city not in cities():
        raise ConfigError(f"config/{city}.yaml does not exist. Cities: {', '.join(cities())}.")
    unknown = [seed for seed in seeds if seed not in SEEDS]
    if unknown:
        raise ConfigError(
            f"unknown seeds {', '.join(unknown)}: valid seeds are {', '.join(SEEDS)}. The environment variable "
            "HOSER_KD_SEEDS sets their number."
        )
    load_config(CONFIG_FOLDER / f"{city}.yaml")
    Store(store_root()).require_reachable()


def run_all(
    instance: dg.DagsterInstance, city: str, seeds: list[str], only: list[str] | None = None, jobs: int = 1
) -> None:
    """Run all jobs of a city, or those named in `only`, for the given seeds, up to `jobs` at the same time.

    Raises the error of the first step that fails; runs beside it are ended.
    """
    for run_id in end_dead_runs(instance):
        sys.stderr.write(f"run {run_id} was killed; its finished work is reused\n")
    instance.add_dynamic_partitions("city", [city])
    # the runs of an ephemeral instance are in the memory of its process
    side_by_side = instance.is_persistent and jobs > 1
    plan = _plan(city, seeds, only, vanilla_first=side_by_side and num_slots(instance) > 1)
    if side_by_side and len(plan) > 1:
        try:
            _run_side_by_side(plan, jobs)
        finally:
            end_dead_runs(instance)
        return
    definitions = build_defs()
    for number, run in enumerate(plan, 1):
        started = time.monotonic()
        sys.stderr.write(f"[{number}/{len(plan)}] {run}\n")
        run.execute(definitions, instance)
        sys.stderr.write(f"      done in {duration(time.monotonic() - started)}\n")


@dataclass(frozen=True)
class _JobRun:
    """One run of a job: for a city, or for a city and a seed."""

    job: str
    city: str
    seed: str | None = None
    assets: tuple[str, ...] | None = None
    """The only assets that the run materializes; None: all of the job."""

    def __str__(self) -> str:
        return f"{self.job} {self.city}" + ("" if self.seed is None else f"|{self.seed}")

    def execute(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        """Execute the job in this process."""
        key = self.city if self.seed is None else dg.MultiPartitionKey({"city": self.city, "seed": self.seed})
        definitions.resolve_job_def(self.job).execute_in_process(
            instance=instance,
            partition_key=key,
            run_config={"loggers": {"plain": {}}},
            tags=process_tag(),
            asset_selection=None if self.assets is None else [dg.AssetKey(name) for name in self.assets],
        )


def _plan(city: str, seeds: list[str], only: list[str] | None, *, vanilla_first: bool) -> dict[_JobRun, set[_JobRun]]:
    """Return the runs of a city in order, each with the runs that it waits for.

    `vanilla_first`: train the vanilla students beside the teacher and the distilled students, which wait for them only
    where these read them.
    """
    alone = None
    if vanilla_first and not only and not load_config(CONFIG_FOLDER / f"{city}.yaml").reads_vanilla_student:
        alone = ("off_path_labels", "distilled_student")
    names = [job.name for job in JOBS if (job.name in only if only else vanilla_first or job is not train_vanilla)]
    plan: dict[_JobRun, set[_JobRun]] = {}
    for name in names:
        per_seed = name in _PER_SEED
        assets = alone if name == distill.name else None
        needed = set(_NEEDS[name]) - ({train_vanilla.name} if assets else set())
        for run in [_JobRun(name, city, seed, assets) for seed in seeds] if per_seed else [_JobRun(name, city)]:
            plan[run] = {
                other
                for other in plan
                if other.job in needed and (other.seed is None or run.seed in {None, other.seed})
            }
    return plan


_PER_SEED = {job.name for job in (train_vanilla, distill, evaluate)}
_GENERATING = {evaluate.name, report.name}
"""Jobs that generate trips and compute their metrics."""
_NEEDS = {
    prepare_city.name: (),
    train_teacher.name: (prepare_city.name,),
    train_vanilla.name: (prepare_city.name,),
    distill.name: (prepare_city.name, train_teacher.name, train_vanilla.name),
    evaluate.name: (distill.name, train_vanilla.name),
    report.name: (train_teacher.name, evaluate.name),
}
"""Jobs whose runs a job waits for, if they are run too."""


def _run_side_by_side(plan: Mapping[_JobRun, set[_JobRun]], jobs: int) -> None:
    """Run a plan in processes."""
    order = TopologicalSorter(plan)
    order.prepare()
    waiting: list[_JobRun] = []
    started: dict[_JobRun, float] = {}
    with SideBySide(_PRELOAD) as processes:
        compiles = available_cores() > 1 and not _GENERATING.isdisjoint(run.job for run in plan)
        while order.is_active():
            waiting = sorted([*waiting, *order.get_ready()], key=list(plan).index)
            while waiting and processes.num_running < jobs:
                run = waiting.pop(0)
                started[run] = time.monotonic()
                sys.stderr.write(f"[{len(started)}/{len(plan)}] {run}\n")
                processes.start(run, _execute_in_process, run)
            if compiles:  # the first job leaves a core idle
                processes.start_aside(_compile_loops)
                compiles = False
            message = processes.receive()
            assert isinstance(message.key, _JobRun)
            seconds = time.monotonic() - started[message.key]
            sys.stderr.write(f"      {message.key} done in {duration(seconds)}\n")
            order.done(message.key)


def _compile_loops() -> None:
    """Compile what the runs of `_GENERATING` would compile themselves in a fresh clone, each of them."""
    from hoser_kd.evaluation.compilation import compile_loops

    compile_loops()


def _execute_in_process(_send: Send, run: _JobRun) -> None:
    with dg.DagsterInstance.get() as instance:
        try:
            run.execute(build_defs(), instance)
        except (dg.DagsterError, dg.Failure) as error:
            raise ProcessError(str(error)) from None


def summary(instance: dg.DagsterInstance, city: str, seeds: list[str], seconds: float) -> str:
    """Return the closing screen: the data, the verdict of the report, the best baselines, and where the files are.

    Raises StoreError if a stage of one of the seeds is not materialized.
    """
    store = Store(store_root())

    def artifact(stage: str, seed: str | None = None) -> Artifact:
        key = city if seed is None else dg.MultiPartitionKey({"city": city, "seed": seed})
        version = recorded_version(instance, dg.AssetKey(stage), key)
        if version is None:
            raise StoreError(f"{stage} of {key} is not materialized. Materialize it first.")
        return store.open(stage, city, version, None if seed is None else int(seed))

    for seed in seeds:
        artifact("trajectory_metrics", seed)
    network, trips = (artifact(stage).summary for stage in ("road_network", "trajectories"))
    report_artifact = artifact("distillation_report")
    heading = (
        f"{city}: {network['num_roads']} roads, {trips['num_trips']} trips, seeds {report_artifact.summary['seeds']}; "
        f"completed in {duration(seconds)}"
    )
    lines = ["", heading, "", *report_artifact.summary["verdict"].splitlines(), ""]
    texts = [line for text in lines for line in textwrap.wrap(text, 116, subsequent_indent="  ") or [""]]
    files = [
        f"{name:<7} {report_artifact.path / file}"
        for name, file in REPORT_FILES.items()
        if (report_artifact.path / file).is_file()
    ]
    texts += [*files, "UI      make dev, then http://localhost:3000", ""]
    return "\n".join(f"  {text}".rstrip() for text in texts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
