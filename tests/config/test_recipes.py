"""What people are shown about a recipe: its own settings and weights."""

from __future__ import annotations

import pytest

from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.loading import with_changes
from hoser_kd.config.recipes import KEYS, describe_recipe, settings_read
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.without_effect import without_effect
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import check_steps

CITY = CityConfig(city="town", source={"kind": "synthetic"}, grid={"bounds": "roads", "cell_size_m": 80})


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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"distill.recipe": ["pooled"], "distill.pooled": {"members": ["student"], "chain_trips": "all"}},
            "distill.pooled.chain_trips has no effect: `distill.pooled.members` has no markov.",
        ),
        (
            {"distill.recipe": ["off_path"], "distill.off_path.jsd_beta": 0.2},
            "distill.off_path.jsd_beta has no effect: `distill.off_path.divergence` is forward_kl, not jsd.",
        ),
        (
            {"distill.recipe": ["sequence"], "distill.synthetic_per_epoch": 60, "synthetic_trips.count": 50},
            "distill.synthetic_per_epoch (60) has no effect: `synthetic_trips.count` is 50",
        ),
        (
            {"distill.recipe": ["sequence"], "distill.lambda_kl": 1.0},
            "distill.lambda_kl has no effect: `distill.recipe` has no kl.",
        ),
    ],
)
def test_a_setting_without_effect_is_a_warning_before_the_first_stage(changes, sentence):
    config = with_changes(CITY, changes)
    [found] = without_effect(config)
    assert found.startswith(sentence)
    messages = []
    check_steps(plan(["distilled_student"], config=config), config, messages.append)
    assert messages == [f"town: {found}"]
    check_steps(plan(["vanilla_student"], config=config), config, messages.append)
    assert len(messages) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill.recipe": ["pooled"], "distill.pooled": {"members": ["markov"], "chain_trips": "all"}},
        {"distill.recipe": ["off_path"], "distill.off_path.divergence": "jsd", "distill.off_path.jsd_beta": 0.2},
        {"distill.recipe": ["sequence"], "distill.synthetic_per_epoch": 40, "synthetic_trips.count": 50},
        {"distill.recipe": ["sequence"], "distill.lambda_kl": 1.0, "distill.enabled": False},
    ],
)
def test_settings_with_an_effect_are_no_warning(changes):
    assert list(without_effect(with_changes(CITY, changes))) == []
