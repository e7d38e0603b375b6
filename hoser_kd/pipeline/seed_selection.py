"""Selection of the seeds that a report averages: those that differ by the seed alone and have current inputs.

A mean over seeds and its interval describe the randomness of training. They would be wrong if one of the seeds were
trained with another lambda, or evaluated before its student was trained again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hoser_kd.common.errors import StoreError
from hoser_kd.common.hashing import digest_json
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.settings import changed_settings
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.store import Artifact


@dataclass(frozen=True)
class SeedSelection:
    """The seeds of a report, and those left out."""

    seeds: tuple[int, ...]
    """Seeds trained with the same settings, ascending."""
    left_out: tuple[dict[str, Any], ...]
    """A row for each other seed: `seed`, `reason`."""


def comparable_seeds(run: StageRun) -> SeedSelection:
    """Select the seeds among all inputs of a run; see `select_seeds`."""
    per_seed = {name: run.seeds(name) for name in run.stage.inputs if STAGES[name].per_seed}
    shared = {name: run.artifact(name) for name in run.stage.inputs if not STAGES[name].per_seed}
    return select_seeds(per_seed, shared)


def select_seeds(per_seed: Mapping[str, Mapping[int, Artifact]], shared: Mapping[str, Artifact]) -> SeedSelection:
    """Select the seeds of a report: the latest complete seed and all that are comparable with it.

    `per_seed`: artifacts by stage and seed. `shared`: artifacts of stages with one per city. A seed is complete if it
    has an artifact of every stage, each computed from the artifacts given here.

    Raises:
        StoreError: no seed is complete; the message gives the reason for each.
    """
    current = {artifact.name: artifact.version for artifact in shared.values()} | {
        artifact.name: artifact.version for seeds in per_seed.values() for artifact in seeds.values()
    }
    groups: dict[str, list[int]] = {}
    reasons: dict[int, str] = {}
    for seed in sorted({seed for seeds in per_seed.values() for seed in seeds}):
        of_seed = {stage: seeds[seed] for stage, seeds in per_seed.items() if seed in seeds}
        if (gap := _gap(of_seed, tuple(per_seed), current)) is not None:
            reasons[seed] = gap
        else:
            groups.setdefault(digest_json(_comparison_key(of_seed)), []).append(seed)
    if not groups:
        text = "; ".join(f"seed {seed}: {reason}" for seed, reason in reasons.items())
        raise StoreError(f"there is no seed to report on. {text[:1].upper()}{text[1:]}.")

    def latest(seeds: list[int]) -> tuple[str, int]:
        return max(artifacts[seed].created_at for artifacts in per_seed.values() for seed in seeds), len(seeds)

    chosen = max(groups.values(), key=latest)
    reference = {stage: seeds[chosen[0]] for stage, seeds in per_seed.items()}
    for seed in (seed for group in groups.values() if group is not chosen for seed in group):
        other = {stage: seeds[seed] for stage, seeds in per_seed.items()}
        reasons[seed] = "; ".join(_differences(other, reference))
    left_out = ({"seed": seed, "reason": reason} for seed, reason in sorted(reasons.items()))
    return SeedSelection(tuple(chosen), tuple(left_out))


def _gap(of_seed: Mapping[str, Artifact], stages: tuple[str, ...], current: Mapping[str, str]) -> str | None:
    """Return why a seed is not complete, None if it is."""
    missing = [stage for stage in stages if stage not in of_seed]
    if missing:
        return f"not materialized: {', '.join(missing)}"
    for stage, artifact in of_seed.items():
        for name, version in artifact.inputs.items():
            if current.get(name, version) != version:
                return f"{stage} was computed from another version of {name} than the current one: materialize it again"
    return None


def _comparison_key(of_seed: Mapping[str, Artifact], *, complete: bool = False) -> dict[str, Any]:
    """Return what must be equal for all seeds of a report: settings, code and inputs that a city has once.

    Settings at their defaults are left out unless `complete`: an artifact may be older than a key of the settings.
    """
    return {
        stage: {
            "settings": artifact.settings if complete else changed_settings(artifact.settings),
            "code": artifact.code_version,
            "inputs": {name: version for name, version in artifact.inputs.items() if "/" not in name},
        }
        for stage, artifact in of_seed.items()
    }


def _differences(other: Mapping[str, Artifact], reference: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield each difference once, a setting by its place in the YAML."""
    keys = [_flat(_comparison_key(artifacts)) for artifacts in (other, reference)]
    values = [_flat(_comparison_key(artifacts, complete=True)) for artifacts in (other, reference)]
    named: set[str] = set()
    for place in sorted(keys[0].keys() | keys[1].keys()):
        if keys[0].get(place) != keys[1].get(place):
            stage, kind, *name = place.split(".")
            what = {
                "settings": ".".join(name),
                "code": f"the code version of {stage}",
                "inputs": f"the version of {'.'.join(name)} read by {stage}",
            }[kind]
            if what not in named:
                named.add(what)
                # a setting that an older artifact does not record had no other value
                absent = "the default" if kind == "settings" else "absent"
                yield f"{what} is {values[0].get(place, absent)}, not {values[1].get(place, absent)}"


def _flat(value: Any, place: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings as texts by their dotted place; an empty mapping has none."""
    if not isinstance(value, Mapping):
        return {place: str(value)}
    flat: dict[str, str] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{place}.{name}" if place else str(name))
    return flat
