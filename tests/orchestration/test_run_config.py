"""What a person may change for one run: few knobs, told what they are, checked as in the YAML, part of the version."""

from __future__ import annotations

import json
import time

import dagster as dg
import pytest
import yaml

from assets import partitions
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

REPOSITORY = {"repositoryLocationName": "hoser_kd", "repositoryName": "__repository__"}
CHOOSE_PARTITION = """query($repository: RepositorySelector!, $set: String!, $partition: String!) {
  partitionSetOrError(repositorySelector: $repository, partitionSetName: $set) { ... on PartitionSet {
    partition(partitionName: $partition) {
      runConfigOrError { ... on PartitionRunConfig { yaml } ... on PythonError { message } }
      tagsOrError { ... on PartitionTags { results { key value } } ... on PythonError { message } } } } } }"""
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def city(**sections):
    return CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}, **sections})


@pytest.mark.parametrize("stage", OVERRIDABLE)
def test_knobs_are_described_and_change_nothing_unless_given(stage):
    config = run_config_of(stage)
    assert changes(stage, config(), city(), {}) == {}
    filled_in = {knob.split(".")[1]: value for knob, value in defaults_from_yaml(stage, city()).items()}
    assert changes(stage, config(**filled_in), city(), {}) == {}
    for name, field in config.model_fields.items():
        assert field.description, name
        assert not field.is_required()


def test_what_was_filled_in_yields_to_a_yaml_edited_since_and_what_was_typed_does_not():
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


def test_the_city_fills_a_launchpad_in_and_one_that_cannot_be_read_leaves_it_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "CONFIG_FOLDER", tmp_path)
    job = build_defs().resolve_job_def("evaluate")
    assert job.get_run_config_for_partition_key("town|0") == {}
    file = tmp_path / "town.yaml"
    file.write_text("source: {kind: synthetic}\ngeneration: {max_steps: 7}\n")
    # how many trips there will be is not known from the YAML
    assert job.get_run_config_for_partition_key("town|0") == {
        "ops": {"generated_trajectories": {"config": {"max_steps": 7}}}
    }
    file.write_text("source: {kind: synthetic}\ngeneration: {max_step: 7}\n")
    assert job.get_run_config_for_partition_key("town|0") == {}
    tags = job.get_tags_for_partition_key("town|0", None)
    assert YAML_TAG not in tags
    assert "generation.max_step" in tags[YAML_ERROR_TAG]


def test_a_value_the_yaml_could_not_have_is_refused(tmp_path):
    file = tmp_path / "town.yaml"
    file.write_text("source: {kind: synthetic}\n")
    config = load_config(file)
    assert with_changes(config, {"distill.lambda_kl": 0.5}).distill.lambda_kl == 0.5
    with pytest.raises(ConfigError, match=r"`distill\.temperature`.*given: -1"):
        with_changes(config, {"distill.temperature": -1})


def test_a_launchpad_is_filled_in_with_what_a_person_may_change_and_nothing_else():
    allowed = {"seeds", "force", "device", *(knob.split(".")[1] for knobs in OVERRIDABLE.values() for knob in knobs)}
    for job in build_defs().get_repository_def().get_all_jobs():
        filled = {name: field.default_value for name, field in job.run_config_schema.config_type.fields.items()}
        assert not any(resource.get("config") for resource in filled["resources"].values()), job.name
        assert {name for op in filled["ops"].values() for name in op["config"]} <= allowed, job.name


@pytest.fixture
def run_job(copy_of_town):
    """Run a job of the town's seed 0 with knobs of one asset; returns the materialization of that asset."""
    home = copy_of_town
    definitions = build_defs(config_folder=home.config, store_root=str(home.store))

    def run(job, asset, **knobs):
        with dg.DagsterInstance.from_config(home.environment["DAGSTER_HOME"]) as instance:
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
def test_a_changed_knob_is_a_version_of_its_own(run_job):
    home, run = run_job
    folder = home.store / "town" / "distilled_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}
    version, metadata = run("distill", "distilled_student", lambda_kl=0.5)
    assert {path.name for path in folder.iterdir()} - before == {version}
    assert metadata["changed_for_this_run"].value == {"distill.lambda_kl": 0.5}
    assert {run("distill", "distilled_student")[0]} == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_city_fills_in_makes_the_version_that_the_yaml_makes(run_job, monkeypatch):
    home, run = run_job
    (before,) = {path.name for path in (home.store / "town" / "distilled_student" / "seed-0").iterdir()}
    monkeypatch.setattr(partitions, "CONFIG_FOLDER", home.config)
    version, metadata = run("distill", "distilled_student")
    assert version == before
    assert "changed_for_this_run" not in metadata


def test_a_part_of_a_job_is_launched_with_what_its_launchpad_was_filled_in_with(copy_of_town, dev):
    home = copy_of_town
    folder = home.store / "town" / "distilled_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}
    ui = dev(home)
    chosen = ui.query(CHOOSE_PARTITION, repository=REPOSITORY, set="distill_partition_set", partition="town|0")
    chosen = chosen["partitionSetOrError"]["partition"]
    filled_in = yaml.safe_load(chosen["runConfigOrError"]["yaml"])
    town = load_config(home.config / "town.yaml")
    assert filled_in["ops"]["distilled_student"]["config"]["lambda_kl"] == town.distill.lambda_kl

    def launched(assets):
        answer = ui.query(
            LAUNCH,
            params={
                "selector": {
                    **REPOSITORY,
                    "jobName": "distill",
                    "assetSelection": [{"path": [name]} for name in assets],
                },
                "runConfigData": json.dumps(filled_in),
                "executionMetadata": {"tags": chosen["tagsOrError"]["results"]},
            },
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        deadline = time.monotonic() + 300
        status = ""
        while status not in ("SUCCESS", "FAILURE"):
            assert time.monotonic() < deadline, status
            time.sleep(0.5)
            status = ui.query(STATUS, id=answer["run"]["runId"])["runOrError"]["status"]
        return status

    assert launched(["distilled_student"]) == "SUCCESS"
    assert {path.name for path in folder.iterdir()} == before
    filled_in["ops"]["distilled_student"]["config"]["lambda_kl"] = 1  # JavaScript knows one kind of number
    assert launched(["distilled_student"]) == "SUCCESS"
    assert len(list(folder.iterdir())) == 1 + (town.distill.lambda_kl != 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_ask_the_teacher_at_the_temperature_that_the_student_was_trained_with(run_job):
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
