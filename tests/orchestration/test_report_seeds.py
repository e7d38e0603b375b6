"""A report over seeds with different settings: they are not averaged together, and a check reports it."""

from __future__ import annotations

import json

import dagster as dg
import pytest


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_seeds_trained_with_different_lambdas_are_reported_and_not_averaged(copy_of_town):
    home = copy_of_town
    definitions = home.definitions()
    second = dg.MultiPartitionKey({"city": "town", "seed": "1"})

    with home.instance() as instance:

        def run(job, key, asset, **knobs):
            return definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=key,
                asset_selection=[dg.AssetKey(asset)],
                run_config={"ops": {asset: {"config": knobs}}} if knobs else None,
            )

        def report():
            done = run("report", "town", "distillation_report")
            (check,) = done.get_asset_check_evaluations()
            (made,) = done.asset_materializations_for_node("distillation_report")
            folder = home.store / "town" / "distillation_report" / made.tags["dagster/data_version"]
            return check, made.metadata, folder

        check, metadata, folder = report()
        assert check.passed
        assert metadata["seeds"].value == "0, 1"
        assert {row.data["asset"] for row in metadata["artifacts"].records} >= {
            "teacher",
            "grid_token_table",
            "teacher_soft_labels",
            "vanilla_student/seed-0",
            "distilled_student/seed-1",
        }
        assert " is left out: " not in (folder / "report.html").read_text()

        run("distill", second, "distilled_student", lambda_kl=0.75)
        check, metadata, _ = report()
        assert not check.passed
        assert metadata["seeds"].value == "0"
        assert check.severity == dg.AssetCheckSeverity.WARN
        assert "another version of distilled_student/seed-1" in check.description

        run("evaluate", second, "generated_trajectories")
        run("evaluate", second, "trajectory_metrics")
        check, metadata, folder = report()
        assert not check.passed
        assert metadata["seeds"].value == "1"
        assert json.loads((folder / "seeds.json").read_text()) == [1]
        (row,) = check.metadata["where"].records
        assert row.data == {"seed": 0, "reason": "distillation.lambda_kl is 0.1, not 0.75"}
        page = (folder / "report.html").read_text()
        assert "Seed 0 is left out: distillation.lambda_kl is 0.1, not 0.75." in page
        assert "lambda_kl: 0.75" in page  # the setting of the training, not of the YAML

        run("distill", second, "distilled_student")  # with the settings of the YAML: the first version
        run("evaluate", second, "generated_trajectories")
        run("evaluate", second, "trajectory_metrics")
        check, metadata, _ = report()
        assert check.passed
        assert metadata["seeds"].value == "0, 1"
