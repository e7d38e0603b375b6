"""The files, metrics and figures of the label stage, by the settings."""

from __future__ import annotations

import numpy as np
import pytest
from flipped_bit import flip_bit
from label_town import STAGE, labels_of, teacher_inputs, town
from matplotlib.collections import LineCollection
from small_city import grid_network

from hoser_kd.config.schema import CityConfig
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.plots.label_maps import mean_by_road, road_value_maps


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return teacher_inputs(tmp_path_factory.mktemp("town"))


@pytest.mark.parametrize("window", ["full", 5])
def test_outside_mass_and_the_candidates_mass_sum_to_one(inputs, tmp_path, window):
    labels = labels_of(inputs, town(store_outside_mass=True, window=window), tmp_path)["test"]
    teacher = load_checkpoint(inputs["teacher"].path).model
    tokens = load_tokens(inputs["grid_token_table"].path)
    network = RoadNetwork.load(inputs["road_network"].path)
    trips = Trajectories.load(inputs["trajectories"].path / "test.arrow")
    at, trip = trips.step_positions()
    assert labels.outside_mass.shape == (len(at),)
    for step in range(0, len(at), 7):
        history = [teacher.config.sot_token, *tokens[trips.road_ids[trips.offsets[trip[step]] : at[step] + 1]]]
        whole = teacher.predict_next_distribution(history, None if window == "full" else window).double().numpy()
        inside = whole[np.unique(tokens[network.successors.row(int(trips.road_ids[at[step]]))])].sum()
        assert labels.outside_mass[step] + inside == pytest.approx(1, abs=1e-5)
        assert 0 < labels.outside_mass[step] < 1


def test_outside_mass_is_stored_only_on_request(inputs, tmp_path):
    plain = labels_of(inputs, town(), tmp_path / "plain")
    requested = labels_of(inputs, town(store_outside_mass=True), tmp_path / "requested")
    for split, labels in plain.items():
        assert labels.outside_mass is None
        np.testing.assert_array_equal(requested[split].scores, labels.scores)
    run = StageRun(STAGE, town(store_outside_mass=True), None, inputs, tmp_path / "requested", device="cpu")
    for row in STAGE.function()(run)["splits"]:
        assert row["mean_outside_mass"] == pytest.approx(requested[row["split"]].outside_mass.mean(), abs=1e-5)


def test_a_finished_split_with_a_flipped_bit_is_labeled_again(inputs, tmp_path):
    def kill(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hoser_kd.pipeline.stages.teacher._diagnose", kill)
        with pytest.raises(KeyboardInterrupt):
            STAGE.function()(StageRun(STAGE, town(), None, inputs, tmp_path, device="cpu"))
    file = tmp_path / "val.arrow"
    expected, written = file.read_bytes(), (tmp_path / "train.arrow").stat().st_mtime_ns
    flip_bit(file)
    labels_of(inputs, town(), tmp_path)
    assert file.read_bytes() == expected
    assert (tmp_path / "train.arrow").stat().st_mtime_ns == written


def test_outside_mass_belongs_to_the_settings_of_labels():
    plain, requested = town(), town(store_outside_mass=True)
    assert {name for name, section in SETTINGS.items() if section(plain) != section(requested)} == {"labels"}
    assert SETTINGS["labels"].changed(SETTINGS["labels"](plain)) == {}
    assert SETTINGS["labels"].changed(SETTINGS["labels"](requested)) == {"store_outside_mass": True}


def test_outside_mass_needs_stored_labels():
    with pytest.raises(ValueError, match="store_outside_mass needs `labels: stored`"):
        CityConfig.model_validate(
            {"city": "t", "source": {"kind": "synthetic"}, "distill": {"labels": "online", "store_outside_mass": True}}
        )


def test_the_diagnostic_sample_has_metrics_a_plot_and_a_map(inputs, tmp_path, monkeypatch):
    drawn = []

    def keep(network, values, spans=None):
        drawn.append(values)
        return road_value_maps(network, values, spans)

    monkeypatch.setattr("hoser_kd.pipeline.stages.teacher.road_value_maps", keep)
    summary = STAGE.function()(StageRun(STAGE, town(), None, inputs, tmp_path, device="cpu"))
    for name in ("diagnostics.png", "diagnostics_map.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    sample = np.load(tmp_path / "diagnostics.npz")
    for name in ("candidate_mass", "entropy_nats", "true_probability", "top_is_true", "candidate_top_is_true"):
        assert summary[f"sample_{name}"] == pytest.approx(sample[name].mean(), abs=1e-4)
    # the map shows on each road the mean over the sampled steps that leave it
    trips = Trajectories.load(inputs["trajectories"].path / "val.arrow")
    roads = trips.road_ids[trips.step_positions()[0]][sample["step"]]
    [[mass, entropy, _]] = [list(values.values()) for values in drawn]
    for road in np.unique(roads)[:20]:
        assert mass[road] == pytest.approx(sample["candidate_mass"][roads == road].mean())
        assert entropy[road] == pytest.approx(sample["entropy_nats"][roads == road].mean())
    assert np.isnan(np.delete(mass, np.unique(roads))).all()


def test_maps_of_roads():
    network = grid_network()
    value = np.full(network.num_roads, np.nan)
    value[[3, 5]] = 0.2, 0.9
    figure = road_value_maps(network, {"a": value, "b": np.full(network.num_roads, np.nan)}, {"a": (0.0, 1.0)})
    figure.draw_without_rendering()
    maps = figure.axes[:2]
    roads = [[each for each in axes.collections if isinstance(each, LineCollection)] for axes in maps]
    assert [[len(lines.get_segments()) for lines in of_map] for of_map in roads] == [
        [network.num_roads, 2],
        [network.num_roads, 0],
    ]
    # the highest value is drawn last
    np.testing.assert_array_equal(
        roads[0][1].get_segments()[-1], network.coords[network.coord_offsets[5] : network.coord_offsets[6]]
    )
    assert [axes.get_title(loc="left") for axes in maps] == ["a", "b"]


def test_means_by_road():
    means = mean_by_road(np.array([2, 0, 2]), np.array([1.0, 5.0, 2.0]), 4)
    np.testing.assert_array_equal(means, [5.0, np.nan, 1.5, np.nan])
