"""Print how many steps with a model may run at the same time: `python -m hoser_kd.common.model_slots`."""

from __future__ import annotations

import sys

from hoser_kd.common.threads import choose_threads, num_jobs


def num_model_slots() -> int:
    """Return 1 on a machine with a GPU; otherwise the number of stages that run side by side."""
    import torch

    return 1 if torch.cuda.is_available() else num_jobs()


if __name__ == "__main__":
    choose_threads()
    sys.stdout.write(f"{num_model_slots()}\n")
