"""Versions hash the settings that differ from their defaults; artifacts record all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, create_model

from assets.settings import settings_version
from hoser_kd.config.bounds import Bounds
from hoser_kd.config.grid import GridConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.section import EXECUTION_ONLY
from hoser_kd.config.source import SourceConfig, SyntheticConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import settings_of, version_of
from hoser_kd.pipeline.seed_selection import select_seeds
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.store import Artifact

BOUNDS = {"min_lat": 41.0, "max_lat": 41.2, "min_lng": -8.7, "max_lng": -8.5}
TOWN = {
    "city": "town",
    "source": {"kind": "synthetic", "synthetic": {"num_trips": 60}},
    "grid": {"bounds": BOUNDS, "cell_size_m": 80},
    "student": {"max_epochs": 3},
}


def versions(config):
    """The version of every stage, and the data version of every section of the settings."""
    stages = {name: version_of(stage, config, {}, 0 if stage.per_seed else None) for name, stage in STAGES.items()}
    return stages | {f"settings/{name}": settings_version(name, read(config)).value for name, read in SETTINGS.items()}


def with_key(base, **fields):
    return create_model(base.__name__, __base__=base, **fields)


@pytest.fixture
def larger_city(monkeypatch):
    """Settings with a new key in a section, in a section inside it, and in a section that is optional."""
    student = with_key(StudentConfig, a_new_key=(bool, False))
    synthetic = with_key(SyntheticConfig, a_new_key=(int, 4))
    source = with_key(SourceConfig, synthetic=(synthetic, synthetic()))
    bounds = with_key(Bounds, a_new_key=(float | None, None))
    grid = with_key(GridConfig, bounds=(bounds | str | None, None))
    city = with_key(CityConfig, source=(source, ...), grid=(grid, grid()), student=(student, student()))
    monkeypatch.setattr("hoser_kd.pipeline.settings_section.CityConfig", city)
    return city


@pytest.fixture
def city_with_threads(monkeypatch):
    """Settings with a new key for the execution in a section, in a section inside it, and in an optional section."""
    threads = (int, Field(1, json_schema_extra={EXECUTION_ONLY: True}))
    student, bounds = with_key(StudentConfig, threads=threads), with_key(Bounds, threads=threads)
    synthetic = with_key(SyntheticConfig, threads=threads)
    source = with_key(SourceConfig, synthetic=(synthetic, synthetic()))
    grid = with_key(GridConfig, bounds=(bounds | str | None, None))
    city = with_key(CityConfig, source=(source, ...), grid=(grid, grid()), student=(student, student()))
    monkeypatch.setattr("hoser_kd.pipeline.settings_section.CityConfig", city)
    return city


def change(place, value):
    """The town's settings with one changed."""
    section, *inner, key = place.split(".")
    values = dict(TOWN.get(section, {}))
    target = values
    for name in inner:
        target[name] = dict(target[name])
        target = target[name]
    target[key] = value
    return {**TOWN, section: values}


def test_a_new_key_at_its_default_changes_no_version(larger_city):
    before = versions(CityConfig.model_validate(TOWN))
    config = larger_city.model_validate(TOWN)
    assert versions(config) == before
    recorded = {name: read(config) for name, read in SETTINGS.items()}
    assert recorded["student"]["a_new_key"] is False
    assert recorded["source"]["synthetic"]["a_new_key"] == 4
    assert recorded["grid"]["bounds"]["a_new_key"] is None


@pytest.mark.parametrize("place", ["student.threads", "source.synthetic.threads", "grid.bounds.threads"])
def test_a_key_for_the_execution_changes_neither_versions_nor_records(city_with_threads, place):
    before, config = CityConfig.model_validate(TOWN), city_with_threads.model_validate(change(place, 4))
    section = SETTINGS[place.partition(".")[0]]
    assert "'threads': 4" in str(section.read(config))
    assert versions(config) == versions(before)
    assert section(config) == section(before)
    assert section.changed(section.read(config)) == section.changed(section.read(before))
    assert "threads" not in str(section.defaults())


@pytest.mark.parametrize(
    ("place", "value", "stages"),
    [
        ("student.a_new_key", True, {"vanilla_student", "distilled_student", "settings/student"}),
        ("source.synthetic.a_new_key", 5, {"source_files", "settings/source"}),
        ("grid.bounds.a_new_key", 1.5, {"grid_token_table", "settings/grid"}),
    ],
)
def test_a_new_key_that_is_set_changes_the_versions_of_the_stages_that_read_it(larger_city, place, value, stages):
    before = versions(larger_city.model_validate(TOWN))
    after = versions(larger_city.model_validate(change(place, value)))
    assert {name for name in before if before[name] != after[name]} == stages


@pytest.mark.parametrize(
    ("place", "value", "stages"),
    [
        ("student.max_epochs", 4, {"vanilla_student", "distilled_student", "settings/student"}),
        ("student.batch_size", 255, {"vanilla_student", "distilled_student", "settings/student"}),
        ("source.synthetic.num_trips", 61, {"source_files", "settings/source"}),
        ("source.synthetic.seed", 1, {"source_files", "settings/source"}),
        ("source.on_bad_row", "drop", {"trajectories", "settings/rows"}),
        ("grid.bounds.max_lat", 41.3, {"grid_token_table", "settings/grid"}),
        ("grid.bounds", "roads", {"grid_token_table", "settings/grid"}),
        ("evaluation.peak_hours", [[7.0, 10.0]], {"trajectory_metrics", "baseline_trips", "settings/evaluation"}),
        ("generation.decoder", "sampling", {"generated_trajectories", "settings/generation"}),
        (
            "generation.num_trips",
            4,
            {"generated_trajectories", "baseline_trips", "settings/generation", "settings/requests"},
        ),
    ],
)
def test_a_changed_value_changes_the_versions_of_the_stages_that_read_it(place, value, stages):
    before = versions(CityConfig.model_validate(TOWN))
    after = versions(CityConfig.model_validate(change(place, value)))
    assert {name for name in before if before[name] != after[name]} == stages


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("student.batch_size", 256),
        ("student.dropout", 0),
        ("source.synthetic.blocks", [21, 21]),
        ("distill.temperature", 2.0),
        ("distill.labels", "stored"),
        ("evaluation.peak_hours", [[7, 10], [17, 20]]),
        ("generation.od_file", None),
    ],
)
def test_a_default_that_is_written_out_equals_one_that_is_left_out(place, value):
    assert versions(CityConfig.model_validate(change(place, value))) == versions(CityConfig.model_validate(TOWN))


def test_defaults_alone_leave_nothing_to_hash():
    for section in SETTINGS.values():
        assert section.changed(section.defaults()) == {}


def test_seeds_recorded_before_and_after_a_new_key_are_comparable(larger_city):
    """Finished artifacts stay fresh, so a report has both kinds of record."""

    def student(seed, config):
        settings = settings_of(STAGES["vanilla_student"], config)
        return Artifact(
            "vanilla_student", "town", seed, f"v{seed}", Path(), "1", settings=settings, created_at=str(seed)
        )

    before, after = CityConfig.model_validate(TOWN), larger_city.model_validate(TOWN)
    other = larger_city.model_validate(change("student.a_new_key", True))
    selection = select_seeds(
        {"vanilla_student": {0: student(0, other), 1: student(1, before), 2: student(2, after)}}, {}
    )
    assert selection.seeds == (1, 2)
    assert [row["reason"] for row in selection.left_out] == ["student.a_new_key is True, not the default"]
