"""Peak memory of reading, cleaning and matching GPS points, for files of growing size.

    python benchmarks/points_memory.py PORTO_RAW_FOLDER [--copies 1 10 30] [--match] [--batch 500000]

The file of the ECML/PKDD challenge is repeated. Each size runs in a separate process, whose first line
is its memory before any point is read.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hoser_kd.config.schema import CityConfig
from hoser_kd.network import gps_readers
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.store import Store


def repeat(source: Path, target: Path, copies: int) -> None:
    """Write the trips of a CSV several times, with different ids."""
    csv.field_size_limit(1 << 30)
    with gzip.open(source, "rt", newline="") as lines, target.open("w", newline="") as file:
        header, *rows = csv.reader(lines)
        out = csv.writer(file)
        out.writerow(header)
        column = header.index("TRIP_ID")
        for copy in range(copies):
            out.writerows([*row[:column], f"{copy}-{row[column]}", *row[column + 1 :]] for row in rows)


def measure(folder: Path, copies: int, batch: int, *, match: bool) -> None:
    """Print points, peak memory and CPU seconds of the stages."""
    gps_readers.BATCH_POINTS = batch
    gps_readers.BLOCK_BYTES = 4 << 20
    with tempfile.TemporaryDirectory() as place:
        repeat(folder / "trips.csv.gz", Path(place) / "trips.csv", copies)
        source = {
            "kind": "raw",
            "map": {"path": str(folder / "osm_porto_drive.json.gz")},
            "points": {"path": f"{place}/trips.csv", "format": "ecml_pkdd", "time_zone": "Europe/Lisbon"},
        }
        config, store = CityConfig.model_validate({"city": "porto_raw", "source": source}), Store(Path(place) / "store")
        if match:
            make_with_inputs("road_network", config, store)
        print(f"{copies} copies: before {_peak_mib()} MiB", flush=True)
        for stage in ("gps_points", *(["matched_trips"] if match else [])):
            started = time.process_time()
            summary = make_with_inputs(stage, config, store).summary
            seconds = time.process_time() - started
            what = f"{summary['points']} points" if stage == "gps_points" else f"{summary['pieces']} pieces"
            print(f"{copies} copies: {stage}, {what}, peak {_peak_mib()} MiB, {seconds:.0f} s CPU", flush=True)


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure each size in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10, 30])
    parser.add_argument("--batch", type=int, default=gps_readers.BATCH_POINTS, help="points of a batch")
    parser.add_argument("--match", action="store_true", help="match too, not only read and clean")
    options = parser.parse_args()
    if len(options.copies) == 1:
        measure(options.folder, options.copies[0], options.batch, match=options.match)
        return
    for copies in options.copies:
        command = [sys.executable, __file__, str(options.folder), "--batch", str(options.batch)]
        subprocess.run([*command, "--copies", str(copies), *["--match"] * options.match], check=True)


if __name__ == "__main__":
    main()
