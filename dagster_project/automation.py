"""What starts by itself: taking note of new cities, settings and raw files; and, when switched on, training again.

What belongs here: when something is launched. What does not: what a job does. Training starts by itself only after a
person has switched `retrain_on_change` or `weekly_retraining` on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import city_partitions
from assets.settings import CODE_VERSION, settings_shown, settings_version
from assets.stage_asset import SETTINGS_PREFIX
from dagster_project.full_pipeline import full_pipeline
from dagster_project.jobs import prepare_city
from dagster_project.resources import Pipeline
from hoser_kd.common.errors import ConfigError, DataError, HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import SETTINGS, STAGES

_CHEAP = ("source", "rows", "zones", "grid")
"""Pieces of the settings that `prepare_city` obeys; a change in another one shows as stale and starts nothing."""


@dataclass
class Seen:
    """What is known of a city since the tick before."""

    settings: dict[str, str] = field(default_factory=dict)
    """Data versions of the pieces of its settings."""
    looked_at: str = ""
    """Digest of the whole settings; they are taken apart again only when it changes."""
    raw: str | None = None
    """What changes when a raw file is written, looked at without reading it; None where files are missing."""
    content: str | None = None
    """Digest of what the raw files hold, read again only when `raw` has changed and stayed so; empty where there are
    none."""
    content_of: str = ""
    """The `raw` whose content that is."""
    done: str = ""
    """The state for which a run was asked for, or which was found made already."""
    asked: int = 0
    """How many runs were asked for: what was changed back is a change too, and Dagster starts a key once only."""


def _cities(folder: Path) -> Iterator[tuple[str, CityConfig | ConfigError]]:
    for file in sorted(folder.glob("*.yaml")):
        try:
            yield file.stem, load_config(file)
        except ConfigError as error:
            yield file.stem, error


def look(config: CityConfig, before: Seen) -> tuple[Seen, dict[str, Mapping[str, Any]]]:
    """Return what is seen of a city now, and the pieces of its settings that are others than before."""
    from hoser_kd.network.sources import raw_signature

    now = replace(before, raw=raw_signature(config.source))
    looked_at = digest_json([config.model_dump(mode="json"), _checkpoint_signature(config)])
    if looked_at == before.looked_at:
        return now, {}
    pieces = {name: piece(config) for name, piece in SETTINGS.items()}
    now.settings = {name: settings_version(name, values).value for name, values in pieces.items()}
    now.looked_at = looked_at
    return now, {name: values for name, values in pieces.items() if now.settings[name] != before.settings.get(name)}


def _read(config: CityConfig, seen: Seen) -> str | None:
    """Return the digest of what the raw files hold; None where they have just gone. A copy of them is no change."""
    from hoser_kd.network.sources import content_digest, fetch

    if seen.raw is None:
        return None
    if seen.content is None or seen.content_of != seen.raw:
        try:
            seen.content = content_digest(fetch(config.source, "")) if config.source.kind == "hoser" else ""
        except (OSError, DataError):
            return None
        seen.content_of = seen.raw
    return seen.content


def _checkpoint_signature(config: CityConfig) -> list[list[Any]]:
    """Reading a checkpoint to digest it takes seconds; its size and time tell whether that is needed."""
    if config.distill.ckpt_path is None:
        return []
    path = Path(config.distill.ckpt_path)
    files = sorted(path.iterdir()) if path.is_dir() else [path] * path.is_file()
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@dg.sensor(
    jobs=[prepare_city],
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at the cities' YAML and raw files. A new city becomes a partition; a changed setting shows at "
    "once as stale what it concerns; new or changed roads, trips, zones or grid launch prepare_city, once, "
    "when they have stayed the same between two looks; a copy of the same content is no change. Nothing is "
    "trained, nothing downloaded.",
)
def city_watch(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Take note of what is new and ask for `prepare_city` where it concerns that."""
    known = {city: Seen(**seen) for city, seen in json.loads(context.cursor or "{}").items()}
    names: list[str] = []
    events: list[dg.AssetMaterialization] = []
    requests: list[dg.RunRequest] = []
    said: list[str] = []
    for city, config in _cities(Path(pipeline.config_folder)):
        names.append(city)
        try:
            if isinstance(config, ConfigError):
                raise config
            before = known.get(city, Seen())
            now, changed = look(config, before)
        except HoserKdError as error:
            said.append(str(error))
            continue
        events += [_taken_note(city, piece, values) for piece, values in changed.items()]
        steady = (now.raw, now.looked_at) == (before.raw, before.looked_at)
        content = _read(config, now) if steady else None
        state = digest_json([content, [now.settings[piece] for piece in _CHEAP]])
        if now.raw is None:
            said.append(f"{city}: waits for its raw files.")
        elif content is not None and state != now.done:
            now.done = state
            if _is_made(context.instance, city, config, now):
                said.append(f"{city}: made already.")
            elif config.source.kind == "huggingface" and not _recorded(context.instance, "source_files", city):
                said.append(f"{city}: launch prepare_city to download it.")
            else:
                tags = {"hoser_kd/because": "raw files or their settings are new"}
                now.asked += 1
                requests.append(dg.RunRequest(f"{city}:{now.asked}:{state}", partition_key=city, tags=tags))
        known[city] = now
    have = set(context.instance.get_dynamic_partitions("city"))
    new = [city for city in names if city not in have]
    said += [f"{city}: its YAML is gone; what was made of it stays." for city in sorted(have.difference(names))]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(said) or "Nothing new.",
        cursor=json.dumps({city: asdict(seen) for city, seen in known.items()}),
        dynamic_partitions_requests=[city_partitions.build_add_request(new)] if new else [],
        asset_events=events,
    )


