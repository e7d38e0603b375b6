"""The code location that `dagster dev` and `dg dev` load. Building it imports neither torch nor geopandas."""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg

# Partitions with two dimensions are in beta in this version of Dagster, which is pinned.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

import assets  # noqa: E402
from assets.partitions import CONFIG_FOLDER  # noqa: E402
from dagster_project.automation import city_watch, retrain_on_change, weekly_retraining  # noqa: E402
from dagster_project.executors import executor_of  # noqa: E402
from dagster_project.full_pipeline import full_pipeline, full_pipeline_steps  # noqa: E402
from dagster_project.jobs import jobs_of, run_study  # noqa: E402
from dagster_project.paths import store_root as default_store_root  # noqa: E402
from dagster_project.plain_logger import plain_logger  # noqa: E402
from dagster_project.resources import ArtifactIOManager, Pipeline  # noqa: E402
from dagster_project.sqlite_engines import keep_engines  # noqa: E402
from dagster_project.verification import verify_store, weekly_verification  # noqa: E402

# every process that runs a job or serves the code location
keep_engines()


def build_defs(
    config_folder: Path | None = None,
    store_root: str | None = None,
    executor: dg.ExecutorDefinition | str | None = None,
) -> dg.Definitions:
    """Assemble the graph.

    Defaults: HOSER_KD_CONFIG or `config/`, HOSER_KD_STORE or `data/`, HOSER_KD_EXECUTOR or `multiprocess`.

    Raises ConfigError if there is no such executor.
    """
    folder = config_folder or CONFIG_FOLDER
    pipeline = Pipeline(config_folder=str(folder), store_root=store_root or default_store_root())
    jobs = jobs_of(folder)
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(assets),
        jobs=[*jobs, full_pipeline, run_study, verify_store],
        # a job and the sensors that request it must be the same objects
        sensors=[
            city_watch.with_updated_jobs([job for job in jobs if job.name == city_watch.job_name]),
            full_pipeline_steps.with_updated_jobs(jobs),
            retrain_on_change,
        ],
        schedules=[weekly_retraining, weekly_verification],
        resources={"pipeline": pipeline, "artifacts": ArtifactIOManager(pipeline)},
        loggers={"console": dg.colored_console_logger, "plain": plain_logger},
        executor=executor_of(executor),
    )


defs = build_defs()
