"""Materialize all assets of a city in this process, in the instance that `make dev` shows, and print a summary.

Run as `python -m dagster_project.demo --city demo --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time

import dagster as dg

from assets.partitions import CONFIG_FOLDER, SEEDS, cities
from dagster_project.dead_runs import end_dead_runs, process_tag
from dagster_project.definitions import build_defs
from dagster_project.jobs import JOBS, distill, evaluate
from dagster_project.paths import store_root
from dagster_project.records import recorded_version
from dagster_project.storage import require_database
from hoser_kd.common.errors import ConfigError, HoserKdError, StoreError
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
    options = parser.parse_args()
    started = time.monotonic()
    try:
        require_database()
        _validate(options.city, options.seeds)
        with dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral() as instance:
            run_all(instance, options.city, options.seeds, options.only)
            if not options.only:
                sys.stdout.write(summary(instance, options.city, options.seeds, time.monotonic() - started))
    except (HoserKdError, dg.DagsterError) as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
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


def run_all(instance: dg.DagsterInstance, city: str, seeds: list[str], only: list[str] | None = None) -> None:
    """Run all jobs of a city, or those named in `only`, for the given seeds, one after another in this process.

    Raises the error of the first step that fails.
    """
    definitions = build_defs()
    for run_id in end_dead_runs(instance):
        sys.stderr.write(f"run {run_id} was killed; its finished work is reused\n")
    instance.add_dynamic_partitions("city", [city])
    per_seed = [dg.MultiPartitionKey({"city": city, "seed": seed}) for seed in seeds]
    plan = [
        (job, key)
        for job in JOBS
        if only is None or job.name in only
        for key in (per_seed if job in (distill, evaluate) else [city])
    ]
    for number, (job, key) in enumerate(plan, 1):
        started = time.monotonic()
        sys.stderr.write(f"[{number}/{len(plan)}] {job.name} {key}\n")
        definitions.resolve_job_def(job.name).execute_in_process(
            instance=instance, partition_key=key, run_config={"loggers": {"plain": {}}}, tags=process_tag()
        )
        sys.stderr.write(f"      done in {duration(time.monotonic() - started)}\n")


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
    report = artifact("distillation_report")
    heading = (
        f"{city}: {network['num_roads']} roads, {trips['num_trips']} trips, seeds {report.summary['seeds']}; completed "
        f"in {duration(seconds)}"
    )
    lines = ["", heading, "", *report.summary["verdict"].splitlines(), ""]
    texts = [line for text in lines for line in textwrap.wrap(text, 116, subsequent_indent="  ") or [""]]
    files = [f"{name:<7} {report.path / file}" for name, file in REPORT_FILES.items() if (report.path / file).is_file()]
    texts += [*files, "UI      make dev, then http://localhost:3000", ""]
    return "\n".join(f"  {text}".rstrip() for text in texts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
