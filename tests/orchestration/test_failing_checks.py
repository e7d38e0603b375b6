"""A blocking check that fails in a real run: it says so with a table and a picture, and nothing goes on from there."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_project.definitions import build_defs

FAILING = {
    # check: job, its asset, what may not run then, and the edit of the YAML that must make it fail
    "roads_inside_grid": ("prepare_city", "grid_token_table", None, "bounds: roads",
                          "bounds: {min_lat: 10, max_lat: 10.01, min_lng: 20, max_lng: 20.01}"),
    "cells_tell_roads_apart": ("prepare_city", "grid_token_table", None, "cell_size_m: 80", "cell_size_m: 80000"),
    "beats_blind_guess": ("train_teacher", "teacher", "teacher_soft_labels", "max_epochs: 2}\nstudent",
                          "max_epochs: 1, learning_rate: 1.0}\nstudent"),
    "beats_trivial_guess": ("distil", "vanilla_student", None, "learning_rate: 0.01", "learning_rate: 1.0e-12"),
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
    definitions = build_defs(config_folder=home.config, store_root=str(home.store))
    selected = [dg.AssetKey(name) for name in (asset, stopped) if name]
    key = dg.MultiPartitionKey({"city": "town", "seed": "0"}) if job == "distil" else "town"
    with dg.DagsterInstance.from_config(home.environment["DAGSTER_HOME"]) as instance:
        done = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=key, asset_selection=selected, raise_on_error=False)
        assert not done.success
        found = {result.check_name: result for result in done.get_asset_check_evaluations()}
        assert not found[check].passed
        assert [event.asset_key.path[-1] for event in done.get_asset_materialization_events()] == [asset]
        # what the UI shows of it
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(asset), check), limit=1)
        shown = record.event.dagster_event.event_specific_data.metadata
        assert isinstance(shown["where"], dg.TableMetadataValue)
        assert shown["where"].records
        assert "data:image/png;base64," in shown["picture"].value
