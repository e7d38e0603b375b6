"""Registries of the variants that a setting chooses by name.

They are declared here, below the packages that fill them, so that the sections can validate names. To add a
variant, register it in the home module of its registry; code outside this project registers it before loading settings.
"""

from __future__ import annotations

from typing import Any

from hoser_kd.common.registry import Registry

DECODERS: Registry[Any] = Registry("decoder", "hoser_kd.generation.decoding", "check_decoder")
"""Values of `generation.decoder`."""
SOURCE_KINDS: Registry[Any] = Registry("source kind", "hoser_kd.network.sources", "check_source_kind")
"""Values of `source.kind`."""
LOSS_TERMS: Registry[Any] = Registry("loss term", "hoser_kd.student.losses", "check_loss_term")
"""Terms of the student's training loss."""
SELECTION_RULES: Registry[Any] = Registry("selection rule", "hoser_kd.student.model_selection", "check_selection_rule")
"""Values of `student.select_by`."""
