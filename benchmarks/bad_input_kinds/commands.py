"""Arguments, environment variables and files of commands that cannot be used."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from bad_input_kinds.base import BadInput

TOWN = "source: {kind: synthetic, synthetic: {blocks: [6, 6], num_trips: 30}}\ngrid: {bounds: roads, cell_size_m: 80}\n"


def bad_commands() -> Iterator[BadInput]:
    """Yield calls of `hoser-kd` that must end with one message and an exit status that is not 0."""
    town = ("--config", "{folder}/town.yaml", "--store", "{folder}/store")
    for label, arguments in {
        "no city": ("train",),
        "no such config": ("train", "--config", "{folder}/none.yaml"),
        "a folder as config": ("train", "--config", "{folder}"),
        "another dataset than the config's": ("show-config", *town[:2], "--dataset", "porto"),
        "a dataset with a path": ("show-config", "--dataset", "../town"),
        "a dataset with a space": ("show-config", "--dataset", "my town"),
        "an empty dataset": ("show-config", "--dataset", ""),
        "a seed below 0": ("make", "road_network", *town, "--seed", "-1"),
        "a seed of 1.5": ("make", "road_network", *town, "--seed", "1.5"),
        "a seed in other digits": ("make", "road_network", *town, "--seed", "١"),
        "a seed of 30 digits": ("make", "road_network", *town, "--seed", "9" * 30),
        "a GPU that is text": ("make", "road_network", *town, "--cuda", "x"),
        "GPU 99": ("train", "--vanilla", *town, "--cuda", "99"),
        "no jobs": ("make", "road_network", *town, "--jobs", "0"),
        "an unknown stage": ("make", "road_netwrok", *town),
        "an unknown command": ("tain", *town),
        "an unknown option": ("train", *town, "--epochs", "3"),
        "a store that is a file": ("make", "road_network", *town[:2], "--store", "{folder}/town.yaml"),
        "a store of an unknown protocol": ("make", "road_network", *town[:2], "--store", "foo://x"),
        "a store without a bucket": ("make", "road_network", *town[:2], "--store", "s3://"),
        "a store in /proc": ("make", "road_network", *town[:2], "--store", "/proc/store"),
        "a store below a file": ("make", "road_network", *town[:2], "--store", "{folder}/town.yaml/x"),
        "a store name of 300 letters": ("make", "road_network", *town[:2], "--store", "{folder}/" + "s" * 300),
        "no such OD file": ("generate", *town, "--ods", "{folder}/none.csv"),
        "an unknown decoder": ("generate", *town, "--decoder", "serach"),
        "no such trips": ("evaluate", *town, "--trips", "{folder}/none.csv"),
        "trips without a name option": ("evaluate", *town, "--name", "x"),
        "trips named vanilla": ("evaluate", *town, "--trips", "{folder}/town.yaml", "--name", "vanilla"),
        "a seed beside seeds": ("report", *town, "--seed", "1", "--seeds", "0", "1"),
        "seeds that are text": ("report", *town, "--seeds", "a"),
        "an unknown study": ("sweep", *town, "--study", "lamda"),
        "no such study file": ("sweep", *town, "--study", "{folder}/none.yaml"),
        "no trials": ("sweep", *town, "--study", "lambda", "--trials", "0"),
        "no artifact": ("lineage", "{folder}"),
        "no such artifact": ("lineage", "{folder}/none"),
        "no student to export": ("export-student", "{folder}", "{folder}/x.pth"),
        "a student of another kind": ("export-student", "{folder}/town.yaml", "{folder}/x.pth"),
        "no such teacher": ("import-teacher", "{folder}/none.pt"),
        "a YAML as teacher": ("import-teacher", "{folder}/town.yaml"),
        "a folder as teacher": ("import-teacher", "{folder}"),
        "no such store": ("verify", "{folder}/none"),
        "no runs to compare": ("compare", "{folder}"),
        "no student to bundle": ("bundle", "{folder}", "--out", "{folder}/b"),
        "no bundle to push": ("push", "{folder}", "file://{folder}/hub"),
        "no address to push to": ("push", "{folder}", "x"),
        "a pull from nowhere": ("pull", "file://{folder}/none"),
        "a pull of a name with blanks": ("pull", "a b/c d"),
        "no student to serve": ("serve", "{folder}", "--port", "0"),
        "port 99999": ("serve", "{folder}", "--port", "99999"),
        "no folder to import": ("import-city", "{folder}/out", "--folder", "{folder}/none"),
        "nothing to import": ("import-city", "{folder}/out"),
        "a role that is unknown": (
            "import-city",
            "{folder}/out",
            "--roads",
            "{folder}/town.yaml",
            "--trips",
            "{folder}/town.yaml",
            "--columns",
            "road=link",
        ),
        "no folder to check": ("check-data", "{folder}/none"),
        "a file to check": ("check-data", "{folder}/town.yaml"),
        "no folder to renumber": ("renumber-roads", "{folder}/none", "{folder}/out"),
        "no city to export": ("export-libcity", "{folder}", "{folder}/out"),
        "a file to write a project to": ("init", "{folder}/town.yaml"),
    }.items():
        yield BadInput("commands", label, _command(arguments))
    for label, variables in {
        "HOSER_KD_STORE is foo://x": {"HOSER_KD_STORE": "foo://x"},
        "HOSER_KD_STORE is a file": {"HOSER_KD_STORE": "/etc/hostname"},
        "HOSER_KD_JOBS is 0": {"HOSER_KD_JOBS": "0"},
        "HOSER_KD_JOBS is text": {"HOSER_KD_JOBS": "all"},
        "HOSER_KD_JOBS is -1": {"HOSER_KD_JOBS": "-1"},
    }.items():
        yield BadInput("commands", label, _command(("make", "road_network", *town[:2]), variables))
    yield BadInput(
        "commands",
        "HOSER_KD_CONFIG is no folder",
        _command(("show-config", "--dataset", "town"), {"HOSER_KD_CONFIG": "/etc/hostname"}),
    )
    yield BadInput("commands", "a valid call", _command(("show-config", *town[:2]), answer=False), "status 0")


def _command(
    arguments: tuple[str, ...], variables: Mapping[str, str] | None = None, *, answer: bool = True
) -> Callable[[Path], Any]:
    """Return a function that runs a command in this process; a message with an exit status above 0 is a refusal."""

    def read(folder: Path) -> Any:
        from hoser_kd.cli import main
        from hoser_kd.common.errors import HoserKdError

        (folder / "town.yaml").write_text(TOWN, encoding="utf-8")
        error, output = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, variables or {}),
            contextlib.redirect_stderr(error),
            contextlib.redirect_stdout(output),
        ):
            try:
                status = main([each.format(folder=folder) for each in arguments])
            except SystemExit as end:  # argparse
                status = int(end.code or 0)
        if status:
            message = (error.getvalue() + output.getvalue()).strip()
            assert message, f"exit status {status} without a message"
            assert "Traceback" not in message, message
            raise HoserKdError(message.splitlines()[-1])
        return (output.getvalue() or error.getvalue()) if answer else f"status {status}"

    return read
