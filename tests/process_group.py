"""Run a function in forked processes of a group, as torchrun does, but without importing torch in each again."""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed


def in_process_group(size: int, run: Callable[[], object], folder: Path) -> None:
    """Call `run` in `size` processes of one gloo group; fails with the traceback of a process that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(rank, size, run, folder), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    errors = [file.read_text() for file in sorted(folder.glob("error-*"))]
    assert not errors, errors[0]
    assert [process.exitcode for process in processes] == [0] * size


def _process(rank: int, size: int, run: Callable[[], object], folder: Path) -> None:
    try:
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
        run()
        distributed.destroy_process_group()
    except BaseException:  # noqa: BLE001
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
