"""Selection and validation of torch devices."""

from __future__ import annotations

import torch

from hoser_kd.common.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """Return the torch device `name`; `auto` selects a GPU if one is available, otherwise the CPU.

    Raises ConfigError if the device is unknown or not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:<n>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} is not available: torch finds no GPU. Use auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not available: there are only {torch.cuda.device_count()} GPUs.")
    return device


def gpu_names() -> list[str]:
    """Return the name of each GPU that this process sees, by its number: the UUID, which all processes share."""
    return [f"gpu-{torch.cuda.get_device_properties(number).uuid}" for number in range(torch.cuda.device_count())]


def check_room_for(num_processes: int, setting: str, name: str) -> None:
    """Raise ConfigError if the device `name` does not have one GPU for each of `num_processes` processes.

    `setting` is the key that error messages name.
    """
    device = pick_device(name)
    if device.index is not None:
        raise ConfigError(
            f"`{setting}: {num_processes}` uses the first {num_processes} GPUs, but device {name} "
            "names one. Use auto, cuda or cpu, or one process."
        )
    if device.type == "cuda" and torch.cuda.device_count() < num_processes:
        raise ConfigError(
            f"`{setting}: {num_processes}` needs {num_processes} GPUs, but there are "
            f"{torch.cuda.device_count()}. Lower it, or use device cpu."
        )
