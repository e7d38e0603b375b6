"""The recipes of the experiment, and what the artifact store has measured of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment_rows import City, Measured, run_of
from experiment_runs import RecipeRuns

Changes = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A way to train and search a student: a stage and changes of the settings."""

    name: str
    stage: str
    changes: Changes
    """Hold in all tries."""
    tuned_as: str
    """Recipe whose tries and chosen settings it shares; its own name by default."""
    other_teachers: tuple[Changes, ...] = ()
    """Changes of the settings of each further teacher, which is trained first."""
    imported_teacher: Changes | None = None
    """Changes of the settings of a teacher that replaces the city's own; None: the city's own."""


class Manifest:
    """What was measured, by share and recipe: tries, chosen settings, and the file of each seed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "manifest.json"
        self.content: dict[str, dict[str, Any]] = (
            json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        )

    def add(self, share: float, recipe: Recipe, tried: list[dict[str, Any]], files: Mapping[int, Path]) -> None:
        """Add seeds of a recipe; those of other settings are dropped."""
        settings = {**tried[0]["settings"], **recipe.changes}
        recipes = self.content.setdefault(f"{share:g}", {})
        if recipes.get(recipe.name, {}).get("settings") != settings:
            recipes[recipe.name] = {"settings": settings, "tuned_as": recipe.tuned_as, "files": {}}
        recipes[recipe.name]["tried"] = tried
        recipes[recipe.name]["files"] |= {str(seed): file.name for seed, file in files.items()}
        self.file.write_text(json.dumps(self.content, indent=1), encoding="utf-8")

    def students(self, share: str, recipe: str) -> dict[int, Measured]:
        """Return the measurements of a recipe by seed; none if the store has none."""
        files = self.content.get(share, {}).get(recipe, {}).get("files", {})
        return {int(seed): Measured.load(self.file.parent / files[seed]) for seed in sorted(files, key=int)}

    def runs(self, share: str, city: City) -> dict[str, RecipeRuns]:
        """Return the runs of a share by recipe."""
        return {
            name: RecipeRuns(
                each["settings"], {seed: run_of(one, city) for seed, one in self.students(share, name).items()}
            )
            for name, each in self.content.get(share, {}).items()
        }

    def tried(self, share: str) -> dict[str, list[dict[str, Any]]]:
        """Return the tries of a share by the recipe that they were for."""
        return {each["tuned_as"]: each["tried"] for each in self.content.get(share, {}).values()}
