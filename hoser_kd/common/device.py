"""Which device and which arithmetic a run uses."""

from __future__ import annotations

import torch

from hoser_kd.common.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes a GPU where there is one.

    Raises ConfigError where the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:<n>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} is asked for, but torch sees no GPU: use auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is asked for, but there are only {torch.cuda.device_count()} GPUs.")
    return device


def check_room_for(num_processes: int, setting: str, name: str) -> None:
    """Raise ConfigError where the device called `name` has no GPU for each of so many processes.

    `setting` is the one that asks for them.
    """
    device = pick_device(name)
    if device.index is not None:
        raise ConfigError(
            f"`{setting}: {num_processes}` takes the first {num_processes} GPUs, and device {name} "
            "names one. Use auto, cuda or cpu, or one process."
        )
    if device.type == "cuda" and torch.cuda.device_count() < num_processes:
        raise ConfigError(
            f"`{setting}: {num_processes}` needs as many GPUs, and there are "
            f"{torch.cuda.device_count()}. Lower it, or use the device cpu."
        )
