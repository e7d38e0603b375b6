"""Metrics: parity with the published evaluation, and properties that hold for any trips."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import DataError, DataWarning
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation import _similarity_kernels as kernels
from hoser_kd.evaluation.comparison import compare
from hoser_kd.evaluation.distributions import histogram_edges
from hoser_kd.evaluation.metric_registry import METRICS, SECTIONS, Metric, all_metrics, register
from hoser_kd.evaluation.metrics import evaluate, flatten
from hoser_kd.evaluation.next_step_records import NEXT_STEP
from hoser_kd.evaluation.pairing import od_cells, pair_by_od_cell
from hoser_kd.evaluation.trip_measures import (
    gyration_km,
    length_km,
    radius_km,
    step_minutes,
    traveled_km,
    trip_minutes,
)
from hoser_kd.network.road_network import RoadNetwork, read_hoser
from hoser_kd.network.trajectories import Trajectories, read_published_csv
from hoser_kd.network.trajectories import read_hoser as read_trips

BEIJING = EvaluationConfig()  # golden lies in Beijing, whose published corner is the default there
NETWORK = grid_network()


@pytest.fixture(scope="module")
def plain():
    """Return the benchmark's definitions in plain Python."""
    path = Path(__file__).parents[2] / "benchmarks" / "metrics.py"
    spec = importlib.util.spec_from_file_location("benchmark_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(golden: Path) -> dict:
    return json.loads((golden / "eval_golden.json").read_text())


@pytest.fixture(scope="module")
def golden_trips(golden: Path) -> tuple[Trajectories, Trajectories, RoadNetwork]:
    network = read_hoser(golden / "hoser_city")
    real = read_trips(golden / "eval_real.csv", network)
    return real, read_published_csv(golden / "eval_gen.csv", network), network


@pytest.fixture(scope="module")
def golden_metrics(golden_trips) -> dict:
    return evaluate(*golden_trips, BEIJING, details=True)


def trips_of(*walks: list[int]) -> Trajectories:
    roads = np.array([road for walk in walks for road in walk], np.int64)
    offsets = offsets_of(np.array([len(walk) for walk in walks]))
    return Trajectories(offsets, roads, np.arange(len(roads), dtype=np.int64) * 30)


class TestPublished:
    @pytest.mark.parametrize("name", ["distance", "radius"])
    def test_values_of_every_trip(self, golden_metrics, published, name):
        values = golden_metrics["details"][name]
        np.testing.assert_allclose(values["real"], published[name]["real"], rtol=1e-9)
        np.testing.assert_allclose(values["generated"], published[name]["gen"], rtol=1e-9)

    @pytest.mark.parametrize("name", ["distance", "radius", "duration"])
    def test_means_and_divergence(self, golden_metrics, published, name):
        ours, theirs = golden_metrics[name], published[name]
        assert ours["real_mean"] == pytest.approx(theirs["real_mean"], rel=1e-10)
        assert ours["generated_mean"] == pytest.approx(theirs["gen_mean"], rel=1e-10)
        assert ours["jsd"] == pytest.approx(theirs["jsd"], rel=1e-10)

    @pytest.mark.parametrize("name", ["distance", "duration"])
    def test_histograms(self, golden_metrics, published, name):
        assert golden_metrics["details"][name]["real_histogram"] == published[name]["real_hist"]
        assert golden_metrics["details"][name]["generated_histogram"] == published[name]["gen_hist"]

    def test_edges(self, golden_metrics, published):
        edges = golden_metrics["details"]["distance"]["edges"]
        expected = published["distance"]["bin_edges_first3_last3"]
        assert len(edges) == published["distance"]["n_bins"]
        np.testing.assert_allclose(edges[:3] + edges[-2:], expected[:-1], rtol=1e-12)

    def test_pairs(self, golden_metrics, published):
        assert golden_metrics["details"]["pairs"] == published["pairs"]

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("hausdorff", "hausdorff"),
            ("dtw", "dtw_exact"),
            ("edr", "edr_lonlat_order_fixed"),
            ("edr_published", "edr"),
        ],
    )
    def test_every_pair(self, golden_metrics, published, ours, theirs):
        values = golden_metrics["details"]["similarity"][ours]
        np.testing.assert_allclose(values, published[theirs]["per_pair"], rtol=1e-9, atol=1e-12)
        assert golden_metrics["similarity"][ours] == pytest.approx(published[theirs]["mean"], rel=1e-10)

    def test_exact_dtw_is_never_above_the_published_approximation(self, golden_metrics, published):
        exact = np.array(golden_metrics["details"]["similarity"]["dtw"])
        assert (exact <= np.array(published["dtw"]["per_pair"]) + 1e-9).all()

    def test_per_road_metrics_equal_those_of_the_later_scripts(self, golden_trips, published):
        """These scripts pair trips by cells of 0.001° and use the mean earth radius."""
        real, generated, network = golden_trips
        row, column = np.floor(network.centroids / 0.001).astype(np.int64).T
        pairs = pair_by_od_cell(real, generated, (row - row.min()) * 1000 + column - column.min())
        values = kernels.pair_distances(real, generated, pairs, network.centroids, 100.0)
        mean_roads = (real.lengths[pairs[:, 0]] + generated.lengths[pairs[:, 1]]) / 2
        scale = 6371.0 / kernels.RADIUS_KM
        theirs = published["fork_evaluation_py"]
        for name, column in (("Hausdorff", kernels.HAUSDORFF_KM), ("DTW", kernels.DTW_KM)):
            assert (values[:, column] / mean_roads).mean() * scale == pytest.approx(theirs[f"{name}_norm"], rel=1e-5)


