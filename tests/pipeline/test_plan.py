"""The plan of a run: every artifact once, after its dependencies, with exactly the seeds it needs."""

from __future__ import annotations

import pytest

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.plan import plan


@pytest.mark.parametrize("name", STAGES)
def test_steps_follow_their_dependencies_and_occur_once(name):
    steps = plan([name], seed=3, seeds=[3, 1])
    done = set()
    for step in steps:
        assert step.dependencies <= done
        assert step.key not in done
        assert set(step.needs) == set(step.stage.inputs)
        done.add(step.key)
    assert steps[-1].stage.name == name


def test_a_report_reads_all_seeds_and_a_city_has_one_of_everything_else():
    steps = {step.key: step for step in plan(["distillation_report"], seed=2, seeds=[2, 0])}
    per_seed = {name for name, _ in steps if STAGES[name].per_seed}
    assert per_seed == {name for name, stage in STAGES.items() if stage.per_seed}
    assert len(steps) == len({name for name, _ in steps}) + len(per_seed)
    assert steps["distillation_report", None].needs["vanilla_student"] == (
        ("vanilla_student", 2),
        ("vanilla_student", 0),
    )
    assert steps["trajectory_metrics", 0].needs["vanilla_student"] == (("vanilla_student", 0),)
    assert steps["trajectory_metrics", 0].needs["road_network"] == (("road_network", None),)


def test_without_seeds_a_report_reads_the_one_seed():
    seeds = {step.seed for step in plan(["distillation_report"], seed=4)}
    assert seeds == {None, 4}


def test_a_stage_of_one_seed_needs_no_other_seed():
    assert {step.seed for step in plan(["trajectory_metrics"], seed=2, seeds=[2, 0])} == {None, 2}


def test_independent_steps_do_not_depend_on_each_other():
    steps = {step.key: step for step in plan(["distillation_report"], seeds=[0, 1])}

    def ancestors(key):
        return steps[key].dependencies.union(*map(ancestors, steps[key].dependencies))

    for one, other in ((("vanilla_student", 0), ("vanilla_student", 1)), (("teacher", None), ("road_zones", None))):
        assert one not in ancestors(other)
        assert other not in ancestors(one)


def test_inputs_that_are_not_read_are_not_planned():
    """A student of the recipe `kl` must not wait for the training of the vanilla student."""
    synthetic = {"city": "town", "source": {"kind": "synthetic"}}
    unread = {"osm_extract", "gps_points", "matched_trips", "off_path_labels"}
    for recipe, models in ((["kl"], {"vanilla_student", "synthetic_trips"}), (["pooled"], {"synthetic_trips"})):
        config = CityConfig.model_validate({**synthetic, "distill": {"recipe": recipe}})
        names = {step.stage.name for step in plan(["distilled_student"], config=config)}
        assert {step.stage.name for step in plan(["distilled_student"])} - names == models | unread


def test_several_stages_share_their_dependencies():
    names = [step.stage.name for step in plan(["road_zones", "trajectories", "road_zones"])]
    raw = ["gps_points", "matched_trips"]
    assert names == ["source_files", "osm_extract", "road_network", "road_zones", *raw, "trajectories"]
