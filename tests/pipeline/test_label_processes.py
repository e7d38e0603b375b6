"""Several processes write the labels of one process, whether the work is divided, interrupted or resumed."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from label_town import labels_of, teacher_inputs, town
from small_city import grid_network, random_trips
from stage_process import left_after, running, stage_process

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import ConfigError
from hoser_kd.lmtad import LMTAD, LMTADConfig
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.soft_labels import SoftLabels, label_with, make_shards


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return teacher_inputs(tmp_path_factory.mktemp("town"))


def assert_same(ours: dict[str, SoftLabels], theirs: dict[str, SoftLabels]) -> None:
    for split, expected in theirs.items():
        np.testing.assert_array_equal(ours[split].offsets, expected.offsets)
        np.testing.assert_allclose(ours[split].scores, expected.scores, atol=1e-6, rtol=1e-6)
        assert ours[split].fingerprint == expected.fingerprint


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return labels_of(inputs, town(window=16), tmp_path_factory.mktemp("alone"))


def test_two_processes_write_the_labels_of_one(inputs, alone, tmp_path):
    progress = []
    together = labels_of(
        inputs,
        town(label_processes=2, window=16),
        tmp_path / "together",
        progress=lambda *report: progress.append(report[:3]),
    )
    assert_same(together, alone)
    total = sum(len(labels) for labels in alone.values())
    assert progress[-1] == ("labels", total, total)
    assert [done for _, done, _ in progress] == sorted(done for _, done, _ in progress)


@pytest.mark.parametrize("size", [2, 3, 40])
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, size):
    """Each shard is written by one process, and the joined file does not depend on the number of processes."""
    network = grid_network(4)
    trips = random_trips(network, 30, lengths=(1, 15))
    torch.manual_seed(0)
    teacher = LMTAD(LMTADConfig(32, network.num_roads + 3, n_layer=2, n_head=2, n_embd=16)).eval()
    scorer = SoftLabelScorer(teacher, np.arange(network.num_roads), network, outside_mass=True)
    label_with(scorer, trips, shards_folder=tmp_path / "one", shard_steps=20).save(tmp_path / "one.arrow")
    steps, written = 0, set()
    for rank in range(size):
        reported = [0]
        steps += make_shards(
            scorer, trips, tmp_path / "many", DistributedContext(rank, size), shard_steps=20, report=reported.append
        )
        here = set((tmp_path / "many").glob("*")) if (tmp_path / "many").exists() else set()
        assert len(here - written) == len(range(rank, len(list((tmp_path / "one").glob("*"))), size))
        assert reported == sorted(reported)
        written = here
    assert steps == trips.num_steps
    untouched = {path: path.stat().st_mtime_ns for path in written}
    label_with(scorer, trips, shards_folder=tmp_path / "many", shard_steps=20).save(tmp_path / "many.arrow")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("*")} == untouched
    assert (tmp_path / "many.arrow").read_bytes() == (tmp_path / "one.arrow").read_bytes()


@pytest.mark.parametrize(("sent", "raises"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_a_canceled_run_leaves_no_process_and_the_next_one_resumes_after_complete_shards(
    inputs, alone, tmp_path, sent, raises
):
    """The launching process turns the signal into an exception, as Dagster and Ctrl-C do, or is killed by it."""
    folder = tmp_path / "labels"
    folder.mkdir()
    config = town(label_processes=2, window=16)
    with stage_process("teacher_soft_labels", config, inputs, folder, raises=raises) as process:
        for line in process.stdout:
            done, total = map(int, line.split()[1:])
            if done > total / 3:
                break
        assert len(running(folder)) >= 4
        process.send_signal(sent)
        process.wait(20)
        assert process.returncode != 0
    assert not left_after(folder, 10)
    assert not list(folder.glob("*.arrow"))
    kept = {path: path.read_bytes() for path in folder.glob(".*-shards/shard-*.arrow")}
    assert len(kept) >= 2
    times = {path: path.stat().st_mtime_ns for path in kept}
    times_during_run = {}

    def look(*_):
        times_during_run.update({path: path.stat().st_mtime_ns for path in kept if path.exists()})

    assert_same(labels_of(inputs, config, folder, progress=look), alone)
    assert times_during_run == times


def test_complete_files_of_a_killed_run_are_kept(inputs, alone, tmp_path):
    alone["train"].save(tmp_path / "train.arrow")
    (tmp_path / "val.arrow").write_bytes(b"half a file")
    before = (tmp_path / "train.arrow").stat().st_mtime_ns
    steps = []
    assert_same(labels_of(inputs, town(window=16), tmp_path, progress=lambda *report: steps.append(report[2])), alone)
    assert (tmp_path / "train.arrow").stat().st_mtime_ns == before
    assert set(steps) == {len(alone["val"]), len(alone["test"])}


def test_the_number_of_processes_changes_no_version():
    assert {name for name, section in SETTINGS.items() if section(town()) != section(town(label_processes=4))} == set()


def test_a_single_gpu_cannot_be_named_for_several_processes(inputs, tmp_path, monkeypatch):
    from hoser_kd.common.device import check_room_for

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, message in (("cuda:0", "names one"), ("cuda", "there are 1")):
        with pytest.raises(ConfigError, match=f"distill.label_processes: 2.*{message}"):
            check_room_for(2, "distill.label_processes", device)
