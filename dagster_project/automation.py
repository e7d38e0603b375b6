"""Sensors and a schedule: record new cities, settings and raw files; if enabled, retrain.

Belongs here: when a job is launched. Does not belong here: what a job does. No training starts automatically until
`retrain_on_change` or `weekly_retraining` is enabled.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.freshness import retrains_weekly
from assets.partitions import city_partitions
from assets.settings import CODE_VERSION, settings_shown, settings_version
from assets.stage_asset import SETTINGS_PREFIX
from dagster_project.city_state import Observation, observe_cities, read_content, read_cursor, write_cursor
from dagster_project.full_pipeline import full_pipeline
from dagster_project.jobs import prepare_city
from dagster_project.records import latest_record, recorded_version
from dagster_project.resources import Pipeline
from hoser_kd.common.hashing import digest_json
from hoser_kd.config.city_names import city_files, why_no_city
from hoser_kd.network.sources import kind_of
from hoser_kd.pipeline.graph import STAGES

_REASON_TAG = "hoser_kd/because"
_PREPARED_SECTIONS = ("source", "map", "points", "matching", "split", "rows", "zones", "grid")
"""Settings sections that `prepare_city` depends on. A change in another section shows as stale and launches nothing."""


@dg.sensor(
    jobs=[prepare_city],
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Watches the YAML and raw files of the cities. A new city becomes a partition; a changed setting marks "
    "the assets that depend on it as stale at once; new or changed roads, trips, zones or grid settings launch "
    "prepare_city once, after they have stayed the same for two ticks. A copy with the same content is no change. "
    "Never trains and never downloads.",
)
def city_watch(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Record new and changed cities, and request `prepare_city` where it is affected."""
    folder, states = Path(pipeline.config_folder), read_cursor(context.cursor)
    events: list[dg.AssetMaterialization] = []
    requests: list[dg.RunRequest] = []
    messages: list[str] = []
    for observation in observe_cities(folder, states, messages):
        events += [
            _settings_event(observation.city, section, values) for section, values in observation.changed.items()
        ]
        outcome = _preparation(context.instance, observation)
        if isinstance(outcome, dg.RunRequest):
            requests.append(outcome)
        elif outcome is not None:
            messages.append(outcome)
    names = [file.stem for file in city_files(folder)]
    known = set(context.instance.get_dynamic_partitions("city"))
    new = [city for city in names if city not in known]
    impossible = sorted(filter(why_no_city, known))
    known.difference_update(impossible)
    messages += [f"{city}: its YAML is gone; its artifacts are kept." for city in sorted(known.difference(names))]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(messages) or "Nothing new.",
        cursor=write_cursor(states),
        dynamic_partitions_requests=[
            *([city_partitions.build_add_request(new)] if new else []),
            *([city_partitions.build_delete_request(impossible)] if impossible else []),
        ],
        asset_events=events,
    )


def _preparation(instance: dg.DagsterInstance, observation: Observation) -> dg.RunRequest | str | None:
    """Return the request to prepare a city, why there is none, or None if nothing has changed."""
    city, state = observation.city, observation.state
    if state.raw_signature is None:
        return f"{city}: waits for its raw files."
    content = read_content(observation.config, state) if observation.is_stable else None
    current = digest_json([content, [state.section_versions[section] for section in _PREPARED_SECTIONS]])
    if content is None or current == state.handled:
        return None
    state.handled = current
    if _is_prepared(instance, observation):
        return f"{city}: already prepared."
    if (
        kind_of(observation.config.source).downloads
        and latest_record(instance, dg.AssetKey("source_files"), city) is None
    ):
        return f"{city}: launch prepare_city to download it."
    state.num_requests += 1
    return dg.RunRequest(
        f"{city}/{state.num_requests}/{current}",
        partition_key=city,
        tags={_REASON_TAG: "raw files or their settings are new"},
    )