walks = st.lists(st.integers(0, NETWORK.num_roads - 1), min_size=1, max_size=12)


class TestKernel:
    @given(walks, walks)
    @settings(max_examples=60, deadline=None)
    def test_equals_the_plain_definitions(self, plain, a, b):
        values = kernels.pair_distances(trips_of(a), trips_of(b), np.array([[0, 0]]), NETWORK.centroids, 100.0)[0]
        here, there = ([tuple(p) for p in NETWORK.centroids[walk].tolist()] for walk in (a, b))
        assert values[kernels.HAUSDORFF_KM] == pytest.approx(plain.hausdorff_km(here, there), rel=1e-8, abs=1e-9)
        assert values[kernels.DTW_KM] == pytest.approx(plain.dtw_km(here, there), rel=1e-8, abs=1e-9)
        assert values[kernels.EDR] == plain.edr(here, there, 100.0)
        swapped = [[(lon, lat) for lat, lon in points] for points in (here, there)]
        assert values[kernels.EDR_PUBLISHED] == plain.edr(*swapped, 100.0)
        assert values[kernels.ROAD_EDITS] == plain.edits(len(a), len(b), [[p == q for q in b] for p in a])

    @given(walks, walks)
    @settings(max_examples=60, deadline=None)
    def test_symmetric_and_ordered(self, a, b):
        there = kernels.pair_distances(trips_of(a), trips_of(b), np.array([[0, 0]]), NETWORK.centroids, 100.0)[0]
        back = kernels.pair_distances(trips_of(b), trips_of(a), np.array([[0, 0]]), NETWORK.centroids, 100.0)[0]
        np.testing.assert_allclose(there, back, rtol=1e-12)
        assert there[kernels.HAUSDORFF_KM] <= there[kernels.DTW_KM] + 1e-12
        assert 0 <= there[kernels.EDR] <= 1

    def test_many_pairs_of_many_lengths_equal_one_by_one(self):
        real, generated = random_trips(NETWORK, 12, seed=1), random_trips(NETWORK, 9, seed=2, lengths=(1, 30))
        pairs = np.argwhere(np.ones((12, 9), bool))
        together = kernels.pair_distances(real, generated, pairs, NETWORK.centroids, 100.0)
        single = [kernels.pair_distances(real, generated, pair[None], NETWORK.centroids, 100.0)[0] for pair in pairs]
        np.testing.assert_array_equal(together, single)

    def test_a_trip_has_no_distance_from_itself(self):
        trips = random_trips(NETWORK, 5)
        same = np.repeat(np.arange(5), 2).reshape(-1, 2)
        assert (kernels.pair_distances(trips, trips, same, NETWORK.centroids, 100.0) == 0).all()

    def test_trips_mapped_from_a_file_need_no_second_compilation(self, tmp_path):
        trips = random_trips(NETWORK, 4)
        trips.save(tmp_path / "trips.arrow")
        mapped = Trajectories.load(tmp_path / "trips.arrow")
        pairs = np.array([[0, 1], [2, 3]])
        expected = kernels.pair_distances(trips, trips, pairs, NETWORK.centroids, 100.0)
        compiled = len(kernels._sweep.signatures)
        np.testing.assert_array_equal(kernels.pair_distances(mapped, mapped, pairs, NETWORK.centroids, 100.0), expected)
        assert len(kernels._sweep.signatures) == compiled

    def test_compiles_where_no_cache_can_be_written(self):
        namespace: dict = {}
        exec("def twice(x):\n    return x + x", namespace)  # a function without a file has no place for a cache
        assert kernels.compiled(namespace["twice"])(21) == 42


