"""Which device and which arithmetic a run uses."""

from __future__ import annotations

import torch

from hoser_kd.errors import ConfigError


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
