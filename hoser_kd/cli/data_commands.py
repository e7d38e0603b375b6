"""Commands on the data of a city."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hoser_kd.cli.command import AddCommand


def add_data_commands(command: AddCommand) -> None:
    """Add the commands for the data of a city."""
    renumber = command(
        "renumber-roads",
        "Copy a city with road ids 0, 1, 2, … in file order: roadmap.geo, roadmap.rel and trips by one mapping.",
        _renumber_roads,
    )
    renumber.add_argument("folder", type=Path, help="folder in HOSER's format whose geo_id are other numbers")
    renumber.add_argument(
        "--out", type=Path, required=True, help="new folder to write, with road_ids.csv (the mapping)"
    )


def _renumber_roads(options: argparse.Namespace) -> int:
    from hoser_kd.network.renumbering import MAPPING_FILE, renumber_roads

    count = renumber_roads(options.folder, options.out)
    sys.stdout.write(f"{count} roads renumbered\nwritten: {options.out}; old ids: {options.out / MAPPING_FILE}\n")
    return 0
