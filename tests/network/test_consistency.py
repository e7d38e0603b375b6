"""Networks of valid rows that contradict themselves: other units, exchanged coordinates, ids that mean other roads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_city import grid_network

from hoser_kd.common.errors import DataError
from hoser_kd.network.consistency import connection_problem, length_problem, network_problems
from hoser_kd.network.road_network import read_network

NETWORK = grid_network()


def scaled(factor):
    return replace(NETWORK, length_m=NETWORK.length_m * factor)


def placed(coords):
    return replace(NETWORK, coords=coords)


def test_networks_of_any_place_and_porto_agree(porto):
    assert network_problems(read_network(porto)) == []
    for south_west in ((41.1, -8.6), (0.0, 0.0), (-33.9, 151.2), (69.6, 18.9)):
        assert network_problems(grid_network(5, south_west=south_west)) == []


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (scaled(1e-3), "probably in kilometers"),
        (scaled(3.28084), "probably in feet"),
        (scaled(1.0936), "probably in yards"),
        (scaled(1 / 1609.344), "probably in miles"),
        (scaled(1 / 111_195), "probably in degrees"),
        (scaled(0), "the median of length over the length of the line is 0"),
        (scaled(1.33), "agree within 5%"),
        (placed(NETWORK.coords[:, ::-1]), "write coordinates as [lon, lat]"),
        (placed(NETWORK.coords * 0), "the median of length over the length of the line is nan"),
        # as far north as east: half of the lengths grow and half shrink, so that the median hides it
        (placed(grid_network(6, 0.002, (35.5, 33.9)).coords[:, ::-1]), "write coordinates as [lon, lat]"),
        (placed((NETWORK.coords - NETWORK.coords.min(0)) * [84, 111.195]), "probably local kilometers"),
    ],
)
def test_lengths_that_do_not_agree_with_the_lines_are_named_with_the_cause(network, words):
    if "lon, lat" in words and network.coords[0, 0] < 36:
        network = replace(network, length_m=grid_network(6, 0.002, (35.5, 33.9)).length_m)
    assert words in length_problem(network)


def test_one_road_far_off_its_line_is_named():
    lengths = NETWORK.length_m.copy()
    lengths[7] = 4e6
    assert "road 7" in length_problem(replace(NETWORK, length_m=lengths))
    coords = NETWORK.coords.copy()
    coords[6] = 0  # the first point of road 3
    assert "road 3" in length_problem(placed(coords))


def test_ids_that_mean_other_roads_are_noticed_at_the_connections():
    order = np.random.default_rng(0).permutation(NETWORK.num_roads)
    shuffled = replace(
        NETWORK, coords=NETWORK.coords.reshape(-1, 4)[order].reshape(-1, 2), length_m=NETWORK.length_m[order]
    )
    assert "by the same mapping" in connection_problem(shuffled)
    assert connection_problem(NETWORK) is None


def geo(folder, *lines, lengths=(100,)):
    rows = [f'{i},LineString,"{line}",primary,{lengths[i % len(lengths)]}' for i, line in enumerate(lines)]
    (folder / "roadmap.geo").write_text("\n".join(["geo_id,type,coordinates,highway,length", *rows]) + "\n")
    (folder / "roadmap.rel").write_text("rel_id,type,origin_id,destination_id\n0,geo,0,0\n")
    return folder


@pytest.mark.parametrize(
    ("lines", "lengths", "message"),
    [
        (
            ["[[179.9, 0], [179.95, 0]]", "[[179.99, 0], [-179.99, 0]]"],
            (100,),
            "row 1: the line crosses the antimeridian",
        ),
        (["[[179.9, 0], [179.95, 0]]", "[[-179.99, 0], [-179.9, 0]]"], (100,), "on both sides of the antimeridian"),
        (["[[1, 0], [1.01, 0]]"], ("1e300",), "row 0: length is larger than the circumference"),
    ],
)
def test_impossible_roads_are_refused(tmp_path, lines, lengths, message):
    with pytest.raises(DataError, match=message):
        read_network(geo(tmp_path, *lines, lengths=lengths))


@pytest.mark.parametrize(("ids", "fix"), [((1, 0), "Sort the rows by geo_id"), ((10, 20), "by the same mapping")])
def test_ids_in_another_order_are_refused_with_the_fix_for_all_files(tmp_path, ids, fix):
    geo(tmp_path, "[[1, 0], [1.01, 0]]", "[[1, 0], [1.01, 0]]")
    file = tmp_path / "roadmap.geo"
    header, one, two = file.read_text().splitlines()
    file.write_text("\n".join([header, *(f"{new}{row[1:]}" for new, row in zip(ids, (one, two), strict=True))]) + "\n")
    with pytest.raises(DataError, match=f"geo_id is not the row number.*{fix}"):
        read_network(tmp_path)


@pytest.mark.parametrize("written", ['" 0"', '"0 "', "\"[' 0', '1']\"", "0"])
def test_blanks_around_a_class_make_no_other_class(tmp_path, written):
    geo(tmp_path, "[[1, 0], [1.01, 0]]", "[[1, 0], [1.01, 0]]")
    file = tmp_path / "roadmap.geo"
    file.write_text(file.read_text().replace("primary", written, 1).replace("primary", "0"))
    assert read_network(tmp_path).highway_names == ["0"]
