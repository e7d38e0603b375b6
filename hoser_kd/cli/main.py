"""The parser of `hoser-kd`: all its commands, suggestions for misspelled ones, and the exit status.

It uses argparse: typer (click) has no option with several values, so it cannot read `report --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from hoser_kd import __version__
from hoser_kd.cli.bundle_commands import add_bundle_commands
from hoser_kd.cli.command import Run
from hoser_kd.cli.compare_commands import add_compare_commands
from hoser_kd.cli.data_commands import add_data_commands
from hoser_kd.cli.file_commands import add_file_commands
from hoser_kd.cli.import_commands import add_import_commands
from hoser_kd.cli.join_commands import add_join_commands
from hoser_kd.cli.project_commands import add_project_commands
from hoser_kd.cli.serve_commands import add_serve_commands
from hoser_kd.cli.slurm_commands import add_slurm_commands
from hoser_kd.cli.stage_commands import add_stage_commands
from hoser_kd.cli.store_commands import add_store_commands
from hoser_kd.cli.sweep_commands import add_sweep_commands
from hoser_kd.common.errors import HoserKdError, ProcessError
from hoser_kd.common.threads import choose_threads
from hoser_kd.config.messages import nearest

_KILLED = 75
"""Exit status of a failure that may be temporary: EX_TEMPFAIL of sysexits.h."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    It is 2 after an error of the user, with its message on one line, and 75 if a process of the command was killed, so
    that the same command may succeed.
    """
    choose_threads()
    options = _parse(arguments)
    try:
        status: int = options.run(options)
    except HoserKdError as error:
        sys.stderr.write(f"hoser-kd: {error}\n")
        return _KILLED if isinstance(error, ProcessError) else 2
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        sys.stderr.write(f"hoser-kd: {error.filename}: {error.strerror}.\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nhoser-kd: interrupted. Finished work is kept; the same command resumes from there.\n")
        return 130
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; an unknown one ends the program with the closest of the command."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        command: argparse.ArgumentParser = options.parser
        known = [name for name in command._option_string_actions if name.startswith("--")]  # noqa: SLF001
        hint = nearest(unknown[0].split("=")[0], known) or f" Known: {', '.join(known)}."
        command.error(f"unknown argument: {unknown[0]}.{hint}")
    return options


class _Parser(argparse.ArgumentParser):
    """Parser that suggests the closest command or stage; argparse itself does so from Python 3.14."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = nearest(str(value), action.choices)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}.{hint} Known: {', '.join(action.choices)}."
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hoser-kd", description="Distill LM-TAD into HOSER. Finished stages are kept in the store and reused."
    )
    parser.add_argument("--version", action="version", version=f"hoser-kd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, about: str, run: Run) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run, parser=sub)
        return sub

    add_stage_commands(command)
    add_sweep_commands(command)
    add_slurm_commands(command)
    add_file_commands(command)
    add_bundle_commands(command)
    add_store_commands(command)
    add_import_commands(command)
    add_data_commands(command)
    add_compare_commands(command)
    add_serve_commands(command)
    add_join_commands(command)
    add_project_commands(command)
    return parser
