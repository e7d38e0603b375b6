"""The teacher's stages on a whole city: an imported checkpoint up to its labels, and a trained one with its curves."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.config.schema import CityConfig
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.checks import run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make, make_all, make_with_inputs
from hoser_kd.pipeline.store import Store
from hoser_kd.teacher.soft_labels import SoftLabels

CELL = 0.002


def city(golden, checkpoint="lmtad_ckpt", shift=(0.0, 0.0), **distill):
    """The published code's small city with a teacher that the published code trained on it."""
    bounds = json.loads((golden / "grid_golden.json").read_text())["boundary"]
    moved = {key: value + CELL * shift[key.endswith("lng")] for key, value in bounds.items()}
    return CityConfig.model_validate(
        {
            "city": "golden",
            "source": {"kind": "hoser", "path": str(golden / "hoser_city")},
            "zones": {"count": 8},
            "grid": {"bounds": moved, "cell_lat": CELL, "cell_lng": CELL, "min_share_inside": 0.5},
            "distill": {"ckpt_path": str(golden / f"{checkpoint}.pt")} | distill,
        }
    )


def checked(imported_city, name):
    return {
        result.name: result
        for result in run_checks(imported_city[name], {k: v for k, v in imported_city.items() if k != name})
    }


def make_unchecked(name, config, store):
    """Artifacts of a stage and its dependencies, whatever their checks say; the test runs the checks itself."""
    return make_all([name], config, store, device="cpu", stop_at_checks=False)


@pytest.fixture(scope="module")
def imported_city(golden, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return make_all(("teacher_soft_labels", "teacher_evaluation"), city(golden), store, device="cpu")


def test_an_imported_teacher_passes_all_checks(imported_city):
    for name in ("grid_token_table", "teacher", "teacher_soft_labels"):
        results = checked(imported_city, name)
        assert results
        assert all(result.passed for result in results.values()), results
    assert imported_city["grid_token_table"].summary["bounds_from"] == "settings"
    assert imported_city["teacher"].summary["imported"] is True
    assert imported_city["teacher"].summary["val_perplexity"] == pytest.approx(np.exp(2.3291), rel=1e-3)


def test_its_tokens_are_the_published_ones(imported_city, golden):
    import pyarrow.parquet as pq

    tokens = pq.read_table(imported_city["grid_token_table"].path / "grid_token_table.parquet")["token"].to_numpy()
    expected = json.loads((golden / "grid_golden.json").read_text())["road_to_token_float64_centroids"]
    np.testing.assert_array_equal(tokens, expected)


def test_its_labels_are_its_own_next_token_distribution(imported_city, golden):
    import pyarrow.parquet as pq

    teacher = load_checkpoint(golden / "lmtad_ckpt.pt").model
    tokens = pq.read_table(imported_city["grid_token_table"].path / "grid_token_table.parquet")["token"].to_numpy()
    network = RoadNetwork.load(imported_city["road_network"].path)
    trips = Trajectories.load(imported_city["trajectories"].path / "test.arrow")
    labels = SoftLabels.load(imported_city["teacher_soft_labels"].path / "test.arrow")
    at, trip = trips.step_positions()
    for step in range(0, len(at), 37):
        start = trips.offsets[trip[step]]
        history = [teacher.config.sot_token, *tokens[trips.road_ids[start : at[step] + 1]]]
        cells = tokens[network.successors.row(int(trips.road_ids[at[step]]))]
        scores = torch.from_numpy(labels.scores[labels.offsets[step] : labels.offsets[step + 1]].copy())
        full = teacher.predict_next_distribution(history)[torch.from_numpy(cells)]
        torch.testing.assert_close(scores.softmax(0), full / full.sum(), atol=1e-5, rtol=0)


def test_its_evaluation_has_metrics_and_a_map(imported_city):
    summary = imported_city["teacher_evaluation"].summary
    assert summary["val_perplexity"] == imported_city["teacher"].summary["val_perplexity"]
    assert [row["kind"] for row in summary["outlier_test"]] == ["route_switch", "detour"] * 3
    assert (imported_city["teacher_evaluation"].path / "nll_map.png").stat().st_size > 1000


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.0, -0.5), (-0.5, 0.5), (0.25, 0.0), (3.0, -3.0)])
def test_a_shift_is_detected_if_only_the_settings_contain_the_bounds(golden, tmp_path, shift):
    artifacts = make_unchecked("grid_token_table", city(golden, shift=shift), Store(tmp_path))
    result = checked(artifacts, "grid_token_table")["grid_alignment"]
    assert not result.passed
    if max(map(abs, shift)) == 0.5:
        assert result.metrics["best_cells_north"] == -shift[0]
        assert result.metrics["best_cells_east"] == -shift[1]
        assert "further north" in result.message


