"""Which settings of `distill` a recipe reads, for what people are shown about a distilled student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {
    "kl": ("lambda_kl", "temperature", "sample_steps_per_trace", "shared_cells", "scale_by_temperature_squared"),
    "sequence": ("synthetic_weight", "synthetic_per_epoch", "time_loss_mean"),
    "off_path": ("off_path",),
    "pooled": ("pooled",),
}
"""Keys of `distill` by the part of the recipe that alone reads them."""


def settings_read(distill: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section without the keys that its recipe does not read."""
    recipe = _recipe(distill)
    unread = {key for part, keys in KEYS.items() if part not in recipe for key in keys}
    return {key: value for key, value in distill.items() if key not in unread}


def describe_recipe(distill: Mapping[str, Any]) -> str:
    """Return the recipe as text, such as `kl (lambda 1, temperature 4), sequence`."""
    weights = {
        "kl": f" (lambda {distill.get('lambda_kl', 0):g}, temperature {distill.get('temperature', 1):g})",
        "off_path": f" (weight {distill.get('off_path', {}).get('weight', 1):g})",
        "pooled": f" (weight {distill.get('pooled', {}).get('weight', 1):g})",
    }
    return ", ".join(f"{part}{weights.get(part, '')}" for part in _recipe(distill))


def _recipe(distill: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the recipe; settings recorded before recipes existed have the KL divergence alone."""
    return tuple(distill.get("recipe", ("kl",)))
