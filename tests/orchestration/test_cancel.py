"""A run that works in several processes is canceled as the UI does it, and leaves none of them behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from homes import wait_until

from hoser_kd.pipeline.store import read_artifact
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


def test_a_canceled_training_in_two_processes_leaves_none_behind(dev_town):
    """Labeling in several processes ends in the same way; tests/pipeline/test_label_processes.py interrupts it."""
    home, server = dev_town
    versions = sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir())
    home.edit("max_epochs: 2, batch", "num_processes: 2, max_epochs: 100000, batch")
    run = server.launch("distill", "vanilla_student", partition="town|0")
    wait_until(lambda: list((home.store / ".work" / "town").rglob("state.pt")), 300, "an epoch of training", every=0.5)
    assert len(workers(home.root)) == 3  # torchrun and its two workers
    server.terminate(run)
    wait_until(lambda: not workers(home.root), 45, "the end of the workers")
    assert server.wait_for_end(run, 60) == "CANCELED"
    assert sorted((home.store / "town" / "vanilla_student" / "seed-0").iterdir()) == versions
    assert read_artifact(versions[0]).version == versions[0].name
    assert list((home.store / ".work" / "town").rglob("state.pt"))  # from which the next run resumes
    with home.instance() as instance:
        wait_until(
            lambda: not instance.event_log_storage.get_concurrency_info("gpu").active_slot_count,
            120,
            "its slot in the pool to be free",
            every=1,
        )