def _settings_event(city: str, section: str, values: Mapping[str, Any]) -> dg.AssetMaterialization:
    """Return the materialization that `prepare_city` would record for a settings section."""
    return dg.AssetMaterialization(
        [SETTINGS_PREFIX, section],
        partition=city,
        metadata=settings_shown(values),
        tags={"dagster/data_version": settings_version(section, values).value, "dagster/code_version": CODE_VERSION},
    )


def _is_prepared(instance: dg.DagsterInstance, observation: Observation) -> bool:
    """Return whether the latest `prepare_city` of a city used exactly these raw files and settings."""
    record = latest_record(instance, dg.AssetKey("grid_token_table"), observation.city)
    if record is None:
        return False

    def version(*key: str) -> str | None:
        return recorded_version(instance, dg.AssetKey(key), observation.city, before=record.storage_id)

    if (
        kind_of(observation.config.source).is_external
        and version("source_files") != (observation.state.content_digest or "")[:16]
    ):
        return False
    versions = observation.state.section_versions
    return all(versions[section] == version(SETTINGS_PREFIX, section) for section in _PREPARED_SECTIONS)


@dg.sensor(
    job=full_pipeline,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Off by default. Launches full_pipeline once per change of raw files or settings of a trained city, "
    "with the seeds it was trained with. Changes from before the sensor was enabled do not count.",
)
def retrain_on_change(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Request `full_pipeline` for cities that have changed since the sensor was enabled."""
    states = read_cursor(context.cursor)
    requests: list[dg.RunRequest] = []
    messages: list[str] = []
    for observation in observe_cities(Path(pipeline.config_folder), states, messages):
        city, state = observation.city, observation.state
        content = read_content(observation.config, state) if observation.is_new or observation.is_stable else None
        current = digest_json([content, state.section_versions])
        if observation.is_new:
            state.handled = current
        elif content is not None and current != state.handled:
            state.handled = current
            if seeds := trained_seeds(context.instance, city):
                state.num_requests += 1
                key = f"{city}/{state.num_requests}/{current}"
                requests.append(_retraining(key, city, seeds, "raw files or settings have changed"))
            else:
                messages.append(f"{city}: not trained yet.")
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(messages) or "Nothing has changed.",
        cursor=write_cursor(states),
    )


@dg.schedule(
    job=full_pipeline,
    cron_schedule="0 2 * * 0",
    default_status=dg.DefaultScheduleStatus.RUNNING if retrains_weekly() else dg.DefaultScheduleStatus.STOPPED,
    description="Off by default; HOSER_KD_WEEKLY=1 turns it on, and reports older than eight days are then overdue. "
    "Sundays at 2:00 UTC: launches full_pipeline for every trained city with its seeds. Results that are still current "
    "are reused, which takes seconds.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request `full_pipeline` for every trained city."""
    trained = {
        city: seeds
        for city in context.instance.get_dynamic_partitions("city")
        if (seeds := trained_seeds(context.instance, city))
    }
    if not trained:
        yield dg.SkipReason("No city has been trained yet.")
    for city, seeds in trained.items():
        yield _retraining(f"{city}:{context.scheduled_execution_time.date()}", city, seeds, "weekly retraining")


def trained_seeds(instance: dg.DagsterInstance, city: str) -> list[int]:
    """Return the seeds of all students of a city that have been materialized in this instance, sorted."""
    seeds: set[int] = set()
    for stage in STAGES.values():
        if stage.group == "student":
            for key in instance.get_materialized_partitions(dg.AssetKey(stage.name)):
                of_city, seed = key.split("|")
                if of_city == city:
                    seeds.add(int(seed))
    return sorted(seeds)


def _retraining(run_key: str, city: str, seeds: list[int], reason: str) -> dg.RunRequest:
    config = {"ops": {"begin": {"config": {"seeds": seeds}}}}
    return dg.RunRequest(run_key, run_config=config, partition_key=city, tags={_REASON_TAG: reason})
