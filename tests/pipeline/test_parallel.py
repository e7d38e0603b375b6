"""Steps side by side: the same files as one after the other, in an order that keeps the longest chain going."""

from __future__ import annotations

from multiprocessing import forkserver

import pytest

from hoser_kd.common.errors import CheckError, DataError
from hoser_kd.common.progress import silent
from hoser_kd.config.schema import CityConfig
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.pipeline import parallel
from hoser_kd.pipeline.parallel import _Run, make_steps_side_by_side, remaining_steps
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import make_steps
from hoser_kd.pipeline.store import Store

LAST = ["zone_transitions", "road_centroids"]


@pytest.fixture(scope="module", autouse=True)
def _light_server():
    """A server of the stages of this test only; another test of this process may have started one without them."""
    forkserver._forkserver._stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "PRELOAD", "hoser_kd.pipeline.stages.network")
        yield
    forkserver._forkserver._stop()


@pytest.fixture
def town(tmp_path):
    config = {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 60}}
    make_city(tmp_path / "raw", CityConfig.model_validate({"city": "town", "source": config}).source.synthetic)
    return CityConfig.model_validate(
        {"city": "town", "source": {"kind": "hoser", "path": str(tmp_path / "raw")}, "zones": {"count": 6}}
    )


def contents(root):
    names = (file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(root)): file.read_bytes() for file in names if file.name != "artifact.json"}


def test_files_equal_those_of_steps_one_after_the_other(tmp_path, town):
    one, other = tmp_path / "one", tmp_path / "other"
    expected = make_steps(plan(LAST), town, Store(one))
    started, reports = [], []

    def on_start(step):
        started.append(step.stage.name)
        return lambda task, done, total, metrics=None: reports.append((step.stage.name, task, done, total))

    made = make_steps_side_by_side(plan(LAST), town, Store(other), jobs=3, on_start=on_start)
    assert {key: artifact.version for key, artifact in made.items()} == {
        key: artifact.version for key, artifact in expected.items()
    }
    assert contents(other) == contents(one)
    assert sorted(started) == sorted(name for name, _ in expected)
    started.clear()
    assert make_steps_side_by_side(plan(LAST), town, Store(other), jobs=3, on_start=on_start) == made
    assert started == ["source_files"]


def test_an_error_of_a_step_in_a_process_keeps_its_type_and_text(tmp_path, town):
    (tmp_path / "raw" / "train.csv").write_text("trip_id\n1\n")
    with pytest.raises(DataError, match=r"^\S+train.csv: "):
        make_steps_side_by_side(plan(LAST), town, Store(tmp_path / "store"), jobs=2)


class Recorder:
    """Holds what would be started; nothing runs."""

    def __init__(self):
        self.running = []

    @property
    def num_running(self):
        return len(self.running)


def started_first(town, store, *, on_gpu):
    """Return the steps that run together when everything about the network is finished."""
    steps = plan(["distillation_report"])
    run = _Run(steps, town, store, Recorder(), 2, lambda _: silent, "cpu", lambda _: None)
    run.on_gpu = on_gpu
    run.waiting = [("baseline_trips", None), ("vanilla_student", 0), ("teacher", None)]
    run.waiting.sort(key=lambda key: -run.remaining[key])
    for key in run.waiting:
        if run.processes.num_running < 2 and run._may_start(key):
            run.processes.running.append(key)
    return run.processes.running


def test_the_longest_chain_comes_first_and_a_gpu_runs_one_model(tmp_path, town):
    store = Store(tmp_path)
    assert started_first(town, store, on_gpu=False) == [("teacher", None), ("vanilla_student", 0)]
    assert started_first(town, store, on_gpu=True) == [("teacher", None), ("baseline_trips", None)]


def test_remaining_steps_count_the_longest_chain():
    remaining = remaining_steps(plan(["distillation_report"]))
    assert remaining["distillation_report", None] == 1
    assert remaining["baseline_trips", None] == 2
    # teacher, labels, off-path labels, student, trips, metrics, report
    assert remaining["teacher", None] == 7
    assert max(remaining, key=remaining.get) == ("source_files", None)


def test_a_failed_check_stops_the_run(tmp_path, town, monkeypatch):
    def fail(artifact, _inputs, _on_warning):
        raise CheckError(artifact.stage)

    monkeypatch.setattr(parallel, "require_checks", fail)
    for _ in range(2):  # computed, then found
        with pytest.raises(CheckError, match="source_files"):
            make_steps_side_by_side(plan(["source_files"]), town, Store(tmp_path / "store"), jobs=2)