class TestPairing:
    @given(
        st.lists(st.tuples(*[st.integers(0, NETWORK.num_roads - 1)] * 2), min_size=1, max_size=25),
        st.lists(st.tuples(*[st.integers(0, NETWORK.num_roads - 1)] * 2), min_size=1, max_size=25),
        st.integers(1, 6),
    )
    @settings(max_examples=80, deadline=None)
    def test_equals_pairing_one_by_one(self, real_ods, generated_ods, num_cells):
        cell = np.arange(NETWORK.num_roads) % num_cells
        waiting = defaultdict(list)
        for row, (o, d) in enumerate(real_ods):
            waiting[cell[o], cell[d]].append(row)
        by_od: dict = {}
        for row, (o, d) in enumerate(generated_ods):
            by_od.setdefault((cell[o], cell[d]), []).append(row)
        expected = [[r, g] for od, rows in by_od.items() for r, g in zip(waiting[od], rows, strict=False)]
        pairs = pair_by_od_cell(trips_of(*map(list, real_ods)), trips_of(*map(list, generated_ods)), cell)
        assert pairs.tolist() == expected

    def test_the_corner_is_the_published_one_in_a_published_city_and_the_roads_own_elsewhere(self):
        porto = EvaluationConfig(od_corner=(41.1406, -8.689))
        np.testing.assert_array_equal(od_cells(NETWORK, EvaluationConfig()), od_cells(NETWORK, porto))
        elsewhere = grid_network(4, south_west=(50.0, 7.0))
        lat, lon = elsewhere.centroids.T
        own = EvaluationConfig(od_corner=(float(lat.min()), float(lon.min())))
        np.testing.assert_array_equal(od_cells(elsewhere, EvaluationConfig()), od_cells(elsewhere, own))

    def test_cells_have_the_configured_width(self):
        """200 m cells on a street grid of 222 m by 168 m, compared with a planar computation in meters."""
        lat, lon = NETWORK.centroids.T
        cells = od_cells(NETWORK, EvaluationConfig(od_corner=(float(lat.min()), float(lon.min()))))
        north = np.floor((lat - lat.min()) * 111_050 / 200)
        east = np.floor((lon - lon.min()) * 111_320 * np.cos(np.radians(lat)) / 200)
        assert len(np.unique(cells)) == len({*zip(north, east, strict=True)})
        _, ours = np.unique(cells, return_inverse=True)
        _, theirs = np.unique(east * 1000 + north, return_inverse=True)
        np.testing.assert_array_equal(ours, theirs)

    def test_roads_on_either_side_of_the_corner_do_not_share_cells(self):
        lat, lon = NETWORK.centroids.T
        middle = EvaluationConfig(od_corner=(float(np.median(lat)) + 1e-4, float(np.median(lon)) + 1e-4))
        cells = od_cells(NETWORK, middle)
        assert not set(cells[lon < middle.od_corner[1]]) & set(cells[lon > middle.od_corner[1]])
        assert not set(cells[lat < middle.od_corner[0]]) & set(cells[lat > middle.od_corner[0]])


