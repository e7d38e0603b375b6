"""The seeds over which students are compared, which a choice of settings must not have used."""

from __future__ import annotations

import os

from hoser_kd.common.errors import ConfigError

_MOST_SEEDS = 1000


def num_seeds(text: str) -> int:
    """Return the number of seeds that HOSER_KD_SEEDS gives. Raises ConfigError for a text that is none."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= _MOST_SEEDS):
        raise ConfigError(f"HOSER_KD_SEEDS is {text[:40]!r}, not a whole number from 1 to {_MOST_SEEDS}. Correct it.")
    return int(text)


def compared_seeds() -> range:
    """Return the compared seeds: 0 to HOSER_KD_SEEDS - 1, five by default."""
    return range(num_seeds(os.environ.get("HOSER_KD_SEEDS") or "5"))
