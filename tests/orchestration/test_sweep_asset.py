"""The asset `sweep`: a study from the launchpad, with figures, patch and trials in the metadata."""

from __future__ import annotations

from types import SimpleNamespace

import dagster as dg
import pytest

from dagster_project.definitions import build_defs
from hoser_kd.common.errors import TrainingError
from hoser_kd.pipeline import sweep as module

STUDY = """
description: Weight of the term.
sampler: grid
search: {distill.lambda_kl: [0.1, 0.3], distill.temperature: [1, 2]}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A config folder with a study, and trainings whose metric is known."""
    (tmp_path / "config" / "studies").mkdir(parents=True)
    (tmp_path / "config" / "town.yaml").write_text("source: {kind: synthetic}")
    (tmp_path / "config" / "studies" / "weight.yaml").write_text(STUDY)

    def make(stage, config, store, **_):
        if (config.distill.lambda_kl, config.distill.temperature) == (0.3, 2):
            raise TrainingError("diverged")
        return SimpleNamespace(stage=stage, version="v", summary={"val_nll": config.distill.lambda_kl})

    monkeypatch.setattr(module, "make_with_inputs", make)
    return tmp_path


def run(home, **config):
    definitions = build_defs(home / "config", str(home / "store"))
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        instance.add_dynamic_partitions("city", ["town"])
        return definitions.resolve_job_def("run_study").execute_in_process(
            instance=instance,
            partition_key="town",
            run_config={"ops": {"sweep": {"config": config}}},
            raise_on_error=False,
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster reads a property of its own that it has deprecated
def test_the_metadata_shows_the_study(home):
    done = run(home, study="weight")
    assert done.success
    [event] = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["trials"].value, metadata["failed_trials"].value, metadata["best"].value) == (4, 1, 0.1)
    assert "lambda_kl: 0.1" in metadata["best_settings"].value
    for name in ("parallel_coordinates", "importances"):
        assert metadata[name].value.startswith(f"![{name.replace('_', ' ')}](data:image/png")
    assert len(metadata["trial_table"].value.records) == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unknown_study_fails_with_the_known_ones(home):
    done = run(home, study="wait")
    failure = next(event for event in done.all_events if event.is_step_failure)
    assert "Did you mean `weight`" in str(failure.step_failure_data)
