"""Renumbering the roads of a city: all files by one mapping, and ids that cannot be mapped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hoser_kd.cli import main
from hoser_kd.common.errors import DataError
from hoser_kd.network.city import read_city
from hoser_kd.network.renumbering import renumber_roads

FACTOR, FIRST = 10, 7


@pytest.fixture
def other_ids(golden, tmp_path):
    """The golden city with the ids 7, 17, 27, …, in all files."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name, columns in (("roadmap.geo", ["geo_id"]), ("roadmap.rel", ["origin_id", "destination_id"])):
        table = pd.read_csv(golden / "hoser_city" / name)
        table[columns] = table[columns] * FACTOR + FIRST
        table.to_csv(folder / name, index=False)
    for split in ("train", "val", "test"):
        table = pd.read_csv(golden / "hoser_city" / f"{split}.csv")
        table["rid_list"] = [
            ", ".join(str(int(road) * FACTOR + FIRST) for road in roads.strip("[]").split(","))
            for roads in table["rid_list"]
        ]
        table.to_csv(folder / f"{split}.csv", index=False)
    return folder


def test_all_files_are_renumbered_by_one_mapping(golden, other_ids, tmp_path, capsys):
    out = tmp_path / "new"
    with pytest.raises(DataError, match="hoser-kd renumber-roads"):
        read_city(other_ids)
    assert main(["renumber-roads", str(other_ids), "--out", str(out)]) == 0
    assert "219 roads renumbered" in capsys.readouterr().out
    city, expected = read_city(out), read_city(golden / "hoser_city")
    np.testing.assert_array_equal(city.network.coords, expected.network.coords)
    np.testing.assert_array_equal(city.network.successors.indices, expected.network.successors.indices)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(city, split).road_ids, getattr(expected, split).road_ids)
        np.testing.assert_array_equal(getattr(city, split).times, getattr(expected, split).times)
    mapping = pd.read_csv(out / "road_ids.csv")
    np.testing.assert_array_equal(mapping["old_id"], mapping["geo_id"] * FACTOR + FIRST)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("roadmap.geo", "\n17,", "\n7,", "row 1: geo_id 7 is there twice"),
        ("roadmap.geo", "\n17,", "\n,", "row 1: a geo_id is empty"),
        ("roadmap.rel", ",17", ",18", "18 is not a geo_id of roadmap.geo"),
        ("val.csv", "7,", "8,", "in rid_list is not a geo_id of roadmap.geo"),
    ],
)
def test_ids_that_cannot_be_mapped_are_named(other_ids, tmp_path, name, old, new, message):
    file = other_ids / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        renumber_roads(other_ids, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_not_overwritten(other_ids):
    with pytest.raises(DataError, match="not an empty folder"):
        renumber_roads(other_ids, other_ids)
