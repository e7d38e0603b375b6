"""Settings of a tiny synthetic town, for tests that run stages through the pipeline."""

from __future__ import annotations

from typing import Any

from hoser_kd.config.schema import CityConfig


def tiny_town(*, distill: dict[str, Any] | None = None, **sections: Any) -> CityConfig:
    """Return the settings of a town that trains in seconds; `distill` and `sections` are added to them."""
    return CityConfig.model_validate(
        {
            "city": "town",
            "source": {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 60}},
            "zones": {"count": 6},
            "grid": {"bounds": "roads", "cell_size_m": 80},
            "teacher": {"preset": "tiny", "n_embd": 16, "max_epochs": 1},
            "student": {
                "hidden_dim": 16,
                "road_id_dim": 8,
                "attribute_dim": 2,
                "max_epochs": 1,
                "batch_size": 16,
                "learning_rate": 0.01,
            },
            "distill": {"lambda_kl": 0.5, **(distill or {})},
            **sections,
        }
    )
