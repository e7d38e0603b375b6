"""What the stage that labels leaves behind: files, figures and pictures, as the settings ask for them."""

from __future__ import annotations

import numpy as np
import pytest
from label_town import STAGE, labels_of, teacher_inputs, town

from hoser_kd.config import CityConfig
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.pipeline import SETTINGS, StageRun
from hoser_kd.road_network import RoadNetwork
from hoser_kd.stages.grid import load_tokens
from hoser_kd.trajectories import Trajectories


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return teacher_inputs(tmp_path_factory.mktemp("town"))


@pytest.mark.parametrize("window", ["full", 5])
def test_outside_mass_is_what_the_candidates_leave_of_the_whole_distribution(inputs, tmp_path, window):
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


def test_outside_mass_is_stored_only_where_it_is_asked_for(inputs, tmp_path):
    plain = labels_of(inputs, town(), tmp_path / "plain")
    asked = labels_of(inputs, town(store_outside_mass=True), tmp_path / "asked")
    for split, labels in plain.items():
        assert labels.outside_mass is None
        np.testing.assert_array_equal(asked[split].scores, labels.scores)
    run = StageRun(STAGE, town(store_outside_mass=True), None, inputs, tmp_path / "asked", device="cpu")
    for row in STAGE.function()(run)["splits"]:
        assert row["mean_outside_mass"] == pytest.approx(asked[row["split"]].outside_mass.mean(), abs=1e-5)


def test_outside_mass_concerns_the_labels_and_only_where_it_is_asked_for():
    plain, asked = town(), town(store_outside_mass=True)
    assert {name for name, piece in SETTINGS.items() if piece(plain) != piece(asked)} == {"labels"}
    assert SETTINGS["labels"](plain) == {"window": "full", "teacher_fp16": True}


def test_nothing_is_stored_of_a_teacher_that_is_asked():
    with pytest.raises(ValueError, match="store_outside_mass needs `labels: stored`"):
        CityConfig.model_validate({"city": "t", "source": {"kind": "synthetic"},
                                   "distill": {"labels": "online", "store_outside_mass": True}})
