"""Zones: parity with the published partition and counts, and validation of shipped files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from hoser_kd.common.arrays import Csr
from hoser_kd.common.errors import DataError
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.zones import ZonesConfig
from hoser_kd.network import road_network, trajectories
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.network.zones import MIN_ROADS_PER_ZONE, partition, read_shipped, transitions


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = make_city(tmp_path_factory.mktemp("city"), SyntheticConfig(blocks=(10, 10), num_trips=100))
    network = road_network.read_hoser(folder)
    return network, trajectories.read_hoser(folder / "train.csv", network)


@pytest.fixture(scope="module")
def published(golden):
    return golden / "hoser_city", road_network.read_hoser(golden / "hoser_city")


def _line(count):
    """A road network that is a line: each road is followed by the next, the last by none."""
    coords = np.column_stack([np.repeat(np.arange(count + 1), 2)[1:-1] / 1000, np.zeros(2 * count)])
    links = Csr(np.minimum(np.arange(count + 1), count - 1), np.arange(1, count))
    highway = np.array(["primary"] * count, object)
    return RoadNetwork(np.arange(0, 2 * count + 1, 2), coords, np.ones(count), highway, links)


def test_kahip_reproduces_the_published_partition(published):
    folder, network = published
    zones = partition(network, ZonesConfig(count=8))
    np.testing.assert_array_equal(zones, np.loadtxt(folder / "road_network_partition", dtype=np.int64))


def test_transitions_equal_the_published_counts(published):
    folder, network = published
    zones = read_shipped(folder, network).zones
    counts = transitions(zones, trajectories.read_hoser(folder / "train.csv", network), 8)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, np.load(folder / "zone_trans_mat.npy"))


def test_zones_are_balanced_connected_and_deterministic(city):
    network, _ = city
    config = ZonesConfig(count=12, imbalance=0.05)
    zones = partition(network, config)
    assert zones.shape == (network.num_roads,)
    sizes = np.bincount(zones, minlength=12)
    assert len(sizes) == 12
    assert sizes.max() <= np.ceil(network.num_roads / 12) * 1.05
    origin = np.repeat(np.arange(network.num_roads), network.successors.degrees)
    inside = zones[origin] == zones[network.successors.indices]
    graph = csr_array(
        (np.ones(inside.sum()), (origin[inside], network.successors.indices[inside])), (network.num_roads,) * 2
    )
    assert inside.mean() > 0.75
    assert connected_components(graph, directed=False)[0] <= 12 + 6
    np.testing.assert_array_equal(zones, partition(network, config))


def test_another_seed_gives_another_partition(city):
    network, _ = city
    some = [partition(network, ZonesConfig(count=12, seed=seed)) for seed in (0, 1)]
    assert (some[0] != some[1]).any()


@pytest.mark.parametrize("count", [2, 7, 12])
def test_bisection_is_balanced_compact_and_deterministic(city, count):
    network, _ = city
    config = ZonesConfig(count=count, method="bisection")
    zones = partition(network, config)
    sizes = np.bincount(zones, minlength=count)
    assert len(sizes) == count
    assert np.ptp(sizes) <= np.ceil(np.log2(count))
    np.testing.assert_array_equal(zones, partition(network, config))
    extent = np.array([np.ptp(network.centroids[zones == zone], axis=0) for zone in range(count)]).prod(1)
    assert extent.sum() <= np.ptp(network.centroids, axis=0).prod() * 1.0001


def test_a_small_network_gets_fewer_zones(city):
    network, _ = city
    zones = partition(network, ZonesConfig(count=300))
    assert zones.max() + 1 <= network.num_roads // MIN_ROADS_PER_ZONE < 300


@pytest.mark.parametrize("count", [2, 5, 9])
def test_tiny_networks(count):
    zones = partition(_line(count), ZonesConfig())
    assert zones.shape == (count,)
    assert set(zones) == set(range(max(1, count // MIN_ROADS_PER_ZONE)))


def test_kahip_prints_nothing(city, capfd):
    partition(city[0], ZonesConfig(count=12))
    assert capfd.readouterr() == ("", "")


def test_transitions_by_hand():
    trips = Trajectories(np.array([0, 4, 6]), np.array([0, 1, 2, 0, 2, 1]), np.arange(6))
    counts = transitions(np.array([0, 0, 2]), trips, 4)
    expected = np.zeros((4, 4), np.int64)
    expected[0, 2], expected[2, 0] = 1, 2
    np.testing.assert_array_equal(counts, expected)


def test_shipped_zones_are_read(published):
    folder, network = published
    shipped = read_shipped(folder, network)
    assert shipped.zones.dtype == np.int64
    assert np.bincount(shipped.zones).tolist() == [28, 28, 28, 27, 28, 26, 27, 27]
    np.testing.assert_array_equal(shipped.transitions, np.load(folder / "zone_trans_mat.npy"))


def test_no_shipped_files(tmp_path):
    np.save(tmp_path / "zone_trans_mat.npy", np.zeros((2, 2), np.int64))
    assert read_shipped(tmp_path, _line(3)) is None


def claiming(shape):
    """Return a `.npy` file of 24 bytes of values whose header claims another shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(24)


def _ship(folder, zones="0\n1\n1\n", matrix=None):
    (folder / "road_network_partition").write_text(zones)
    if isinstance(matrix, bytes):
        (folder / "zone_trans_mat.npy").write_bytes(matrix)
    elif matrix is not None:
        np.save(folder / "zone_trans_mat.npy", matrix)
    return read_shipped(folder, _line(3))


def test_a_partition_without_a_matrix(tmp_path):
    shipped = _ship(tmp_path)
    assert shipped.zones.tolist() == [0, 1, 1]
    assert shipped.transitions is None


@pytest.mark.parametrize(
    ("zones", "message"),
    [
        ("0\n1\n", "2 zones for 3 roads"),
        ("0\n1\n-1\n", r"row 2: '-1' is not a zone id"),
        ("0\n1.5\n1\n", r"row 1: '1.5' is not a zone id"),
        ("0\n1\n1000000\n", r"row 2: zone id 1000000 is not below 1000"),
        (f"0\n{'9' * 5000}\n1\n", r"row 1: zone id 9{20} is not below 1000"),
    ],
)
def test_a_partition_that_does_not_match_is_rejected(tmp_path, zones, message):
    with pytest.raises(DataError, match=rf"road_network_partition.*{message}.*use_shipped"):
        _ship(tmp_path, zones)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((1, 1), np.int64), "1 × 1, but the partition has 2 zones"),
        (np.zeros((2, 3), np.int64), "2 × 3"),
        (np.zeros((2, 2)), "integers"),
        (np.full((2, 2), -1), "negative"),
        (np.full((2, 2), 2**64 - 1, np.uint64), r"18446744073709551615 is above 2\^40"),
        (np.array([[{}]]), "cannot be read"),
        (b"nothing of the kind", "cannot be read"),
        (claiming((10**6, 10**6)), "cannot be read.*greater than file size"),
    ],
)
def test_a_matrix_that_does_not_match_is_rejected(tmp_path, matrix, message):
    with pytest.raises(DataError, match=rf"zone_trans_mat\.npy.*{message}.*use_shipped"):
        _ship(tmp_path, matrix=matrix)


def test_a_matrix_may_have_unused_zones(tmp_path):
    assert _ship(tmp_path, matrix=np.ones((5, 5), np.int32)).transitions.shape == (5, 5)
