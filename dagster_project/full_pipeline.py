"""`full_pipeline`: launch one thing, and the whole city is made, from raw files to the report.

A run has one partition, so stages of a city and stages of a city and a seed cannot share one. The job says which city
and which seeds; a sensor starts each job when the one before it has succeeded, by the tag that all runs of the chain
carry. A run that fails or is canceled stops the chain; re-executed with success, it lets the chain go on.
"""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from assets.partitions import SEEDS, city_partitions
from dagster_project.jobs import JOBS, distill, evaluate, prepare_city, report, train_teacher
from hoser_kd.common.errors import HoserKdError

CHAIN_TAG = "hoser_kd/full_pipeline"
"""Carried by all runs of a chain: the id of the run of `full_pipeline` that began it."""
CITY_TAG = "hoser_kd/city"
SEEDS_TAG = "hoser_kd/seeds"


class FullPipeline(dg.Config):
    """What to make."""

    seeds: list[int] = Field(
        default=[0], description="Seeds of the students; the report compares over all seeds there are."
    )


@dg.op(required_resource_keys={"pipeline"}, description="Check settings and seeds; the sensor does the rest.")
def begin(context: dg.OpExecutionContext, config: FullPipeline) -> None:
    """Refuse what cannot work before anything runs, and say how to follow the chain."""
    unknown = [seed for seed in config.seeds if str(seed) not in SEEDS]
    if unknown or not config.seeds:
        raise dg.Failure(
            f"Seeds {unknown or 'missing'}: choose among {', '.join(SEEDS)}; HOSER_KD_SEEDS sets how many there are.",
            allow_retries=False,
        )
    try:
        context.resources.pipeline.config(context.partition_key)
    except HoserKdError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(
        "The jobs follow by themselves, while the sensor full_pipeline_steps is on: all runs with the tag %s = %s.",
        CHAIN_TAG,
        context.run_id,
    )


@dg.job(
    partitions_def=city_partitions,
    executor_def=dg.in_process_executor,
    config=dg.RunConfig(ops={"begin": FullPipeline()}),
    description="Make a whole city: prepare_city, train_teacher, then distill and evaluate for each seed, then the "
    "report. This run only begins; the others follow as the sensor full_pipeline_steps sees each succeed, "
    f"all with the tag {CHAIN_TAG}.",
)
def full_pipeline() -> None:
    """Begin."""
    begin()


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[full_pipeline, *JOBS],
    request_jobs=list(JOBS),
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts the next job of a full_pipeline when one has succeeded. Runs that do not belong to one are "
    "left alone.",
)
def full_pipeline_steps(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for what follows the run that has succeeded."""
    run = context.dagster_run
    if run.job_name == full_pipeline.name:
        city = run.tags["dagster/partition"]
        config = run.run_config.get("ops", {}).get("begin", {}).get("config", {})
        seeds = [str(seed) for seed in config.get("seeds", FullPipeline().seeds)]
        chain = {CHAIN_TAG: run.run_id, CITY_TAG: city, SEEDS_TAG: ",".join(seeds)}
        yield _request(prepare_city.name, chain)
        return
    if CHAIN_TAG not in run.tags:
        yield dg.SkipReason(f"{run.job_name} of {run.tags.get('dagster/partition')} was launched by itself.")
        return
    chain = {tag: run.tags[tag] for tag in (CHAIN_TAG, CITY_TAG, SEEDS_TAG)}
    seeds = chain[SEEDS_TAG].split(",")
    if run.job_name == prepare_city.name:
        yield _request(train_teacher.name, chain)
    elif run.job_name == train_teacher.name:
        for seed in seeds:
            yield _request(distill.name, chain, seed)
    elif run.job_name == distill.name:
        yield _request(evaluate.name, chain, run.tags["dagster/partition/seed"])
    elif run.job_name == evaluate.name:
        done = {
            other.tags["dagster/partition/seed"]
            for other in context.instance.get_runs(
                dg.RunsFilter(
                    job_name=evaluate.name, statuses=[dg.DagsterRunStatus.SUCCESS], tags={CHAIN_TAG: chain[CHAIN_TAG]}
                )
            )
        }
        waiting = [seed for seed in seeds if seed not in done]
        if waiting:
            yield dg.SkipReason(f"The report waits for seeds {', '.join(waiting)}.")
        else:
            yield _request(report.name, chain)


def _request(job: str, chain: dict[str, str], seed: str | None = None) -> dg.RunRequest:
    """The key lets a step of a chain start once, however often the step before it succeeds."""
    city = chain[CITY_TAG]
    key = city if seed is None else dg.MultiPartitionKey({"city": city, "seed": seed})
    return dg.RunRequest(f"{chain[CHAIN_TAG]}:{job}:{key}", job_name=job, partition_key=key, tags=chain)
