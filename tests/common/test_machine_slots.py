"""Slots of a machine, for real processes and with GPUs that are only named."""

import os
import signal
import tempfile
import threading
import time

import pytest
import torch

from hoser_kd.common import device as devices
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.machine_slots import VARIABLE, machine_slots


@pytest.fixture
def slots(tmp_path, monkeypatch):
    """A machine of its own, with the setting as an argument."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda setting: monkeypatch.setenv(VARIABLE, setting)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "gpu_names", lambda: ["gpu-a", "gpu-b"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def taken(*arguments):
    """Take slots in another thread; returns an event that is set once it holds them, and what it logged."""
    logged, held = [], threading.Event()

    def take():
        with machine_slots(*arguments, logged.append):
            held.set()

    threading.Thread(target=take, daemon=True).start()
    return held, logged


def test_without_the_variable_nothing_is_counted(slots, tmp_path):
    slots("")
    with machine_slots("auto") as first, machine_slots("cuda:7") as second:
        assert (first, second) == ("auto", "cuda:7")
    assert not list(tmp_path.iterdir())


def test_a_step_waits_for_the_slot_of_another(slots):
    slots("1")
    with machine_slots("cpu") as device:
        held, logged = taken("cpu", 1)
        assert not held.wait(1.2)
        assert device == "cpu"
    assert held.wait(10)
    assert logged == ["All 1 slots of this machine are taken (cpu-0); this step waits for 1."]


def test_a_killed_process_frees_its_slot(slots):
    slots("1")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with machine_slots("cpu"):
            os.write(write, b"held")
            time.sleep(60)
        os._exit(0)
    assert os.read(read, 4) == b"held"
    held, _ = taken("cpu", 1)
    assert not held.wait(0.7)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held.wait(10)


def test_two_steps_get_different_gpus(slots, two_gpus):
    slots("auto")
    with machine_slots("auto") as first, machine_slots("cuda") as second:
        assert (first, second) == ("cuda:0", "cuda:1")
        third, _ = taken("auto", 1)
        assert not third.wait(0.7)
        with machine_slots("cpu") as device:  # takes no GPU
            assert device == "cpu"
    assert third.wait(10)
    with machine_slots("cuda:1") as named, machine_slots("auto") as free:
        assert (named, free) == ("cuda:1", "cuda:0")


def test_processes_that_train_together_hold_their_gpus(slots, two_gpus):
    slots("auto")
    with machine_slots("auto") as one:
        both, _ = taken("auto", 2)
        assert not both.wait(0.7)
        assert one == "cuda:0"
    assert both.wait(10)
    with machine_slots("auto", 2) as device:
        assert device == "auto"  # torchrun's processes choose theirs by rank
        other, _ = taken("cuda:1", 1)
        assert not other.wait(0.7)


@pytest.mark.parametrize("setting", ["0", "two", "-1", "1.5"])
def test_another_setting_is_refused(slots, setting):
    slots(setting)
    with pytest.raises(ConfigError, match=VARIABLE), machine_slots("auto"):
        pass