def _taken_note(city: str, piece: str, values: Mapping[str, Any]) -> dg.AssetMaterialization:
    """What `prepare_city` would record of a piece of the settings."""
    return dg.AssetMaterialization(
        [SETTINGS_PREFIX, piece],
        partition=city,
        metadata=settings_shown(values),
        tags={"dagster/data_version": settings_version(piece, values).value, "dagster/code_version": CODE_VERSION},
    )


def _recorded(instance: dg.DagsterInstance, asset: str, city: str) -> dg.EventLogRecord | None:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[city])
    return next(iter(instance.fetch_materializations(wanted, limit=1).records), None)


def _is_made(instance: dg.DagsterInstance, city: str, config: CityConfig, seen: Seen) -> bool:
    """Tell whether a city that was not seen before has been prepared already from just these files and settings."""
    record = _recorded(instance, "grid_token_table", city)
    if record is None:
        return False

    def version(*key: str) -> str | None:
        return _version_when(instance, dg.AssetKey(key), city, record.storage_id)

    if config.source.kind == "hoser" and version("source_files") != (seen.content or "")[:16]:
        return False
    return all(seen.settings[piece] == version(SETTINGS_PREFIX, piece) for piece in _CHEAP)


def _version_when(instance: dg.DagsterInstance, key: dg.AssetKey, city: str, storage_id: int) -> str | None:
    """Return the data version that an asset of a city had when something was recorded."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[city], before_storage_id=storage_id)
    records = instance.fetch_materializations(wanted, limit=1).records
    event = records[0].asset_materialization if records else None
    return ((event.tags if event else None) or {}).get("dagster/data_version")


@dg.sensor(
    job=full_pipeline,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Off until a person switches it on. Launches full_pipeline for a trained city whose raw files or "
    "settings change from then on, once each change, with the seeds it was trained with.",
)
def retrain_on_change(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Ask for `full_pipeline` where something has changed since the sensor was switched on."""
    known = {city: Seen(**seen) for city, seen in json.loads(context.cursor or "{}").items()}
    requests: list[dg.RunRequest] = []
    said: list[str] = []
    for city, config in _cities(Path(pipeline.config_folder)):
        try:
            if isinstance(config, ConfigError):
                raise config
            before = known.get(city)
            now, _ = look(config, before or Seen())
        except HoserKdError as error:
            said.append(str(error))
            continue
        steady = before is None or (now.raw, now.looked_at) == (before.raw, before.looked_at)
        content = _read(config, now) if steady else None
        state = digest_json([content, now.settings])
        if before is None:
            now.done = state
        elif content is not None and state != now.done:
            now.done = state
            if seeds := trained_seeds(context.instance, city):
                now.asked += 1
                requests.append(
                    _again(f"{city}:{now.asked}:{state}", city, seeds, "raw files or settings have changed")
                )
            else:
                said.append(f"{city}: not trained here yet.")
        known[city] = now
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(said) or "Nothing has changed.",
        cursor=json.dumps({city: asdict(seen) for city, seen in known.items()}),
    )


@dg.schedule(
    job=full_pipeline,
    cron_schedule="0 2 * * 0",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Off until a person switches it on. Sundays at 2:00 UTC: full_pipeline for every city that has been "
    "trained here, with its seeds. What has not changed is found again and costs seconds.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for `full_pipeline` for every trained city."""
    trained = {
        city: seeds
        for city in context.instance.get_dynamic_partitions("city")
        if (seeds := trained_seeds(context.instance, city))
    }
    if not trained:
        yield dg.SkipReason("No city has been trained here yet.")
    for city, seeds in trained.items():
        yield _again(f"{city}:{context.scheduled_execution_time.date()}", city, seeds, "weekly re-training")


def trained_seeds(instance: dg.DagsterInstance, city: str) -> list[int]:
    """Return the seeds with which a city's students have been trained here."""
    seeds: set[int] = set()
    for stage in STAGES.values():
        if stage.group == "student":
            for key in instance.get_materialized_partitions(dg.AssetKey(stage.name)):
                of_city, seed = key.split("|")
                if of_city == city:
                    seeds.add(int(seed))
    return sorted(seeds)


def _again(run_key: str, city: str, seeds: list[int], why: str) -> dg.RunRequest:
    config = {"ops": {"begin": {"config": {"seeds": seeds}}}}
    return dg.RunRequest(run_key, run_config=config, partition_key=city, tags={"hoser_kd/because": why})
