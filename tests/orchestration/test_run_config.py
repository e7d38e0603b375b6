"""Run config: few settings, each described, validated as in the YAML, and part of the version."""

from __future__ import annotations

import json

import dagster as dg
import pytest
import yaml
from homes import REPOSITORY

from assets.run_config import (
    OVERRIDABLE,
    YAML_ERROR_TAG,
    YAML_TAG,
    changes,
    defaults_from_yaml,
    run_config_of,
    stale_overrides,
)
from dagster_project.definitions import build_defs
from hoser_kd import hoser
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.loading import load_config, with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.next_step_metrics import evaluate_student
from hoser_kd.teacher.soft_labels import SoftLabels

CHOOSE_PARTITION = """query($repository: RepositorySelector!, $set: String!, $partition: String!) {
  partitionSetOrError(repositorySelector: $repository, partitionSetName: $set) { ... on PartitionSet {
    partition(partitionName: $partition) {
      runConfigOrError { ... on PartitionRunConfig { yaml } ... on PythonError { message } }
      tagsOrError { ... on PartitionTags { results { key value } } ... on PythonError { message } } } } } }"""

VALID = """query($selector: PipelineSelector!, $config: RunConfigData!) {
  isPipelineConfigValid(pipeline: $selector, mode: "default", runConfigData: $config) { __typename } }"""


def city(**sections):
    return CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}, **sections})


@pytest.mark.parametrize("stage", OVERRIDABLE)
def test_settings_are_described_and_change_nothing_by_default(stage):
    config = run_config_of(stage)
    assert changes(stage, config(), city(), {}) == {}
    filled_in = {knob.split(".")[1]: value for knob, value in defaults_from_yaml(stage, city()).items()}
    assert changes(stage, config(**filled_in), city(), {}) == {}
    for name, field in config.model_fields.items():
        assert field.description, name
        assert not field.is_required()


def test_a_filled_in_value_yields_to_a_yaml_edited_since_and_a_typed_one_does_not():
    edited = city(distill={"lambda_kl": 0.5})
    tags = {YAML_TAG: json.dumps({"distill.lambda_kl": 1.0})}
    config = run_config_of("distilled_student")
    assert changes("distilled_student", config(lambda_kl=1.0), edited, tags) == {}
    assert changes("distilled_student", config(lambda_kl=0.5), edited, tags) == {}
    assert changes("distilled_student", config(lambda_kl=0.2), edited, tags) == {"distill.lambda_kl": 0.2}
    assert changes("distilled_student", config(lambda_kl=1.0), edited, {}) == {"distill.lambda_kl": 1.0}
    assert list(stale_overrides("distilled_student", config(lambda_kl=1.0), edited, tags)) == [
        "distill.lambda_kl: filled in with 1.0 from a YAML that was edited since; this run uses 0.5."
    ]
    for value in (0.5, 0.2, None):
        assert not list(stale_overrides("distilled_student", config(lambda_kl=value), edited, tags))


def test_the_yaml_fills_the_launchpad_and_an_invalid_one_leaves_it_empty(tmp_path):
    job = build_defs(config_folder=tmp_path).resolve_job_def("evaluate")
    assert job.get_run_config_for_partition_key("town|0") == {}
    file = tmp_path / "town.yaml"
    file.write_text("source: {kind: synthetic}\ngeneration: {max_steps: 7}\n")
    # the YAML does not determine the number of trips
    assert job.get_run_config_for_partition_key("town|0") == {
        "ops": {"generated_trajectories": {"config": {"max_steps": 7}}}
    }
    file.write_text("source: {kind: synthetic}\ngeneration: {max_step: 7}\n")
    assert job.get_run_config_for_partition_key("town|0") == {}
    tags = job.get_tags_for_partition_key("town|0", None)
    assert YAML_TAG not in tags
    assert "generation.max_step" in tags[YAML_ERROR_TAG]


def test_each_code_location_fills_its_launchpads_from_its_own_folder(tmp_path):
    jobs = []
    for steps in (7, 8):
        folder = tmp_path / str(steps)
        folder.mkdir()
        (folder / "town.yaml").write_text(f"source: {{kind: synthetic}}\ngeneration: {{max_steps: {steps}}}\n")
        jobs.append(build_defs(config_folder=folder).resolve_job_def("evaluate"))
    configs = [job.get_run_config_for_partition_key("town|0") for job in jobs]
    assert [config["ops"]["generated_trajectories"]["config"]["max_steps"] for config in configs] == [7, 8]


def test_a_value_that_is_invalid_in_the_yaml_is_refused(tmp_path):
    file = tmp_path / "town.yaml"
    file.write_text("source: {kind: synthetic}\n")
    config = load_config(file)
    assert with_changes(config, {"distill.lambda_kl": 0.5}).distill.lambda_kl == 0.5
    with pytest.raises(ConfigError, match=r"`distill\.temperature`.*given: -1"):
        with_changes(config, {"distill.temperature": -1})


