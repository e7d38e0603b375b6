"""The memory of the sensors between two ticks."""

from __future__ import annotations

import json

import pytest

from assets.partitions import seeds_of
from dagster_project.city_state import CityState, observe_cities, read_content, read_cursor, write_cursor
from hoser_kd.common.errors import ConfigError

YAML = "source: {kind: synthetic}\n"


def observe(folder, states):
    messages: list[str] = []
    return list(observe_cities(folder, states, messages)), messages


def test_a_cursor_keeps_the_states():
    states = {"town": CityState({"grid": "1"}, "2", "3", None, "4", "5", 6), "village": CityState()}
    assert read_cursor(write_cursor(states)) == states


def test_a_cursor_of_an_earlier_release_starts_afresh():
    old = {"settings": {}, "looked_at": "1", "raw": None, "content": None, "content_of": "", "done": "2", "asked": 3}
    assert read_cursor(json.dumps({"town": old})) == {}
    assert read_cursor(None) == {}


def test_a_city_is_new_then_stable_and_a_changed_section_is_listed_once(tmp_path):
    (tmp_path / "town.yaml").write_text(YAML)
    states: dict[str, CityState] = {}
    (first,), _ = observe(tmp_path, states)
    assert (first.is_new, first.is_stable) == (True, False)
    assert {"source", "zones", "student"} <= set(first.changed)
    (second,), _ = observe(tmp_path, states)
    assert (second.is_new, second.is_stable, second.changed) == (False, True, {})
    (tmp_path / "town.yaml").write_text(YAML + "zones: {count: 5}\n")
    (third,), _ = observe(tmp_path, states)
    assert (third.is_stable, set(third.changed)) == (False, {"zones"})


def test_an_unreadable_yaml_is_reported_and_leaves_the_state(tmp_path):
    (tmp_path / "town.yaml").write_text(YAML)
    states: dict[str, CityState] = {}
    observe(tmp_path, states)
    before = dict(states)
    (tmp_path / "town.yaml").write_text("sauce: 1\n")
    cities, messages = observe(tmp_path, states)
    assert cities == []
    assert states == before
    assert "`sauce` is not a known setting" in messages[0]


def test_changed_raw_data_changes_its_section_and_the_content(tmp_path):
    for name in ("map.osm", "points.csv"):
        (tmp_path / name).write_text("1")
    source = f"kind: raw, map: {{path: {tmp_path}/map.osm}}, points: {{path: {tmp_path}/points.csv, time_zone: UTC}}"
    (tmp_path / "town.yaml").write_text(f"source: {{{source}}}\n")
    states: dict[str, CityState] = {}
    observe(tmp_path, states)
    (second,), _ = observe(tmp_path, states)
    content = read_content(second.config, second.state)
    (tmp_path / "points.csv").write_text("12")
    (third,), _ = observe(tmp_path, states)
    assert set(third.changed) == {"points"}
    assert not third.is_stable
    assert read_content(third.config, third.state) not in (None, content)
    (tmp_path / "map.osm").unlink()
    (fourth,), messages = observe(tmp_path, states)
    assert messages == []
    assert fourth.state.raw_signature is None


@pytest.mark.parametrize("text", ["five", "0", "-1", "1.5", "", "٣", "100000"])
def test_a_number_of_seeds_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match=r"HOSER_KD_SEEDS is .*, not a whole number from 1 to 1000"):
        seeds_of(text)