@pytest.mark.parametrize("name", ["lmtad_ckpt_orig_mod", "lmtad_ckpt_integer_poe", "lmtad_ckpt_official_vocab"])
def test_every_published_checkpoint_passes_all_stages(golden, tmp_path, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LM-TAD with integer_poe")
        artifacts = make_all(["teacher_soft_labels"], city(golden, name, window=6), Store(tmp_path), device="cpu")
        for stage in ("grid_token_table", "teacher", "teacher_soft_labels"):
            assert all(result.passed for result in checked(artifacts, stage).values())


def test_a_teacher_whose_context_no_trip_fits_is_stopped_by_its_check(golden, tmp_path):
    from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig
    from hoser_kd.lmtad.checkpoint import save

    shape = LMTADConfig(block_size=6, vocab_size=103, n_layer=1, n_head=1, n_embd=8)
    save(LMTADCheckpoint(LMTAD(shape), shape, {"grip_size": (10, 10)}), tmp_path / "short")
    config, store = city(golden, ckpt_path=str(tmp_path / "short")), Store(tmp_path / "store")
    artifacts = make_unchecked("teacher_evaluation", config, store)
    result = checked(artifacts, "teacher")["beats_uniform_baseline"]
    assert not result.passed
    assert "context of 6 tokens" in result.message
    assert artifacts["teacher_evaluation"].summary["outlier_test"] == []


def test_a_converted_teacher_has_the_same_labels(imported_city, golden, tmp_path):
    from hoser_kd.teacher.importing import import_teacher

    import_teacher(golden / "lmtad_ckpt.pt", tmp_path / "converted")
    config = city(golden, ckpt_path=str(tmp_path / "converted"))
    artifacts = make_all(["teacher_soft_labels"], config, Store(tmp_path / "store"), device="cpu")
    one, other = (SoftLabels.load(a["teacher_soft_labels"].path / "val.arrow") for a in (imported_city, artifacts))
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_grid_that_does_not_fit_the_vocabulary_is_rejected(golden, tmp_path):
    config = city(golden)
    config = config.model_copy(update={"grid": config.grid.model_copy(update={"cell_lat": 0.001})})
    with pytest.raises((CheckpointError, ConfigError), match="grip_size 10 × 10"):
        make_with_inputs("grid_token_table", config, Store(tmp_path), device="cpu")


TOWN = {
    "city": "town",
    "source": {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 80}},
    "zones": {"count": 6},
    "grid": {"bounds": "roads", "cell_size_m": 100},
    "teacher": {"preset": "tiny", "n_embd": 32, "max_epochs": 3, "learning_rate": 0.01},
}


def test_a_training_reports_each_epoch_as_it_ends(tmp_path):
    config, store = CityConfig.model_validate(TOWN), Store(tmp_path)
    artifacts = make_all(STAGES["teacher"].inputs, config, store, device="cpu")
    epochs = []
    artifact = make(
        STAGES["teacher"],
        config,
        store,
        {name: artifacts[name] for name in STAGES["teacher"].inputs},
        on_epoch=epochs.append,
        device="cpu",
    )
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert epochs == artifact.summary["epochs"]
    assert {"train_loss", "val_loss", "learning_rate", "tokens_per_s"} <= set(epochs[0])
    assert (artifact.path / "curves.png").is_file()
    assert any((artifact.path / "tensorboard").iterdir())


def test_a_teacher_trained_here_is_imported_with_its_own_grid(tmp_path):
    config, store = CityConfig.model_validate(TOWN), Store(tmp_path)
    artifacts = make_all(["teacher"], config, store, device="cpu")
    trained = str(artifacts["teacher"].path)
    again = CityConfig.model_validate({**TOWN, "grid": {}, "distill": {"ckpt_path": trained}})
    imported = make_all(["teacher"], again, Store(tmp_path / "other"), device="cpu")
    assert imported["grid_token_table"].summary["bounds_from"] == "checkpoint"
    for stage in ("grid_token_table", "teacher"):
        assert all(result.passed for result in checked(imported, stage).values())
    assert imported["teacher"].summary["val_loss"] == pytest.approx(artifacts["teacher"].summary["val_loss"], abs=1e-4)
    wrong = CityConfig.model_validate(
        {**TOWN, "grid": {"bounds": "roads", "cell_size_m": 90}, "distill": {"ckpt_path": trained}}
    )
    with pytest.raises(ConfigError, match=r"cell_lat is .* and .* \(cell_size_m 90\) in the settings"):
        make_with_inputs("grid_token_table", wrong, Store(tmp_path / "third"), device="cpu")
