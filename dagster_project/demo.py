"""Materialize the whole graph of a city in this process, into the instance that `make dev` shows; say what came out.

Run as `python -m dagster_project.demo --city demo --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import dagster as dg

from assets.partitions import CONFIG_FOLDER, SEEDS, cities
from dagster_project.dead_runs import end_dead_runs, process_tag
from dagster_project.definitions import DEFAULT_STORE, build_defs
from dagster_project.jobs import JOBS, distill, evaluate
from hoser_kd.common.errors import ConfigError, HoserKdError
from hoser_kd.common.progress import duration
from hoser_kd.config.loading import load_config
from hoser_kd.pipeline.store import Artifact, Store


def main() -> int:
    """Run the jobs in order; returns the exit status."""
    parser = argparse.ArgumentParser(description="Materialize the whole graph of a city.")
    parser.add_argument("--city", default="demo", help=f"one of {', '.join(cities())}")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="seeds of the students")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[job.name for job in JOBS],
        metavar="JOB",
        help=f"run only these of {', '.join(job.name for job in JOBS)}, and print no summary",
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        _check(options.city, options.seeds)
        load_config(CONFIG_FOLDER / f"{options.city}.yaml")
        with dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral() as instance:
            run_all(instance, options.city, options.seeds, options.only)
            if not options.only:
                sys.stdout.write(summary(instance, options.city, options.seeds, time.monotonic() - started))
    except (HoserKdError, dg.DagsterError) as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    return 0


def _check(city: str, seeds: list[str]) -> None:
    if city not in cities():
        raise ConfigError(f"there is no config/{city}.yaml. Cities: {', '.join(cities())}.")
    unknown = [seed for seed in seeds if seed not in SEEDS]
    if unknown:
        raise ConfigError(f"seeds {', '.join(unknown)} are not among {', '.join(SEEDS)}; HOSER_KD_SEEDS sets how many.")


def run_all(instance: dg.DagsterInstance, city: str, seeds: list[str], only: list[str] | None = None) -> None:
    """Run every job of a city, or only those named, for the given seeds, one after the other in this process.

    Raises what the first failing step raised.
    """
    definitions = build_defs()
    for run_id in end_dead_runs(instance):
        sys.stderr.write(f"run {run_id} was killed before its end; this one goes on from what it left\n")
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
    """Return the closing screen: what was trained, vanilla against distilled, the report, and how to go on."""
    store = Store(os.environ.get("HOSER_KD_STORE") or DEFAULT_STORE)

    def artifact(stage: str, seed: str | None = None) -> Artifact:
        key = city if seed is None else dg.MultiPartitionKey({"city": city, "seed": seed})
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(stage), asset_partitions=[key])
        event = instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        version = ((event.tags if event else None) or {})["dagster/data_version"]
        return store.open(stage, city, version, None if seed is None else int(seed))

    network, trips, teacher = (artifact(stage).summary for stage in ("road_network", "trajectories", "teacher"))
    resolution = artifact("grid_token_table").summary["resolution"]
    lines = [
        "",
        (
            f"  {city}: {network['num_roads']} roads, {trips['num_trips']} trips, {trips['num_steps']} steps; "
            f"all of it in {duration(seconds)}"
        ),
        (
            f"  teacher: {teacher['layers']} layers, {teacher['parameters']:,} parameters, validation perplexity "
            f"{teacher['val_perplexity']:.2f}; candidates are distinguishable at "
            f"{resolution['distinguishable_share']:.0%} of the choices"
        ),
        "",
        f"  {'seed':>4}  {'figure on test trips':<34}{'vanilla':>10}{'distilled':>11}",
    ]
    for seed in seeds:
        rows = artifact("trajectory_metrics", seed).summary["comparison"]
        for row in rows:
            distilled = row.get("distilled")
            shown = "–" if distilled is None else f"{distilled:.4f}"
            lines.append(f"  {seed:>4}  {row['figure']:<34}{row['vanilla']:>10.4f}{shown:>11}")
    report_path = artifact("distillation_report").path / "report.html"
    lines += ["", f"  report: {report_path}", "  open the UI: make dev, then http://localhost:3000", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
