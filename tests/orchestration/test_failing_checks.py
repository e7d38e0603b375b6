"""Failures of real runs and their messages: a failed blocking check, a deleted artifact, an invalid YAML."""

from __future__ import annotations

import shutil

import dagster as dg
import pytest

FAILING = {
    # check: job, its asset, the asset that must not run then, and the edit of the YAML that makes the check fail
    "roads_inside_grid": (
        "prepare_city",
        "grid_token_table",
        None,
        "bounds: roads",
        "bounds: {min_lat: 10, max_lat: 10.01, min_lng: 20, max_lng: 20.01}",
    ),
    "grid_resolution_sufficient": (
        "prepare_city",
        "grid_token_table",
        None,
        "bounds: roads, cell_size_m: 80",
        "bounds: {min_lat: -60, max_lat: 60, min_lng: -179, max_lng: 179}, cell_size_m: 800000",
    ),
    "beats_uniform_baseline": (
        "train_teacher",
        "teacher",
        "teacher_soft_labels",
        "max_epochs: 2}\nstudent",
        "max_epochs: 1, learning_rate: 1.0}\nstudent",
    ),
    "beats_frequency_baseline": ("distill", "vanilla_student", None, "learning_rate: 0.01", "learning_rate: 1.0e-12"),
}


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("check", FAILING)
def test_a_failed_check_shows_where_and_stops_what_follows(copy_of_town, check):
    job, asset, stopped, right, wrong = FAILING[check]
    home = copy_of_town
    yaml = home.config / "town.yaml"
    assert right in yaml.read_text()
    yaml.write_text(yaml.read_text().replace(right, wrong))
    definitions = home.definitions()
    selected = [dg.AssetKey(name) for name in (asset, stopped) if name]
    key = dg.MultiPartitionKey({"city": "town", "seed": "0"}) if job == "distill" else "town"
    with home.instance() as instance:
        done = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=key, asset_selection=selected, raise_on_error=False
        )
        assert not done.success
        found = {result.check_name: result for result in done.get_asset_check_evaluations()}
        assert not found[check].passed
        assert [event.asset_key.path[-1] for event in done.get_asset_materialization_events()] == [asset]
        # the metadata that the UI shows
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(asset), check), limit=1
        )
        shown = record.event.dagster_event.event_specific_data.metadata
        assert isinstance(shown["where"], dg.TableMetadataValue)
        assert shown["where"].records
        assert "data:image/png;base64," in shown["picture"].value
        # the check page mixes the cities, so sentence and names of metrics begin with the city
        place = "town, seed 0" if job == "distill" else "town"
        assert shown["city"].value == "town"
        assert found[check].description.startswith(f"{place}: ")
        assert [name for name in shown if name.startswith(f"{place}: ")]


def failures(home, job, asset):
    """Run an asset of a job for seed 0; returns the messages of its failed steps and the tags of the run."""
    definitions = home.definitions()
    with home.instance() as instance:
        done = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=dg.MultiPartitionKey({"city": "town", "seed": "0"}),
            asset_selection=[dg.AssetKey(asset)],
            raise_on_error=False,
        )
        assert not done.success
        return [event.step_failure_data.user_failure_data.description for event in done.get_step_failure_events()], (
            done.dagster_run.tags
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_artifact_deleted_by_hand_is_named_with_the_fix(copy_of_town):
    shutil.rmtree(copy_of_town.store / "town" / "teacher_soft_labels")
    [message], _ = failures(copy_of_town, "distill", "distilled_student")
    assert "teacher_soft_labels" in message
    assert "Materialize teacher_soft_labels again" in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_invalid_yaml_is_reported_by_a_tag_of_the_launchpad_and_by_the_run(copy_of_town):
    yaml = copy_of_town.config / "town.yaml"
    yaml.write_text(yaml.read_text().replace("max_epochs", "max_epoch"))
    [message], tags = failures(copy_of_town, "distill", "vanilla_student")
    assert "max_epoch" in message
    assert tags["hoser_kd/yaml_error"] == message
