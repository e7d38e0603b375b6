"""Registries of the variants that a setting chooses by name.

Declared here, below the packages that fill them, so that `hoser_kd.config.schema` can validate names. To add a variant,
register it in the registry's home module (or, outside this project, in any module that is imported first).
"""

from __future__ import annotations

from typing import Any

from hoser_kd.common.registry import Registry

DECODERS: Registry[Any] = Registry("decoder", "hoser_kd.generation.decoding")
"""Values of `generation.decoder`."""
SOURCE_KINDS: Registry[Any] = Registry("source kind", "hoser_kd.network.sources")
"""Values of `source.kind`."""
LOSS_TERMS: Registry[Any] = Registry("loss term", "hoser_kd.student.losses")
"""Terms that the student's trainer can sum up."""
SELECTION_RULES: Registry[Any] = Registry("selection rule", "hoser_kd.student.model_selection")
"""Values of `student.select_by`."""
