"""Commands on a whole store."""

from __future__ import annotations

import argparse
import os
import sys

from hoser_kd.cli.command import AddCommand
from hoser_kd.pipeline.store import Store
from hoser_kd.pipeline.verification import verify_store


def add_store_commands(command: AddCommand) -> None:
    """Add the commands for a store."""
    verify = command(
        "verify",
        "Read all files of a store and compare them with the digests in the records of their artifacts. The exit "
        "status is 1 if a file is missing or has changed.",
        _verify,
    )
    verify.add_argument("store", nargs="?", help="artifact store (default: $HOSER_KD_STORE or data/)")


def _verify(options: argparse.Namespace) -> int:
    root = options.store or os.environ.get("HOSER_KD_STORE") or "data"
    result = verify_store(Store(root))
    sys.stdout.write("".join(f"{line}\n" for line in [*result.damaged, f"{root}: {result.summary}"]))
    return 1 if result.damaged else 0
