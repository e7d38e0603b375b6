"""Settings of distillation that no training reads under the other settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hoser_kd.config.recipes import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hoser_kd.config.schema import CityConfig

_OF_THE_CHAIN = ("chain_trips", "leave_trip_out", "smoothing")


def unread_keys(config: CityConfig) -> dict[str, str]:
    """Return the keys of `distill` that the student does not read, such as `distill.lambda_kl`, with the reason."""
    distill = config.distill
    unread = {
        f"distill.{key}": f"`distill.recipe` has no {part}"
        for part, keys in KEYS.items()
        if part not in distill.recipe
        for key in keys
    }
    if distill.uses_pooled and not distill.pools("markov"):
        unread |= {f"distill.pooled.{key}": "`distill.pooled.members` has no markov" for key in _OF_THE_CHAIN}
    if distill.uses_off_path and distill.off_path.divergence != "jsd":
        divergence = distill.off_path.divergence
        unread["distill.off_path.jsd_beta"] = f"`distill.off_path.divergence` is {divergence}, not jsd"
    return unread


def without_effect(config: CityConfig) -> Iterator[str]:
    """Yield a sentence for each setting of distillation that is set and changes nothing."""
    if not config.distill.enabled:
        return
    for key, reason in unread_keys(config).items():
        if _value(config, key) != _default(config, key):
            yield f"{key} has no effect: {reason}."
    per_epoch, count = config.distill.synthetic_per_epoch, config.synthetic_trips.count
    if "sequence" in config.distill.recipe and per_epoch is not None and count is not None and per_epoch >= count:
        yield (
            f"distill.synthetic_per_epoch ({per_epoch}) has no effect: `synthetic_trips.count` is {count}, and every "
            "epoch has all of these trips."
        )


def _value(section: Any, key: str) -> Any:
    for name in key.split("."):
        section = getattr(section, name)
    return section


def _default(config: CityConfig, key: str) -> Any:
    *place, name = key.split(".")
    section = _value(config, ".".join(place))
    return type(section).model_fields[name].get_default(call_default_factory=True)
