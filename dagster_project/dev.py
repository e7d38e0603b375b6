"""What `make dev` runs: Dagster's UI and daemon, beside them the files of the store and TensorBoard.

They start together and end together: a shell leaves what it has put into the background running after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 30
"""Dagster ends its runs and servers by itself; what is left after so long is killed."""


def main() -> None:
    """Run until interrupted, terminated, the terminal is closed, or Dagster ends; then end everything that was started.

    Where Dagster ended by itself, its status is this process's.
    """
    parser = argparse.ArgumentParser(description="Run Dagster's UI, the files of the store and TensorBoard.")
    parser.add_argument("--port", type=int, default=3000, help="port of the UI")
    options = parser.parse_args()
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup make dev` outlives its terminal
        ends.append(signal.SIGHUP)
    for number in ends:
        # also where this process was started with interrupts ignored, which those it starts would inherit
        signal.signal(number, signal.default_int_handler)
    dagster, *beside = (
        _start("dagster", "dev", "-w", str(ROOT / "workspace.yaml"), "-p", str(options.port)),
        _start("dagster_project.files"),
        _start("dagster_project.tensorboard"),
    )
    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        status = dagster.wait()
    for number in ends:
        signal.signal(number, signal.SIG_IGN)  # one is enough; a second one would leave something behind
    _signal(dagster, signal.SIGINT)
    for process in beside:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    for process in (dagster, *beside):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)  # TensorBoard leaves a helper of its own; a group outlives its leader
        process.wait()
    sys.exit(status)


def _start(*words: str) -> subprocess.Popen[bytes]:
    """Start a module of this Python in a group of its own, so that a signal reaches it once, from here."""
    return subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, start_new_session=True)  # noqa: S603


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    main()
