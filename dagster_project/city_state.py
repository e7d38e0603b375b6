"""What a sensor remembers of each city between two ticks, and what has changed since.

Belongs here: comparing settings and raw files with the previous tick. Does not belong here: launching runs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from assets.settings import settings_version
from hoser_kd.common.errors import DataError, HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.config.city_names import city_files, other_files
from hoser_kd.config.loading import load_config
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.settings import SETTINGS


@dataclass
class CityState:
    """State of a city at the previous tick, kept in the sensor's cursor."""

    section_versions: dict[str, str] = field(default_factory=dict)
    """Data versions of the settings sections."""
    settings_digest: str = ""
    """Digest of all settings. The sections are compared only when it changes."""
    raw_signature: str | None = None
    """Names, sizes and times of the raw files; None while files are missing."""
    content_digest: str | None = None
    """Digest of the raw files' content, recomputed when `raw_signature` has changed and stayed the same for a tick;
    empty for cities without raw files."""
    content_signature: str = ""
    """The `raw_signature` for which `content_digest` was computed."""
    handled: str = ""
    """Digest of content and settings for which a run was requested or found to be unnecessary."""
    num_requests: int = 0
    """Number of runs requested so far. It is part of the run key, because Dagster launches a key only once and
    reverting a change is a change too."""


@dataclass
class Observation:
    """A city at the current tick."""

    city: str
    config: CityConfig
    state: CityState
    changed: dict[str, Mapping[str, Any]]
    """Values of the settings sections that differ from the previous tick."""
    is_new: bool
    """The city was not there at the previous tick."""
    is_stable: bool
    """Raw files and settings are the same as at the previous tick."""


def read_cursor(cursor: str | None) -> dict[str, CityState]:
    """Return the states in a cursor by city; none for a cursor that an earlier release has written."""
    states = json.loads(cursor or "{}")
    names = {item.name for item in fields(CityState)}
    return {city: CityState(**state) for city, state in states.items() if set(state) == names}


def write_cursor(states: Mapping[str, CityState]) -> str:
    """Return the cursor that holds these states."""
    return json.dumps({city: asdict(state) for city, state in states.items()})


def observe_cities(folder: Path, states: dict[str, CityState], messages: list[str]) -> Iterator[Observation]:
    """Yield an observation per readable YAML of a folder, sorted by city, and update `states`.

    The error of an unreadable YAML is appended to `messages`, and the state of its city stays as it was. So is the
    reason why a YAML with an impossible name is not a city.
    """
    messages += other_files(folder)
    for file in city_files(folder):
        previous = states.get(file.stem)
        try:
            config = load_config(file)
            state, changed = _compare(config, previous or CityState())
        except HoserKdError as error:
            messages.append(str(error))
            continue
        except (OSError, ValueError, TypeError, RecursionError) as error:
            # one city's files must not stop the others; what reaches this line has no message for users
            messages.append(f"{file.stem}: cannot be read ({type(error).__name__}: {error}).")
            continue
        states[file.stem] = state
        is_stable = previous is not None and (state.raw_signature, state.settings_digest) == (
            previous.raw_signature,
            previous.settings_digest,
        )
        yield Observation(file.stem, config, state, changed, is_new=previous is None, is_stable=is_stable)


def _compare(config: CityConfig, previous: CityState) -> tuple[CityState, dict[str, Mapping[str, Any]]]:
    """Return the current state of a city, and its settings sections that differ from the previous one."""
    from hoser_kd.network.sources import kind_of, raw_signature

    state = replace(previous, raw_signature=raw_signature(config.source))
    raw = state.raw_signature if kind_of(config.source).files_in_settings else None
    digest = digest_json([config.model_dump(mode="json"), _checkpoint_signature(config), *([raw] if raw else [])])
    if digest == previous.settings_digest:
        return state, {}
    sections = {name: section(config) for name, section in SETTINGS.items()}
    state.section_versions = {name: settings_version(name, values).value for name, values in sections.items()}
    state.settings_digest = digest
    return state, {
        name: values
        for name, values in sections.items()
        if state.section_versions[name] != previous.section_versions.get(name)
    }


def read_content(config: CityConfig, state: CityState) -> str | None:
    """Return the digest of the raw files' content, read only if their signature has changed; None if they are gone."""
    from hoser_kd.network.sources import kind_of

    if state.raw_signature is None:
        return None
    if state.content_digest is None or state.content_signature != state.raw_signature:
        try:
            kind = kind_of(config.source)
            state.content_digest = kind.content(config.source) if kind.is_external else ""
        except (OSError, DataError):
            return None
        state.content_signature = state.raw_signature
    return state.content_digest


def _checkpoint_signature(config: CityConfig) -> list[list[Any]]:
    """Return names, sizes and times of the files of checkpoints; digesting their content takes seconds."""
    named = [config.distill.ckpt_path, *(config.distill.pooled.other_teachers if config.distill.uses_pooled else ())]
    files: list[Path] = []
    for path in (Path(name) for name in named if name is not None):
        files += sorted(path.iterdir()) if path.is_dir() else [path] * path.is_file()
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