def test_a_launchpad_holds_only_settings_that_a_user_may_change():
    allowed = {
        "seeds",
        "force",
        "device",
        "study",
        "trials",
        *(knob.split(".")[1] for knobs in OVERRIDABLE.values() for knob in knobs),
    }
    for job in build_defs().get_repository_def().get_all_jobs():
        filled = {name: field.default_value for name, field in job.run_config_schema.config_type.fields.items()}
        assert not any(resource.get("config") for resource in filled["resources"].values()), job.name
        assert {name for op in filled["ops"].values() for name in op.get("config", {})} <= allowed, job.name


@pytest.fixture
def run_job(copy_of_town):
    """Run one asset of a job for seed 0 with run config; returns its data version and metadata."""
    home = copy_of_town
    definitions = home.definitions()

    def run(job, asset, **knobs):
        with home.instance() as instance:
            done = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=dg.MultiPartitionKey({"city": "town", "seed": "0"}),
                asset_selection=[dg.AssetKey(asset)],
                run_config={"ops": {asset: {"config": knobs}}} if knobs else None,
            )
            (made,) = done.asset_materializations_for_node(asset)
            return made.tags["dagster/data_version"], made.metadata

    return home, run


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_changed_setting_gives_a_new_version(run_job):
    home, run = run_job
    folder = home.store / "town" / "distilled_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}
    version, metadata = run("distill", "distilled_student", lambda_kl=0.5)
    assert {path.name for path in folder.iterdir()} - before == {version}
    assert metadata["changed_for_this_run"].value == {"distill.lambda_kl": 0.5}
    assert {run("distill", "distilled_student")[0]} == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_filled_in_launchpad_gives_the_version_of_the_yaml(run_job):
    home, run = run_job
    (before,) = {path.name for path in (home.store / "town" / "distilled_student" / "seed-0").iterdir()}
    version, metadata = run("distill", "distilled_student")
    assert version == before
    assert "changed_for_this_run" not in metadata


@pytest.mark.xdist_group("dev")
def test_a_part_of_a_job_can_be_launched_with_the_filled_in_launchpad(dev_town):
    """The config also names the assets that are not selected. tests/orchestration/test_browser.py launches a run."""
    home, ui = dev_town
    chosen = ui.query(CHOOSE_PARTITION, repository=REPOSITORY, set="distill_partition_set", partition="town|0")
    chosen = chosen["partitionSetOrError"]["partition"]
    filled_in = yaml.safe_load(chosen["runConfigOrError"]["yaml"])
    town = load_config(home.config / "town.yaml")
    assert filled_in["ops"]["distilled_student"]["config"]["lambda_kl"] == town.distill.lambda_kl
    [given] = [tag["value"] for tag in chosen["tagsOrError"]["results"] if tag["key"] == YAML_TAG]
    assert json.loads(given)["distill.lambda_kl"] == town.distill.lambda_kl

    def validity(value):
        filled_in["ops"]["distilled_student"]["config"]["lambda_kl"] = value
        part = {**REPOSITORY, "pipelineName": "distill", "assetSelection": [{"path": ["distilled_student"]}]}
        return ui.query(VALID, selector=part, config=json.dumps(filled_in))["isPipelineConfigValid"]["__typename"]

    valid = "PipelineConfigValidationValid"
    assert validity(town.distill.lambda_kl) == valid
    assert validity(1) == valid  # JavaScript writes 1.0 as 1
    assert validity("much") == "RunConfigValidationInvalid"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_use_the_temperature_of_the_student_s_training(run_job):
    home, run = run_job
    student, _ = run("distill", "distilled_student", temperature=5.0)
    run("evaluate", "generated_trajectories")
    version, _ = run("evaluate", "trajectory_metrics")
    found = json.loads((home.store / "town" / "trajectory_metrics" / "seed-0" / version / "metrics.json").read_text())

    def only(stage, *below):
        return next(path for path in (home.store / "town" / stage).joinpath(*below).iterdir() if path.is_dir())

    test = Trajectories.load(only("trajectories") / "test.arrow")
    labels = SoftLabels.load(only("teacher_soft_labels") / "test.arrow")
    plain = only("vanilla_student", "seed-0")
    distilled = home.store / "town" / "distilled_student" / "seed-0" / student
    for kind, folder in (("vanilla", plain), ("distilled", distilled)):
        at = {
            temperature: evaluate_student(hoser.load(folder), test, labels=labels, temperature=temperature)
            for temperature in (2.0, 5.0)
        }
        assert found[kind]["next_step"]["teacher_kl"] == pytest.approx(at[5.0]["teacher_kl"], rel=1e-5)
        assert found[kind]["next_step"]["teacher_kl"] != pytest.approx(at[2.0]["teacher_kl"], rel=1e-2)