class TestValues:
    """A trip over three roads with centers on one meridian, computed by hand."""

    TRIP = trips_of([0, 2, 1])
    NETWORK = replace(
        NETWORK,
        coord_offsets=np.array([0, 2, 4, 6]),
        length_m=np.array([100.0, 200.0, 300.0]),
        coords=np.array([[0.0, y + d] for y in (0.0, 0.03, 0.01) for d in (-0.001, 0.001)]),
    )
    DEGREE_KM = 6371.009 * math.pi / 180

    def test_distance_is_summed_over_the_centers(self):
        assert traveled_km(self.TRIP, self.NETWORK) == pytest.approx([0.03 * self.DEGREE_KM])

    def test_radius_is_the_mean_distance_to_the_mean(self):
        middle = 0.04 / 3
        away = (middle + (0.03 - middle) + (middle - 0.01)) / 3
        assert radius_km(self.TRIP, self.NETWORK) == pytest.approx([away * self.DEGREE_KM])

    def test_radius_of_gyration_is_the_root_mean_square(self):
        middle = 0.04 / 3
        square = (middle**2 + (0.03 - middle) ** 2 + (middle - 0.01) ** 2) / 3
        assert gyration_km(self.TRIP, self.NETWORK) == pytest.approx([math.sqrt(square) * self.DEGREE_KM])

    def test_lengths_and_times(self):
        assert length_km(self.TRIP, self.NETWORK) == pytest.approx([0.6])
        assert step_minutes(self.TRIP).tolist() == [0.5, 0.5]
        assert trip_minutes(self.TRIP).tolist() == [1.0]

    def test_steps_do_not_run_from_one_trip_into_the_next(self):
        trips = trips_of([0], [1, 2], [2])
        assert len(step_minutes(trips)) == 1
        assert traveled_km(trips, self.NETWORK) == pytest.approx([0, 0.02 * self.DEGREE_KM, 0])

    def test_divergence_of_halves(self):
        """Visits (1, 0) and (1/2, 1/2) of two roads, by hand."""
        real, generated = trips_of([0]), trips_of([0, 1])
        expected = 0.5 * math.log(1 / 0.75) + 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
        assert evaluate(real, generated, self.NETWORK)["road_use"]["jsd"] == pytest.approx(expected)


_DISTRIBUTIONS = ("distance", "radius", "gyration", "duration", "trip_length", "trip_duration")
_SHAPES = ("hausdorff", "dtw", "edr", "edr_published", "hausdorff_per_road", "dtw_per_road")
ORDER = [
    *(("counts", key) for key in ("real", "generated", "pairs")),
    *((section, key) for section in _DISTRIBUTIONS for key in ("real_mean", "generated_mean", "jsd")),
    ("road_use", "jsd"),
    *(("similarity", key) for key in _SHAPES),
    *(("requests", key) for key in ("reached_share", "od_cell_share")),
    *(("paired", key) for key in (*_SHAPES, "edit_similarity", "jaccard", "identical_share", "detour_ratio")),
    *(("training", key) for key in ("memorized_share", "real_memorized_share")),
    *(("flows", key) for key in ("od_jsd", "turn_jsd", "cell_jsd")),
    *(("od_match", f"within_{side_m}m_share") for side_m in (200, 500, 1000)),
    *(("paired_duration", key) for key in ("mae_min", "mape")),
    *(("diversity", key) for key in ("distinct_share", "entropy", "covered_share", "best_jaccard")),
    *(("privacy", key) for key in ("nearest_mean", "real_nearest_mean", "nearest_p5", "real_nearest_p5")),
    *(("privacy", key) for key in ("membership_auc", "real_membership_auc")),
    *(("utility", key) for key in ("nll", "real_nll", "accuracy", "real_accuracy")),
]
"""Sections and keys of metrics.json, in order: files of earlier versions are read by these names."""


