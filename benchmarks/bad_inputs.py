"""Try hundreds of bad inputs on every reader, and print what each gets: refused, warned by a check, or read correctly.

    python benchmarks/bad_inputs.py              # the whole table; exit status 1 for a traceback or a wrong result
    python benchmarks/bad_inputs.py --sample 60  # a random part of it (--seed)
    python benchmarks/bad_inputs.py --kind yaml  # one kind of input

Each input is a valid one with one mistake, made by rules: a value in a column, a key in a YAML file, a tensor in a
teacher's file (`bad_input_kinds/`). Inputs that only look unusual, such as other line ends, are among them; they must
give the same data.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from bad_input_kinds.base import BadInput
from bad_input_kinds.city import bad_networks, bad_roads, bad_trips, bad_zones
from bad_input_kinds.commands import bad_commands
from bad_input_kinds.files import bad_files
from bad_input_kinds.imports import bad_imports
from bad_input_kinds.raw_data import bad_maps, bad_points
from bad_input_kinds.records import bad_records
from bad_input_kinds.requests import bad_generated_trips, bad_ods
from bad_input_kinds.settings import bad_yaml
from bad_input_kinds.small_city import read_city_values, write_city
from bad_input_kinds.students import bad_bundles, bad_requests
from bad_input_kinds.studies import bad_city_folders, bad_studies
from bad_input_kinds.teachers import bad_teachers

from hoser_kd.common.errors import DataWarning, HoserKdError

REFUSED, WARNED, CORRECT = "refused", "warned by check", "accepted correctly"
SILENT, TRACEBACK = "SILENTLY WRONG", "TRACEBACK"


@dataclass(frozen=True)
class Outcome:
    """What an input gets."""

    case: BadInput
    result: str
    message: str


def try_input(case: BadInput) -> Outcome:
    """Read one input in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = case.read(Path(folder))
        except HoserKdError as error:
            return Outcome(case, REFUSED, str(error).replace(folder + "/", ""))
        except Exception:  # noqa: BLE001  the point of this program
            return Outcome(case, TRACEBACK, traceback.format_exc())
        told = [str(each.message).replace(folder + "/", "") for each in caught if each.category is DataWarning]
    if told:
        return Outcome(case, WARNED, told[0])
    return Outcome(case, CORRECT if case.same_as is not None and value == case.same_as else SILENT, repr(value)[:200])


def all_inputs(seed: int = 0) -> list[BadInput]:
    """Return all inputs; the seed selects the rows that are wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        same = read_city_values(write_city(Path(folder)))
    return [
        *bad_roads(rng),
        *bad_networks(),
        *bad_trips(rng),
        *bad_files(same),
        *bad_zones(same),
        *bad_ods(),
        *bad_generated_trips(),
        *bad_yaml(),
        *bad_teachers(),
        *bad_records(),
        *bad_points(),
        *bad_maps(),
        *bad_imports(),
        *bad_studies(),
        *bad_city_folders(),
        *bad_bundles(),
        *bad_requests(),
        *bad_commands(),
    ]


def table(outcomes: list[Outcome], width: int) -> list[str]:
    """Return a line per input, and the counts by kind."""
    lines = [f"{'kind':<12}{'input':<58}{'result':<20}message"]
    for outcome in outcomes:
        message = (
            " ".join(outcome.message.strip().splitlines()[-1:]) if outcome.result == TRACEBACK else outcome.message
        )
        label = outcome.case.label.replace("\n", "⏎")[:56]
        lines.append(f"{outcome.case.kind:<12}{label:<58}{outcome.result:<20}{message.replace(chr(10), ' ')[:width]}")
    counts = collections.Counter((outcome.case.kind, outcome.result) for outcome in outcomes)
    results = [REFUSED, WARNED, CORRECT, SILENT, TRACEBACK]
    lines += ["", f"{'kind':<14}" + "".join(f"{result:>20}" for result in results)]
    for kind in (*dict.fromkeys(outcome.case.kind for outcome in outcomes), "all"):
        row = [
            sum(count for (of, what), count in counts.items() if what == result and kind in (of, "all"))
            for result in results
        ]
        lines.append(f"{kind:<14}" + "".join(f"{number:>20}" for number in row))
    return lines


def main() -> int:
    """Print the table; return 1 if an input is read wrongly or ends in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", help="only inputs of this kind")
    parser.add_argument("--sample", type=int, help="a random part of this size")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows and of the sample")
    options = parser.parse_args()
    cases = [case for case in all_inputs(options.seed) if options.kind in (None, case.kind)]
    if options.sample:
        cases = random.Random(options.seed).sample(cases, min(options.sample, len(cases)))
    outcomes = [try_input(case) for case in cases]
    bad = [outcome for outcome in outcomes if outcome.result in {SILENT, TRACEBACK}]
    # a bad input can be half of a UTF-16 pair
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write("\n".join(table(outcomes, max(40, shutil.get_terminal_size((220, 0)).columns - 92))) + "\n")
    for outcome in bad:
        sys.stdout.write(f"\n{outcome.result}: {outcome.case.kind}: {outcome.case.label}\n{outcome.message}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
