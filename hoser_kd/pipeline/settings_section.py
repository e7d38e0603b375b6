"""A part of a city's settings that stages depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hoser_kd.config.schema import CityConfig


@dataclass(frozen=True)
class SettingsSection:
    """A part of a city's settings that changes independently: only the stages that name it depend on it."""

    section: str
    """Section of `CityConfig` that the values come from."""
    description: str
    """What the values are, as Dagster's UI shows it; Markdown."""
    read: Callable[[CityConfig], dict[str, Any]]
    """Returns all values, defaults included, as JSON."""

    def __call__(self, config: CityConfig) -> dict[str, Any]:
        """Return all values for a city, defaults included, as JSON; recorded with each artifact."""
        return self.read(config)