class TestEvaluate:
    def test_a_perfect_generator(self):
        real = random_trips(NETWORK, 40)
        metrics = flatten(evaluate(real, real, NETWORK, paired=True, training=real))
        for name, value in metrics.items():
            better = METRICS[name].better
            if METRICS[name].real is not None:
                if better is not None:  # the generated trips are the training trips
                    assert value == metrics[METRICS[name].real], name
            elif better == "lower":
                assert value == pytest.approx(0, abs=1e-12), name
            elif better == "higher":
                assert value == 1, name
        assert metrics["paired.detour_ratio"] == 1
        assert metrics["training.memorized_share"] == 1
        assert metrics["counts.pairs"] == 40

    def test_a_useless_generator(self):
        real, generated = trips_of([0, 1, 2]), trips_of([50, 51])
        metrics = evaluate(real, generated, NETWORK, paired=True, training=real)
        assert metrics["requests"] == {"reached_share": 0.0, "od_cell_share": 0.0}
        assert metrics["paired"]["jaccard"] == 0
        assert metrics["paired"]["edit_similarity"] == 0
        assert metrics["paired"]["identical_share"] == 0
        assert "detour_ratio" not in metrics["paired"]
        assert metrics["training"] == {"memorized_share": 0.0, "real_memorized_share": 1.0}
        assert metrics["road_use"]["jsd"] == pytest.approx(math.log(2))

    def test_without_times_there_are_no_durations(self):
        trips = random_trips(NETWORK, 12, seed=0)
        still = replace(trips, times=np.repeat(trips.start_times, trips.lengths))
        with pytest.warns(DataWarning, match="no time information"):
            result = evaluate(still, trips, NETWORK, paired=True)
        assert not {"duration", "trip_duration", "paired_duration"} & set(result)
        assert {"duration", "trip_duration", "paired_duration"} <= set(evaluate(trips, still, NETWORK, paired=True))

    def test_overlap_of_roads(self):
        metrics = evaluate(trips_of([1, 2, 3, 4]), trips_of([1, 2, 9, 3, 4]), NETWORK, paired=True)["paired"]
        assert metrics["edit_similarity"] == pytest.approx(1 - 1 / 5)
        assert metrics["jaccard"] == pytest.approx(4 / 5)
        length = NETWORK.length_m
        assert metrics["detour_ratio"] == pytest.approx(length[[1, 2, 9, 3, 4]].sum() / length[[1, 2, 3, 4]].sum())

    def test_reached_share_counts_requested_destinations(self):
        generated = trips_of([0, 1], [0, 2], [0, 3], [0, 4])
        requests = evaluate(generated, generated, NETWORK, destinations=np.array([1, 2, 3, 5]))["requests"]
        assert requests["reached_share"] == 0.75
        cell = np.floor(NETWORK.centroids / 0.001)
        assert requests["od_cell_share"] == (0.75 if (cell[4] != cell[5]).any() else 1.0)

    def test_every_record_with_a_function_is_computed_and_nothing_else(self):
        twice = np.repeat(np.arange(15), 2)  # two samples per request
        real, generated = random_trips(NETWORK, 15, seed=3).take(twice), random_trips(NETWORK, 30, seed=4)
        mixed = trips_of(
            *[real.roads(i).tolist() for i in range(15)], *[generated.roads(i).tolist() for i in range(15)]
        )
        metrics = flatten(evaluate(real, mixed, NETWORK, paired=True, training=generated, details=True))
        assert list(metrics) == [f"{section}.{key}" for section, key in ORDER]
        assert set(metrics) == {metric.name for metric in all_metrics() if metric.compute is not None}
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())

    def test_result_is_strict_json(self):
        real, generated = random_trips(NETWORK, 20, seed=5), random_trips(NETWORK, 20, seed=6)
        result = evaluate(real, generated, NETWORK, paired=True, details=True)
        assert json.loads(json.dumps(result, allow_nan=False)) == result

    def test_one_road_trips_and_no_pairs_leave_metrics_out(self):
        metrics = evaluate(trips_of([0], [1]), trips_of([50]), NETWORK)
        assert metrics["counts"] == {"real": 2.0, "generated": 1.0, "pairs": 0.0}
        assert "similarity" not in metrics
        assert "duration" not in metrics

    def test_arguments_that_do_not_match_are_refused(self):
        trips = random_trips(NETWORK, 3)
        with pytest.raises(ValueError, match="as many generated trips as real ones, got 1 and 3"):
            evaluate(trips, trips.take(np.array([0])), NETWORK, paired=True)
        with pytest.raises(ValueError, match="2 destinations for 3"):
            evaluate(trips, trips, NETWORK, destinations=np.array([0, 1]))
        with pytest.raises(ValueError, match="at least one"):
            evaluate(trips, trips.take(np.array([], np.int64)), NETWORK)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                {"real": NETWORK},
                TypeError,
                "real is of type RoadNetwork, not Trajectories. Call evaluate(real, generated, n",
            ),
            ({"generated": None}, TypeError, "generated is None, not Trajectories"),
            ({"network": random_trips(NETWORK, 3)}, TypeError, "network is of type Trajectories, not a RoadNetwork"),
            ({"network": RoadNetwork}, TypeError, "network is the class RoadNetwork, not a RoadNetwork"),
            ({"config": {"od_cell_m": 100}}, TypeError, "config is of type dict, not an EvaluationConfig or None"),
            ({"config": False}, TypeError, "config is of type bool, not an EvaluationConfig or None"),
            ({"training": [1, 2]}, TypeError, "training is of type list, not Trajectories"),
            ({"paired": "yes"}, TypeError, "paired is of type str, not True or False"),
            ({"details": 1}, TypeError, "details is of type int, not True or False"),
            ({"destinations": np.zeros(3)}, TypeError, "destinations has dtype float64, not an integer type"),
            ({"destinations": np.zeros((3, 1), int)}, ValueError, "destinations has shape (3, 1), not (n,)"),
            ({"destinations": np.array([0, -1, 0])}, DataError, "destinations, row 1: road -1 does not exist"),
            ({"destinations": 5}, ValueError, "destinations has shape ()"),
            ({"real": trips_of([0, 1], [10**6], [2])}, DataError, "real, row 1: road 1000000 does not exist. Ids run"),
            ({"generated": trips_of([0, 1], [1], [2, -1])}, DataError, "generated, row 2: road -1 does not exist"),
            ({"training": trips_of([10**6])}, DataError, "training, row 0: road 1000000"),
            ({"generated": trips_of([0, 1], [], [2])}, DataError, "generated, row 1: the trip has no road"),
        ],
    )
    def test_wrong_arguments_are_refused_before_anything_is_computed(self, change, error, message):
        trips = random_trips(NETWORK, 3)
        with pytest.raises(error, match=re.escape(message)):
            evaluate(**{"real": trips, "generated": trips, "network": NETWORK} | change)

    @pytest.mark.parametrize("metrics", [None, [1.0], {"counts": 3.0}])
    def test_flatten_takes_the_result_of_evaluate(self, metrics):
        with pytest.raises(TypeError, match=r"flatten\(evaluate\(real, generated, network\)\)"):
            flatten(metrics)

    def test_the_real_maximum_falls_into_the_open_bin(self):
        edges = histogram_edges(np.array([1.0, 4.0]))
        assert np.histogram([4.0], edges)[0][-1] == 1
        assert len(edges) == 101


