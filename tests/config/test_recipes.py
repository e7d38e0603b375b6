"""What people are shown about a recipe: its own settings and weights."""

from __future__ import annotations

from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.recipes import KEYS, describe_recipe, settings_read


def test_a_recipe_without_kl_shows_neither_lambda_nor_temperature():
    sequence = DistillConfig(recipe=["sequence"], lambda_kl=1.0, temperature=4.0).model_dump(mode="json")
    assert describe_recipe(sequence) == "sequence"
    shown = settings_read(sequence)
    assert {"lambda_kl", "temperature", "off_path", "pooled"}.isdisjoint(shown)
    assert {"recipe", "synthetic_weight", "time_loss_mean", "labels"} <= shown.keys()


def test_the_recipe_is_named_with_its_weights():
    both = DistillConfig(recipe=["kl", "pooled"], lambda_kl=1.0, temperature=4.0, pooled={"weight": 0.5})
    assert describe_recipe(both.model_dump(mode="json")) == "kl (lambda 1, temperature 4), pooled (weight 0.5)"
    assert describe_recipe({"lambda_kl": 0.1, "temperature": 2.0}) == "kl (lambda 0.1, temperature 2)"


def test_every_key_of_a_recipe_exists():
    known = DistillConfig.model_fields.keys()
    assert {key for keys in KEYS.values() for key in keys} <= known
