"""Stages: versions depend on inputs, settings and seed; existing artifacts are reused; failed stages leave none."""

from __future__ import annotations

import os

import pytest

from hoser_kd.common.errors import CheckError, DataError, HoserKdError
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_all, make_with_inputs, version_of
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.store import Store


def town(**sections) -> CityConfig:
    small = {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 60}}
    return CityConfig.model_validate(
        {
            "city": "town",
            "source": small,
            "zones": {"count": 6},
            "grid": {"bounds": "roads", "cell_size_m": 80},
            **sections,
        }
    )


def versions(config, store, name="grid_token_table"):
    return {stage: artifact.version for stage, artifact in make_all([name], config, store).items()}


def test_every_stage_reads_earlier_stages_and_known_settings():
    names = list(STAGES)
    for place, stage in enumerate(STAGES.values()):
        assert set(stage.inputs) <= set(names[:place])
        assert set(stage.settings) <= set(SETTINGS)
        assert callable(stage.function())


def test_existing_artifacts_are_reused(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = versions(town(), store)

    def refuse(_):
        raise AssertionError("a stage was computed again")

    monkeypatch.setattr("hoser_kd.pipeline.stage.Stage.function", lambda stage: refuse)
    assert versions(town(), store) == first


def test_the_report_reads_the_given_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("hoser_kd.pipeline.stage.Stage.function", lambda stage: lambda run: {"content": "0" * 16})
    monkeypatch.setattr("hoser_kd.pipeline.run.run_checks", lambda artifact, inputs: [])
    monkeypatch.setattr("hoser_kd.pipeline.run.CHECKS", {})
    store = Store(tmp_path)
    report = make_with_inputs("distillation_report", town(), store, seed=2, seeds=[2, 0])
    students = sorted(name for name in report.inputs if name.startswith("vanilla_student"))
    assert len(students) == 2
    assert report.inputs != make_with_inputs("distillation_report", town(), store, seed=2).inputs
    assert {path.name for path in (tmp_path / "town" / "vanilla_student").iterdir()} == {"seed-0", "seed-2"}


def test_a_setting_changes_the_version_of_the_stages_that_read_it(tmp_path):
    store = Store(tmp_path)
    first = versions(town(), store)
    other = versions(town(grid={"bounds": "roads", "cell_size_m": 160}), store)
    assert {name for name in first if first[name] != other[name]} == {"grid_token_table"}
    assert versions(town(distill={"temperature": 5.0}), store) == first


@pytest.mark.parametrize(
    ("setting", "sections"),
    [
        ({"temperature": 3.0}, {"distillation"}),
        ({"lambda_kl": 0.5}, {"distillation"}),
        ({"window": 16}, {"labels"}),
        ({"teacher_fp16": False}, {"labels"}),
        ({"repo_path": "/anywhere"}, set()),
    ],
)
def test_each_key_of_the_distill_section_belongs_to_one_section_of_the_settings(setting, sections):
    plain, changed = town(), town(distill=setting)
    assert {name for name, section in SETTINGS.items() if section(plain) != section(changed)} == sections


def test_seed_and_code_version_are_part_of_a_version(monkeypatch):
    stage = STAGES["vanilla_student"]
    assert version_of(stage, town(), {}, 0) != version_of(stage, town(), {}, 1)
    before = version_of(stage, town(), {}, 0)
    monkeypatch.setitem(stage.__dict__, "code_version", "another")
    assert version_of(stage, town(), {}, 0) != before


def test_a_moved_folder_keeps_the_source_version_and_changed_files_change_it(tmp_path):
    make_city(tmp_path / "here", town().source.synthetic)
    store = Store(tmp_path / "store")
    config = town(source={"kind": "hoser", "path": str(tmp_path / "here")})
    first = versions(config, store, "trajectories")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = town(source={"kind": "hoser", "path": str(tmp_path / "there")})
    assert versions(moved, store, "trajectories") == first
    lines = (tmp_path / "there" / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "there" / "train.csv").write_text("".join(lines[:-1]))
    changed = versions(moved, store, "trajectories")
    assert {name for name in first if first[name] != changed[name]} == {"source_files", "road_network", "trajectories"}


def test_later_stages_find_files_that_were_moved_or_copied(tmp_path):
    make_city(tmp_path / "here", town().source.synthetic)
    store = Store(tmp_path / "store")
    config = town(source={"kind": "hoser", "path": str(tmp_path / "here")})
    source = make_with_inputs("source_files", config, store)
    file = tmp_path / "here" / "roadmap.geo"
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 5))
    make(STAGES["road_network"], config, store, {"source_files": source})  # the same content, another modification time
    (tmp_path / "here").rename(tmp_path / "there")
    moved = town(source={"kind": "hoser", "path": str(tmp_path / "there")})
    assert versions(moved, store, "trajectories")["source_files"] == source.version


