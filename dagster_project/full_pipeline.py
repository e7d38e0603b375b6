"""The job `full_pipeline` runs a whole city, from raw files to the report, as a chain of runs.

A run has one partition, so assets of a city and assets of a city and seed cannot share a run. `full_pipeline` takes the
city and the seeds; the sensor `full_pipeline_steps` launches each job when its predecessors have succeeded. Where the
pool of the models has several slots, vanilla students train beside the teacher. All runs of a chain carry the same tag.
A failed or canceled run stops the chain; when it is re-executed and succeeds, the chain resumes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg
from pydantic import Field

from assets.partitions import SEEDS, city_partitions
from assets.pool import num_slots
from dagster_project.jobs import JOBS, distill, evaluate, prepare_city, report, train_teacher, train_vanilla
from hoser_kd.common.errors import HoserKdError

CHAIN_TAG = "hoser_kd/full_pipeline"
"""Run tag of all runs of a chain: the id of its first run, that of `full_pipeline`."""
CITY_TAG = "hoser_kd/city"
SEEDS_TAG = "hoser_kd/seeds"
NOTE_TAG = "hoser_kd/note"
_NOTE = "This run only starts the chain. Its results come from the runs of the chain."
"""Shown on the page of the run, which is green after seconds."""
_NEXT = "prepare_city, train_teacher, then distill and evaluate for each seed, then report"
"""The jobs of the chain, in their order."""


class FullPipeline(dg.Config):
    """Run config of `full_pipeline`."""

    seeds: list[int] = Field(
        default=[0],
        description=f"Seeds of the students, each from {SEEDS[0]} to {SEEDS[-1]} (HOSER_KD_SEEDS sets their number). "
        "The report compares over all evaluated seeds.",
    )


@dg.op(
    required_resource_keys={"pipeline"},
    description="Validates settings and seeds. The sensor full_pipeline_steps launches the other jobs.",
)
def begin(context: dg.OpExecutionContext, config: FullPipeline) -> None:
    """Validate the request before starting, and log how to follow the chain."""
    unknown = [seed for seed in config.seeds if str(seed) not in SEEDS]
    if unknown or not config.seeds:
        problem = f"unknown seeds {', '.join(map(str, unknown))}" if unknown else "no seeds given"
        raise dg.Failure(
            f"{problem}: valid seeds are {', '.join(SEEDS)}. HOSER_KD_SEEDS sets their number.",
            allow_retries=False,
        )
    try:
        context.resources.pipeline.config(context.partition_key)
    except HoserKdError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    chain = quote(f"tag:{CHAIN_TAG}={context.run_id}", safe="")
    link = dg.MetadataValue.url(f"/runs?q%5B0%5D={chain}")
    context.add_output_metadata({"note": _NOTE, "next": f"{_NEXT}; each starts by itself", "runs_of_the_chain": link})
    context.log.info(
        "The sensor full_pipeline_steps launches the other jobs while it is on. All runs have the tag %s = %s.",
        CHAIN_TAG,
        context.run_id,
    )


@dg.job(
    partitions_def=city_partitions,
    executor_def=dg.in_process_executor,
    config=dg.RunConfig(ops={"begin": FullPipeline()}),
    tags={NOTE_TAG: _NOTE},
    description=f"Run the whole pipeline of a city: {_NEXT}; "
    "if the pool gpu has several slots, train_vanilla beside train_teacher. This run only validates "
    "the request; the sensor full_pipeline_steps launches each job when its predecessors have succeeded. "
    f" All runs have the tag {CHAIN_TAG}.",
)
def full_pipeline() -> None:
    """Start the chain."""
    begin()


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[full_pipeline, *JOBS],
    request_jobs=list(JOBS),
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches the next job of a full_pipeline when a run of it has succeeded. Ignores all other runs.",
)
def full_pipeline_steps(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request the runs that follow the one that has succeeded."""
    run = context.dagster_run
    if run.job_name == full_pipeline.name:
        seeds = ",".join(str(seed) for seed in _seeds(run.run_config))
        chain = {CHAIN_TAG: run.run_id, CITY_TAG: run.tags["dagster/partition"], SEEDS_TAG: seeds}
        yield _request(prepare_city.name, chain)
        return
    if CHAIN_TAG not in run.tags:
        yield dg.SkipReason(f"{run.job_name} of {run.tags.get('dagster/partition')} is not part of a full_pipeline.")
        return
    chain = {tag: run.tags[tag] for tag in (CHAIN_TAG, CITY_TAG, SEEDS_TAG)}
    if run.job_name == prepare_city.name:
        yield _request(train_teacher.name, chain)
        if num_slots(context.instance) > 1:
            for seed in chain[SEEDS_TAG].split(","):
                yield _request(train_vanilla.name, chain, seed)
    elif run.job_name == train_teacher.name:
        yield from _distill(context.instance, chain, chain[SEEDS_TAG].split(","))
    elif run.job_name == train_vanilla.name:
        if _statuses(context.instance, chain, train_teacher.name) & {dg.DagsterRunStatus.SUCCESS}:
            yield from _distill(context.instance, chain, [run.tags["dagster/partition/seed"]])
        else:
            yield dg.SkipReason("The distilled student waits for the teacher.")
    elif run.job_name == distill.name:
        yield _request(evaluate.name, chain, run.tags["dagster/partition/seed"])
    elif run.job_name == evaluate.name:
        missing = _seeds_to_evaluate(context.instance, chain)
        if missing:
            yield dg.SkipReason(f"The report waits for the evaluation of the seeds {', '.join(missing)}.")
        else:
            yield _request(report.name, chain)