class TestRecords:
    def test_every_metric_has_heading_label_definition_and_unit(self):
        units = {metric.name: metric.unit for metric in all_metrics()}
        for metric in all_metrics():
            assert SECTIONS[metric.section].heading
            assert metric.label
            assert metric.text.endswith(".")
            assert metric.unit == metric.unit.strip()
            assert not (metric.is_share and metric.unit)
            for other in (metric.real, metric.same_as):
                assert other is None or units[other] == metric.unit

    def test_units_follow_from_what_is_measured(self):
        """Divergences are in nats, lengths in km, times in min or s; shares, ratios and edit distances have no unit.

        A metric that is not built in may have any other unit.
        """
        built_in = {f"{section}.{key}" for section, key in ORDER} | {metric.name for metric in NEXT_STEP}
        for metric in all_metrics():
            if metric.key.split("_")[-1] in {"jsd", "nll", "entropy", "kl"}:
                assert metric.unit == "nat", metric.name
            elif metric.key.split("_")[0] in {"hausdorff", "dtw"}:
                assert metric.unit == "km", metric.name
            elif metric.key in {"real_mean", "generated_mean"}:
                assert metric.unit == ("min" if "duration" in metric.section else "km"), metric.name
            elif metric.section == "counts" or metric.key == "steps":
                assert metric.unit in {"trips", "pairs", "steps"}, metric.name
            elif metric.name in built_in:
                assert metric.unit == {"s": "s", "min": "min"}.get(metric.key.split("_")[-1], ""), metric.name

    def test_every_divergence_has_a_record_of_being_one(self):
        """Subsets of few trips leave them out by this field (`hoser_kd.evaluation.divergences`)."""
        marked = [metric.name for metric in all_metrics() if metric.is_divergence]
        assert marked == [metric.name for metric in all_metrics() if metric.key.split("_")[-1] == "jsd"]
        assert {"distance.jsd", "road_use.jsd", "flows.od_jsd", "flows.turn_jsd", "flows.cell_jsd"} <= set(marked)

    def test_shares_are_shown_in_percent(self):
        for metric in all_metrics():
            if metric.key.endswith("_share"):
                assert metric.is_share, metric.name

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": "elsewhere.wiggle"}, "key of SECTIONS"),
            ({"name": "counts"}, "section.metric"),
            ({"label": ""}, "label"),
            ({"text": ""}, "definition"),
            ({"name": "counts.real"}, "already registered"),
            ({"real": "counts.wobble"}, "`real` is 'counts.wobble'. No metric has that name"),
            ({"same_as": "counts.wobble"}, "`same_as` is 'counts.wobble'. No metric has that name"),
            ({"real": "counts.real", "unit": "km"}, "Its unit is 'trips', not 'km'"),
        ],
    )
    @pytest.mark.parametrize("add", [register, lambda metric: METRICS.register(metric.name, metric)])
    def test_an_incomplete_record_is_refused(self, fields, message, add):
        before = METRICS.names()
        with pytest.raises(ValueError, match=message):
            add(Metric(**{"name": "counts.wiggle", "label": "wiggle", "text": "Wiggle."} | fields))
        assert METRICS.names() == before

    def test_registration_takes_a_metric_under_its_own_name(self):
        metric = Metric("counts.wiggle", label="wiggle", text="Wiggle.")
        with pytest.raises(ValueError, match=r"cannot be registered as 'counts\.wobble'"):
            METRICS.register("counts.wobble", metric)
        for add in (register, lambda item: METRICS.register("counts.wiggle", item)):
            with pytest.raises(TypeError, match=r"not a Metric\. Call register\(Metric\("):
                add("counts.wiggle")

    @pytest.mark.parametrize(
        ("fields", "error", "message"),
        [
            ({"name": 5}, TypeError, "`name` is 5"),
            ({"name": ".wiggle"}, ValueError, "`name` is '.wiggle'. Use 'section.metric'"),
            ({"unit": None}, TypeError, "`unit` is None"),
            ({"better": "smaller"}, ValueError, "`better` is 'smaller'. Use 'lower', 'higher' or None"),
            ({"compute": 5}, TypeError, "`compute` is 5. Use a function"),
            ({"target": "reel"}, ValueError, "`target` is 'reel'. Use a finite number, 'real' or None"),
            ({"target": math.nan}, ValueError, "`target` is nan"),
            ({"target": True}, ValueError, "`target` is True"),
            ({"target": "real"}, ValueError, "It needs `real`"),
            ({"target": 0.5, "better": "lower"}, ValueError, "either `better` or `target`"),
            ({"real": "real"}, ValueError, "`real` is 'real'. Use the name"),
            ({"same_as": "counts.wiggle"}, ValueError, "of another metric"),
            ({"variant": True}, ValueError, "It needs `same_as`"),
            ({"headline": "yes"}, TypeError, "Use True or False"),
            ({"is_divergence": "yes"}, TypeError, "Use True or False"),
            ({"is_share": True, "unit": "km"}, ValueError, "A share has no unit"),
        ],
    )
    def test_a_wrong_field_is_refused(self, fields, error, message):
        with pytest.raises(error, match=message):
            Metric(**{"name": "counts.wiggle", "label": "wiggle", "text": "Wiggle."} | fields)

    def test_a_verdict_needs_a_known_direction(self):
        metric = Metric("counts.wiggle", label="wiggle", text="Wiggle.", better="lower")
        object.__setattr__(metric, "better", "smaller")
        METRICS._items[metric.name] = metric
        try:
            with pytest.raises(ValueError, match="the better direction is 'smaller'"):
                compare({0: {metric.name: 1.0}}, {0: {metric.name: 2.0}})
        finally:
            METRICS.unregister(metric.name)

    def test_a_registered_metric_is_computed_and_compared(self):
        trips = random_trips(NETWORK, 5)
        metric = Metric(
            "counts.longest",
            label="longest trip",
            text="Roads of the longest generated trip.",
            unit="roads",
            better="higher",
            compute=lambda context: context.generated.lengths.max(),
            headline=True,
        )
        register(metric)
        try:
            metrics = flatten(evaluate(trips, trips, NETWORK))
            (row,) = [row for row in compare({0: metrics}, {0: metrics}) if row.name == metric.name]
        finally:
            METRICS.unregister(metric.name)
        assert metrics[metric.name] == trips.lengths.max()
        assert row.metric is metric
        assert row.verdict == "same"
        assert metric.name not in flatten(evaluate(trips, trips, NETWORK))

    def test_an_undefined_metric_is_left_out(self):
        trips = random_trips(NETWORK, 5)
        register(Metric("counts.nothing", label="nothing", text="Nothing.", compute=lambda _: None))
        try:
            assert "nothing" not in evaluate(trips, trips, NETWORK)["counts"]
        finally:
            METRICS.unregister("counts.nothing")


def test_a_real_city_against_itself(porto: Path):
    network = read_hoser(porto)
    real = read_trips(porto / "test.csv", network)
    metrics = flatten(evaluate(real, real, network, paired=True))
    assert metrics["counts.pairs"] == metrics["counts.real"] == len(real)
    assert metrics["similarity.dtw"] == 0
    assert metrics["requests.reached_share"] == 1
