"""A run that works in several processes is canceled as the UI does it, and leaves none of them behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from homes import wait_until

from hoser_kd.pipeline.workers.launcher import WORKER

pytestmark = pytest.mark.xdist_group("dev")


def workers(root: Path) -> list[str]:
    """Return the processes that work together in this home: torchrun and its workers."""
    numbers = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and WORKER.encode() in (entry / "cmdline").read_bytes()
                and str(root).encode() in (entry / "environ").read_bytes()
            ):
                numbers.append(entry.name)
        except OSError:
            continue
    return numbers


def cancel(home, server, job: str, assets: list[str], partition: str, sign: str) -> None:
    """Launch assets of a job, cancel the run once a file of this name exists, and check that its processes end."""
    run = server.launch(job, *assets, partition=partition)
    wait_until(lambda: list((home.store / ".work").rglob(sign)), 300, sign)
    assert len(workers(home.root)) == 3  # torchrun and its two workers
    server.terminate(run)
    wait_until(lambda: not workers(home.root), 60, "the end of the workers")
    assert server.wait_for_end(run, 60) == "CANCELED"


def test_a_canceled_training_leaves_no_process_behind(dev_town):
    home, server = dev_town
    home.edit("max_epochs: 2, batch", "num_processes: 2, max_epochs: 100000, batch")
    cancel(home, server, "distill", ["vanilla_student"], "town|0", "state.pt")


def test_canceled_labeling_leaves_no_process_behind_and_keeps_its_shards(dev_town):
    home, server = dev_town
    before = sorted((home.store / "town" / "teacher_soft_labels").iterdir())
    # labels that take a pass of a large teacher per step
    home.edit("n_embd: 32, max_epochs: 2", "n_layer: 12, n_embd: 192, max_epochs: 1")
    home.edit("generation:", "distill: {window: 12, label_processes: 2}\ngeneration:")
    cancel(home, server, "train_teacher", ["teacher_corpus", "teacher", "teacher_soft_labels"], "town", "shard-*.arrow")
    assert list((home.store / ".work").rglob("shard-*.arrow"))
    assert sorted((home.store / "town" / "teacher_soft_labels").iterdir()) == before