def _seeds(run_config: Mapping[str, Any]) -> list[int]:
    """Return the seeds in the run config of `full_pipeline`; the default if it names none."""
    seeds: list[int] = run_config.get("ops", {}).get("begin", {}).get("config", {}).get("seeds", FullPipeline().seeds)
    return seeds


def _distill(
    instance: dg.DagsterInstance, chain: dict[str, str], seeds: Sequence[str]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request `distill` of each seed, unless the run that trains its vanilla student is not finished."""
    for seed in seeds:
        vanilla = _statuses(instance, chain, train_vanilla.name, seed)
        if vanilla and dg.DagsterRunStatus.SUCCESS not in vanilla:
            yield dg.SkipReason(f"The distilled student of seed {seed} waits for the vanilla student.")
        else:
            yield _request(distill.name, chain, seed)


def _statuses(
    instance: dg.DagsterInstance, chain: dict[str, str], job: str, seed: str | None = None
) -> set[dg.DagsterRunStatus]:
    """Return the statuses of all runs of a job in a chain, of one seed if given; empty if there are none."""
    tags = {CHAIN_TAG: chain[CHAIN_TAG]} | ({} if seed is None else {"dagster/partition/seed": seed})
    return {run.status for run in instance.get_runs(dg.RunsFilter(job_name=job, tags=tags))}


def _seeds_to_evaluate(instance: dg.DagsterInstance, chain: dict[str, str]) -> list[str]:
    """Return the seeds of a chain that no successful run of `evaluate` has covered yet."""
    succeeded = dg.RunsFilter(
        job_name=evaluate.name, statuses=[dg.DagsterRunStatus.SUCCESS], tags={CHAIN_TAG: chain[CHAIN_TAG]}
    )
    evaluated = {run.tags["dagster/partition/seed"] for run in instance.get_runs(succeeded)}
    return [seed for seed in chain[SEEDS_TAG].split(",") if seed not in evaluated]


def _request(job: str, chain: dict[str, str], seed: str | None = None) -> dg.RunRequest:
    """Return the request of a job; its run key launches each step of a chain once, however often its run succeeds."""
    city = chain[CITY_TAG]
    key = city if seed is None else dg.MultiPartitionKey({"city": city, "seed": seed})
    return dg.RunRequest(f"{chain[CHAIN_TAG]}:{job}:{key}", job_name=job, partition_key=key, tags=chain)
