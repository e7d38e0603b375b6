"""Find a student in a store by its city, kind and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hoser_kd.common.errors import StoreError
from hoser_kd.hoser.checkpoint import WEIGHTS_FILE
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.sharing.store_student import STUDENT_STAGES


def find_student(store: Store, city: str, stage: str, seed: int) -> Path:
    """Return the folder of the newest student of a city, stage and seed; of a remote store, that of its local copy.

    Raises StoreError if the store has none, with those that it has, or if the newest one is damaged.
    """
    hint = "Without a store, give the folder, file or repository of a student, such as a bundle."
    try:
        store.require_existing()
    except StoreError as error:
        raise StoreError(f"{error} {hint}") from None
    students = [
        artifact
        for _, artifact in store.artifacts()
        if isinstance(artifact, Artifact) and artifact.stage in STUDENT_STAGES and WEIGHTS_FILE in artifact.files
    ]
    wanted = [each for each in students if (each.city, each.stage, each.seed) == (city, stage, seed)]
    if not wanted:
        raise StoreError(
            f"{store.root}: no {stage} of {city} with seed {seed}. {_known(students)} Train it with `hoser-kd train "
            f"--dataset {city} --seed {seed}{' --vanilla' if stage == 'vanilla_student' else ''}`. {hint}"
        )
    newest = max(wanted, key=lambda each: each.created_at)
    found = store.open(stage, city, newest.version, seed)
    _fetch(store, city, found.inputs)
    return found.path


def _known(students: Iterable[Artifact]) -> str:
    names = sorted({f"{each.stage} of {each.city} with seed {each.seed}" for each in students})
    return f"It has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}." if names else "It has no student."


def _fetch(store: Store, city: str, inputs: Mapping[str, str]) -> None:
    """Copy what a student is described by, if the store is remote."""
    for name in ("road_network", "trajectories"):
        if name in inputs:
            store.find(name, city, inputs[name])
