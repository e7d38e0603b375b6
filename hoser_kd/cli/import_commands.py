"""Commands that bring data of other tools in and out, and check a folder before anything is trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hoser_kd.cli.command import AddCommand
from hoser_kd.common.errors import ConfigError

_SPLITS = ("train", "val", "test")


def add_import_commands(command: AddCommand) -> None:
    """Add import-city, export-libcity and check-data."""
    city = command(
        "import-city",
        "Write a folder in HOSER's format from roads and matched trips of other tools: LibCity, FMM, Valhalla, START, "
        "OSMnx, GeoPandas. Then check it.",
        _import_city,
    )
    city.add_argument("out", type=Path, help="new folder to write; source kind hoser reads it")
    city.add_argument("--folder", type=Path, help="folder with one LibCity data set, instead of --roads and --trips")
    city.add_argument("--roads", type=Path, help="directed edges: .geo, CSV(.gz), Parquet, GeoPackage, GraphML, ...")
    city.add_argument(
        "--connections", type=Path, help="pairs of consecutive roads, such as .rel (default: roads that share a node)"
    )
    city.add_argument("--trips", type=Path, help="all trips; split by start time into 70, 10 and 20 %%")
    for split in _SPLITS:
        city.add_argument(f"--{split}", type=Path, help=f"{split} trips, instead of --trips")
    city.add_argument(
        "--time-zone", help="the city's, such as Europe/Lisbon: Unix times and times with an offset become local times"
    )
    city.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=NAME",
        help="columns with unusual names, such as road_id=link (docs/importing.md lists the roles)",
    )
    libcity = command("export-libcity", "Write a city as LibCity's atomic files: .geo, .rel, .dyna.", _export_libcity)
    libcity.add_argument("folder", type=Path, help="a folder in HOSER's format")
    libcity.add_argument("out", type=Path, help="new folder to write")
    libcity.add_argument("--name", help="name of the data set (default: that of the folder)")
    check = command(
        "check-data", "Report everything that is wrong with a folder in HOSER's format; train nothing.", _check_data
    )
    check.add_argument("folder", type=Path, help="a folder in HOSER's format")


def _import_city(options: argparse.Namespace) -> int:
    from hoser_kd.network.importing.city_files import find_city_files, trips_by_split
    from hoser_kd.network.importing.city_import import import_city

    try:
        trips = trips_by_split({split: getattr(options, split) for split in _SPLITS}, options.trips)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    roads, connections = options.roads, options.connections
    if options.folder is not None:
        if roads is not None or trips is not None:
            raise ConfigError("--folder stands for --roads, --connections and --trips. Give either.")
        roads, connections, trips = find_city_files(options.folder)
    if roads is None or trips is None:
        raise ConfigError("no city given. Use --roads FILE and --trips FILE, or --folder FOLDER.")
    city = import_city(
        options.out,
        roads,
        trips,
        connections=connections,
        time_zone=options.time_zone,
        columns=_roles(options.columns),
    )
    counts = ", ".join(f"{count} {split} trips" for split, count in city.num_trips.items())
    sys.stdout.write(f"{city.num_roads} roads, {city.num_connections} connections, {counts}\n")
    sys.stdout.write(f"written: {city.folder} (road_ids.csv maps the roads to their former ids)\n")
    return _report(options.out)


def _roles(pairs: list[str]) -> dict[str, str]:
    from hoser_kd.config.messages import nearest
    from hoser_kd.network.importing import roads, trips

    known = [*roads.ROLES, *(role for role in trips.ROLES if role not in roads.ROLES)]
    chosen = {}
    for pair in pairs:
        role, _, name = pair.partition("=")
        if not name or role not in known:
            raise ConfigError(f"--columns {pair}: expected ROLE=NAME.{nearest(role, known)} Roles: {', '.join(known)}.")
        chosen[role] = name
    return chosen


def _export_libcity(options: argparse.Namespace) -> int:
    from hoser_kd.network.importing.city_folder import write_libcity
    from hoser_kd.network.road_network import read_network
    from hoser_kd.network.trajectories import read_trips

    network = read_network(options.folder)
    trips = {split: read_trips(options.folder / f"{split}.csv", network) for split in _SPLITS}
    folder = write_libcity(options.out, options.name or options.folder.resolve().name, network, trips)
    sys.stdout.write(f"written: {folder}\n")
    return 0


def _check_data(options: argparse.Namespace) -> int:
    return _report(options.folder)


def _report(folder: Path) -> int:
    from hoser_kd.network.data_check import check_data

    result = check_data(folder)
    summary = ", ".join(f"{count} {name}" for name, count in result.summary.items())
    lines = [f"{folder}: {summary or 'nothing could be read'}"]
    lines += [f"{number}. {problem}" for number, problem in enumerate(result.problems, 1)]
    lines.append(f"{len(result.problems)} problems" if result.problems else "no problems")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if result.problems else 0
