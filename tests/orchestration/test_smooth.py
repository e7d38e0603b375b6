"""What the UI says beside the results: the run that starts a chain, ranges of settings, freshness of the report."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from assets.freshness import WEEKLY
from assets.run_config import run_config_of
from assets.stage_asset import stage_asset
from dagster_project.full_pipeline import CHAIN_TAG, NOTE_TAG, FullPipeline, full_pipeline
from dagster_project.resources import Pipeline


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_run_that_starts_a_chain_says_so_and_links_to_its_runs(tmp_path):
    (tmp_path / "town.yaml").write_text("source: {kind: synthetic}\n")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("city", ["town"])
        result = full_pipeline.execute_in_process(
            instance=instance,
            partition_key="town",
            resources={"pipeline": Pipeline(config_folder=str(tmp_path), store_root=str(tmp_path))},
        )
    [output] = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    metadata = output.event_specific_data.metadata
    assert "only starts the chain" in metadata["note"].value
    assert metadata["next"].value.startswith("prepare_city, train_teacher, then distill")
    address = urlsplit(metadata["runs_of_the_chain"].value)
    assert (address.path, parse_qs(address.query)) == ("/runs", {"q[0]": [f"tag:{CHAIN_TAG}={result.run_id}"]})
    assert "only starts the chain" in result.dagster_run.tags[NOTE_TAG]


@pytest.mark.parametrize(
    ("stage", "name", "text"),
    [
        ("distilled_student", "lambda_kl", "Allowed: at least 0"),
        ("distilled_student", "temperature", "Allowed: at least 0.0001 and at most 10000.0"),
        ("vanilla_student", "max_epochs", "Allowed: at least 1"),
    ],
)
def test_a_setting_of_the_launchpad_names_its_range(stage, name, text):
    assert text in run_config_of(stage).model_fields[name].description


def test_seeds_of_the_launchpad_name_their_range():
    assert "from 0 to 4" in FullPipeline.model_fields["seeds"].description


def test_the_report_has_a_freshness_policy_where_the_schedule_is_on(monkeypatch):
    def policy(stage):
        [spec] = stage_asset(stage).specs
        return spec.freshness_policy

    monkeypatch.delenv(WEEKLY, raising=False)
    assert policy("distillation_report") is None
    monkeypatch.setenv(WEEKLY, "1")
    assert policy("distillation_report") == dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8))
    assert policy("teacher") is None