def test_files_that_change_after_source_files_are_an_error(tmp_path):
    make_city(tmp_path / "here", town().source.synthetic)
    config = town(source={"kind": "hoser", "path": str(tmp_path / "here")})
    store = Store(tmp_path / "store")
    source = make_with_inputs("source_files", config, store)
    (tmp_path / "here" / "roadmap.rel").write_text("rel_id,type,origin_id,destination_id\n0,geo,0,1\n")
    with pytest.raises(DataError, match=r"roadmap\.rel: the file has changed since source_files read it"):
        make(STAGES["road_network"], config, store, {"source_files": source})


def test_a_stage_that_fails_leaves_no_artifact(tmp_path):
    make_city(tmp_path / "here", town().source.synthetic)
    (tmp_path / "here" / "val.csv").write_text('rid_list,time_list\n"[0]",2013-07-01T00:01:15Z\n')
    config = town(source={"kind": "hoser", "path": str(tmp_path / "here")})
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match=r"val\.csv, row 0: fewer than 2 roads"):
        make_with_inputs("trajectories", config, store)
    assert not (tmp_path / "store" / "town" / "trajectories").exists()
    assert (tmp_path / "store" / "town" / "road_network").exists()


def test_a_blocking_check_stops_the_command_line_too(tmp_path):
    elsewhere = {"min_lat": 10.0, "max_lat": 10.1, "min_lng": 20.0, "max_lng": 20.1}
    config = town(grid={"bounds": elsewhere, "cell_size_m": 80})
    with pytest.raises(CheckError, match=r"check roads_inside_grid failed: 0\.0% of the roads lie inside the grid"):
        make_with_inputs("teacher_corpus", config, Store(tmp_path))


def test_a_damaged_artifact_is_computed_again(tmp_path):
    store = Store(tmp_path)
    artifact = make_with_inputs("road_centroids", town(), store)
    (artifact.path / "road_centroids.parquet").unlink()
    assert (make_with_inputs("road_centroids", town(), store).path / "road_centroids.parquet").is_file()


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(HoserKdError, match=r"needs source_files, which is not materialized\. Materialize it first"):
        make(STAGES["road_network"], town(), Store(tmp_path), {})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"generation": {"od_source": "file", "od_file": "nope.csv"}}, r"nope\.csv: no such file.*generation\.od_file"),
        ({"distill": {"ckpt_path": "nope.pt"}}, r"nope\.pt: no such file.*distill\.ckpt_path"),
        ({"grid": {}}, r"min_lat, .*are missing.*bounds: roads"),
        ({"grid": {"bounds": "roads"}}, r"cell_lat, cell_lng are missing"),
    ],
)
def test_errors_in_settings_of_a_late_stage_come_before_the_first_stage(tmp_path, sections, message):
    stages = []
    with pytest.raises(HoserKdError, match=message):
        make_with_inputs("generated_trajectories", town(**sections), Store(tmp_path), on_stage=stages.append)
    assert stages == []
    assert not list(tmp_path.iterdir())


def test_settings_that_no_step_reads_are_not_checked(tmp_path):
    config = town(grid={}, generation={"od_source": "file", "od_file": "nope.csv"})
    assert make_with_inputs("road_network", config, Store(tmp_path)).stage == "road_network"
