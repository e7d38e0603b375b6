"""What a person may change for one run: few knobs, told what they are, checked as in the YAML, part of the version."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.knobs import KNOBS, changes, run_config_of
from dagster_project.definitions import build_defs
from hoser_kd.config import load_config, with_changes
from hoser_kd.errors import ConfigError


@pytest.mark.parametrize("stage", KNOBS)
def test_knobs_are_described_and_change_nothing_unless_given(stage):
    config = run_config_of(stage)
    assert changes(stage, config()) == {}
    for name, field in config.model_fields.items():
        assert field.description, name
        assert not field.is_required()


def test_a_value_the_yaml_could_not_have_is_refused(tmp_path):
    file = tmp_path / "town.yaml"
    file.write_text("source: {kind: synthetic}\n")
    config = load_config(file)
    assert with_changes(config, {"distill.lambda_kl": 0.5}).distill.lambda_kl == 0.5
    with pytest.raises(ConfigError, match=r"`distill\.temperature`.*given: -1"):
        with_changes(config, {"distill.temperature": -1})


# Dagster reads a property of its own that it has deprecated, where a resource holds another one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_changed_knob_is_a_version_of_its_own(copy_of_town):
    home = copy_of_town
    job = build_defs(config_folder=home.config, store_root=str(home.store)).resolve_job_def("distil")
    folder = home.store / "town" / "distilled_student" / "seed-0"
    before = {path.name for path in folder.iterdir()}

    def distil(**knobs):
        with dg.DagsterInstance.from_config(home.environment["DAGSTER_HOME"]) as instance:
            done = job.execute_in_process(
                instance=instance, partition_key=dg.MultiPartitionKey({"city": "town", "seed": "0"}),
                asset_selection=[dg.AssetKey("distilled_student")],
                run_config={"ops": {"distilled_student": {"config": knobs}}} if knobs else None)
            return done.asset_materializations_for_node("distilled_student")[0]

    changed = distil(lambda_kl=0.5)
    version = changed.tags["dagster/data_version"]
    assert {path.name for path in folder.iterdir()} - before == {version}
    assert changed.metadata["changed_for_this_run"].value == {"distill.lambda_kl": 0.5}
    assert {distil().tags["dagster/data_version"]} == before
