"""A stage is added by an entry in STAGES and a function: asset, command line and run follow from these two."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from assets.pool import POOL
from assets.settings import settings_sections
from assets.stage_asset import stage_assets
from dagster_project.resources import ArtifactIOManager, Pipeline
from hoser_kd.cli import main
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import Stage

NAME = "road_count"
TOWN = "source: {kind: synthetic, synthetic: {blocks: [6, 6], num_trips: 60}}\nzones: {count: 6}\n"


def road_count(run):
    """The function of the new stage."""
    roads = json.loads((run.path("road_network") / "artifact.json").read_text())["summary"]["num_roads"]
    (run.folder / "count.json").write_text(json.dumps(roads))
    return {"roads": roads}


@pytest.fixture
def stage(monkeypatch):
    """The new stage, registered for one test."""
    stage = Stage(
        NAME,
        "network",
        "Number of roads.",
        inputs=("road_network",),
        settings=("zones",),
        uses_model=True,
        kinds=("json",),
        module=__name__,
    )
    monkeypatch.setitem(STAGES, NAME, stage)
    return stage


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config" / "town.yaml"
    file.parent.mkdir()
    file.write_text(TOWN)
    return file


def test_it_is_an_asset_with_the_properties_of_its_entry(stage):
    asset = next(asset for asset in stage_assets("network") if asset.key == dg.AssetKey(NAME))
    spec = asset.get_asset_spec(asset.key)
    assert spec.description == stage.description
    assert (spec.group_name, spec.kinds, spec.code_version) == ("network", {"json"}, "1")
    assert {dep.asset_key.to_user_string() for dep in spec.deps} == {"road_network", "settings/zones"}
    assert asset.op.pool == POOL


def test_dagster_materializes_it(stage, config, tmp_path):
    pipeline = Pipeline(config_folder=str(config.parent), store_root=str(tmp_path / "store"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("city", ["town"])
        result = dg.materialize(
            [*stage_assets("network"), settings_sections],
            selection=dg.AssetSelection.assets(NAME, "road_network", "source_files"),
            partition_key="town",
            instance=instance,
            resources={"pipeline": pipeline, "artifacts": ArtifactIOManager(pipeline)},
        )
    assert result.success
    [file] = (tmp_path / "store" / "town" / NAME).glob("*/count.json")
    assert int(file.read_text()) > 0


def test_the_command_line_offers_and_runs_it(stage, config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["make", "--help"])
    assert NAME in capsys.readouterr().out
    assert main(["make", NAME, "--config", str(config), "--store", str(tmp_path / "store")]) == 0
    assert f"{NAME} of town" in capsys.readouterr().out


def test_without_its_entry_there_is_no_such_stage(config, capsys):
    assert NAME not in {asset.key.to_user_string() for asset in stage_assets("network")}
    with pytest.raises(SystemExit) as exit_:
        main(["make", NAME, "--config", str(config)])
    assert exit_.value.code == 2
    assert NAME in capsys.readouterr().err
