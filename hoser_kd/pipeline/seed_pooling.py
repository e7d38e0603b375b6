"""Which seeds a report may pool: those whose results differ by the seed alone, and rest on what there is now.

A mean over seeds and its interval say how much chance there is in training. They would say nothing were one of the
seeds trained with another lambda, or measured before its student was trained again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hoser_kd.common.errors import StoreError
from hoser_kd.common.hashing import digest_json
from hoser_kd.pipeline.store import Artifact


@dataclass(frozen=True)
class Pool:
    """The seeds of a report."""

    seeds: tuple[int, ...]
    """Seeds that were made alike, ascending."""
    left_out: tuple[dict[str, Any], ...]
    """A row for each other seed: `seed`, `why`."""


def pool_seeds(per_seed: Mapping[str, Mapping[int, Artifact]], shared: Mapping[str, Artifact]) -> Pool:
    """Choose the seeds to pool: the one made last and all that were made like it.

    `per_seed`: artifacts by stage and seed. `shared`: those a city has once. A seed counts when every stage has made it
    from the artifacts given here.

    Raises:
        StoreError: no seed is whole; names each and what to do.
    """
    now = {artifact.name: artifact.version for artifact in shared.values()} | {
        artifact.name: artifact.version for seeds in per_seed.values() for artifact in seeds.values()
    }
    groups: dict[str, list[int]] = {}
    why: dict[int, str] = {}
    for seed in sorted({seed for seeds in per_seed.values() for seed in seeds}):
        of_seed = {stage: seeds[seed] for stage, seeds in per_seed.items() if seed in seeds}
        if (gap := _gap(of_seed, tuple(per_seed), now)) is not None:
            why[seed] = gap
        else:
            groups.setdefault(digest_json(_comparison_key(of_seed)), []).append(seed)
    if not groups:
        told = "; ".join(f"seed {seed}: {said}" for seed, said in why.items())
        raise StoreError(f"there is no seed to report on. {told[:1].upper()}{told[1:]}.")

    def made_last(seeds: list[int]) -> tuple[str, int]:
        return max(artifacts[seed].created_at for artifacts in per_seed.values() for seed in seeds), len(seeds)

    chosen = max(groups.values(), key=made_last)
    model = _flat(_comparison_key({stage: seeds[chosen[0]] for stage, seeds in per_seed.items()}))
    for seed in (seed for group in groups.values() if group is not chosen for seed in group):
        other = _flat(_comparison_key({stage: seeds[seed] for stage, seeds in per_seed.items()}))
        why[seed] = "; ".join(_differences(other, model))
    return Pool(tuple(chosen), tuple({"seed": seed, "why": said} for seed, said in sorted(why.items())))


def _gap(of_seed: Mapping[str, Artifact], stages: tuple[str, ...], now: Mapping[str, str]) -> str | None:
    """Say what keeps a seed from being whole."""
    missing = [stage for stage in stages if stage not in of_seed]
    if missing:
        return f"not made yet: {', '.join(missing)}"
    for stage, artifact in of_seed.items():
        for name, version in artifact.inputs.items():
            if now.get(name, version) != version:
                return f"{stage} was made from another version of {name} than the one there is now: make it again"
    return None


def _comparison_key(of_seed: Mapping[str, Artifact]) -> dict[str, Any]:
    """Return what must be the same for all seeds of a report: settings, code and what a city has once."""
    return {
        stage: {
            "settings": artifact.settings,
            "code": artifact.code_version,
            "inputs": {name: version for name, version in artifact.inputs.items() if "/" not in name},
        }
        for stage, artifact in of_seed.items()
    }


def _differences(other: Mapping[str, str], model: Mapping[str, str]) -> Iterator[str]:
    """Say once what differs, by its place in the YAML where it is a setting."""
    said: set[str] = set()
    for place in sorted(other.keys() | model.keys()):
        if other.get(place) != model.get(place):
            stage, kind, *name = place.split(".")
            what = {
                "settings": ".".join(name),
                "code": f"the code of {stage}",
                "inputs": f"{'.'.join(name)} as {stage} read it",
            }[kind]
            if what not in said:
                said.add(what)
                yield f"{what} is {other.get(place, 'not set')}, not {model.get(place, 'not set')}"


def _flat(value: Any, place: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {place: str(value)}
    flat: dict[str, str] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{place}.{name}" if place else str(name))
    return flat
