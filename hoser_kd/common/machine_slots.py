"""Slots of this machine: how many steps with a model run on it at the same time, whatever has started them.

The pool `gpu` of a Dagster instance counts the steps of all its machines. With HOSER_KD_SLOTS each machine also counts
its own steps, by locks on files in its temporary folder. The kernel releases them when a process ends, however it ends.

`auto` is one slot per GPU, known by its UUID, so that processes with different CUDA_VISIBLE_DEVICES mean the same;
without a GPU, as many slots as the cores have threads for. A number sets the slots of a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.threads import num_jobs

VARIABLE = "HOSER_KD_SLOTS"
_POLL_S = 0.5


@contextlib.contextmanager
def machine_slots(device: str, count: int = 1, log: Callable[[str], object] = lambda _: None) -> Iterator[str]:
    """Hold `count` slots of this machine, and yield the device to use: a free GPU for `auto` and `cuda`.

    Waits until they are free. Does nothing without HOSER_KD_SLOTS, nor for device `cpu` beside a GPU. With `count`
    above 1 the slots are those of the first GPUs, which the processes of a step use; the device stays as it is.

    Raises:
        ConfigError: HOSER_KD_SLOTS is neither `auto` nor a number from 1, or the device does not exist.
    """
    slots = _slots(os.environ.get(VARIABLE, ""), device)
    if not slots:
        yield device
        return
    if count > 1:
        slots = dict.fromkeys(list(slots)[:count], device)
    held = _wait(slots, min(count, len(slots)), log)
    try:
        yield next(iter(held.values()))[1]
    finally:
        _release(held)


def _slots(setting: str, device: str) -> dict[str, str]:
    """Return the device of each slot that a step may take, by the slot's name; empty if slots are not counted."""
    if not setting:
        return {}
    if not re.fullmatch(r"auto|[1-9]\d{0,3}", setting):
        raise ConfigError(f"{VARIABLE}: {setting!r} is not a number of slots. Use auto, or a number from 1.")
    from hoser_kd.common.device import gpu_names, pick_device

    gpus = gpu_names()
    if not gpus:
        return {f"cpu-{n}": device for n in range(num_jobs() if setting == "auto" else int(setting))}
    chosen = pick_device(device)
    if chosen.type != "cuda":
        return {}
    if device == "auto" or chosen.index is None:
        return {name: f"cuda:{n}" for n, name in enumerate(gpus)}
    return {gpus[chosen.index]: device}


_Held = Mapping[str, tuple[FileLock, str]]
"""Lock and device of each slot that this process holds."""


def _wait(slots: Mapping[str, str], count: int, log: Callable[[str], object]) -> _Held:
    """Hold `count` of the slots as soon as so many are free; while it waits, it holds none."""
    is_logged = False
    while True:
        held: dict[str, tuple[FileLock, str]] = {}
        for name, device in slots.items():
            lock = FileLock(_folder() / f"{name}.lock", mode=0o600)
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                held[name] = lock, device
            if len(held) == count:
                return held
        _release(held)
        if not is_logged:
            log(f"All {len(slots)} slots of this machine are taken ({', '.join(slots)}); this step waits for {count}.")
            is_logged = True
        time.sleep(_POLL_S)


def _release(held: _Held) -> None:
    for lock, _ in held.values():
        lock.release()


def _folder() -> Path:
    """Return the folder of the locks: this machine's and this user's."""
    folder = Path(tempfile.gettempdir()) / f"hoser-kd-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} belongs to another user. Remove it, or set TMPDIR to another folder.")
    return folder
