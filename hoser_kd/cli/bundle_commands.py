"""Commands that share a student: bundle, push, pull, export-next-step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hoser_kd.cli.command import AddCommand
from hoser_kd.cli.student_argument import add_student_argument, student_path
from hoser_kd.common.errors import ConfigError


def add_bundle_commands(command: AddCommand) -> None:
    """Add the commands that write, publish and fetch bundles."""
    bundle = command(
        "bundle",
        "Write a student with its roads, metrics, lineage and model card into one folder that loads without the store.",
        _bundle,
    )
    add_student_argument(bundle)
    bundle.add_argument("--out", type=Path, help="folder to write (default: <city>_<student>_seed<n>)")
    bundle.add_argument(
        "--license", help="license of the weights, as on Hugging Face: cc-by-4.0, mit (default: unknown)"
    )
    bundle.add_argument("--network", type=Path, help="folder in HOSER's format, for a student without its network")
    push = command("push", "Publish a bundle: to a Hugging Face repository, or to a folder.", _push)
    push.add_argument("bundle", type=Path, help="folder of a bundle")
    push.add_argument("address", help="user/name, or file:///folder")
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    pull = command("pull", "Fetch a published bundle and check it.", _pull)
    pull.add_argument(
        "address", help="user/name or file:///folder, with @version for one version (default: the newest)"
    )
    pull.add_argument("--out", type=Path, help="folder to write (default: the cache of Hugging Face)")

    export = command(
        "export-next-step",
        "Write the next-step model of a student as a program of torch.export, which runs without this package.",
        _export_next_step,
    )
    add_student_argument(export)
    export.add_argument(
        "--out", type=Path, default=Path("next_step.pt2"), help="file to write (default: next_step.pt2)"
    )


def _bundle(options: argparse.Namespace) -> int:
    from hoser_kd.sharing.bundle import CARD_FILE, UNKNOWN_LICENSE, check_bundle, write_bundle
    from hoser_kd.sharing.loading import load_student

    try:
        student = load_student(student_path(options), options.network)
        out = options.out or Path("_".join(_name_parts(student.about)) or "student")
        folder = write_bundle(student, out, options.license or UNKNOWN_LICENSE)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{error} On the command line: --network FOLDER, --license ID.") from None
    lines = [f"{student}", f"  version: {check_bundle(folder)['version']}", f"  written: {folder}"]
    if options.license is None:
        lines.append(f"  license: {UNKNOWN_LICENSE}. Set it with --license before you share the bundle.")
    if not student.about.get("metrics", {}).get("test"):
        lines.append(f"  no metrics on test trips are recorded for this student: see {folder / CARD_FILE}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _name_parts(about: Mapping[str, Any]) -> list[str]:
    parts = [str(about[key]) for key in ("city", "stage") if about.get(key)]
    return [*parts, f"seed{about['seed']}"] if parts and about.get("seed") is not None else parts


def _push(options: argparse.Namespace) -> int:
    from hoser_kd.sharing.hub import push

    try:
        address = push(options.bundle, options.address, private=not options.public)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sys.stdout.write(f"published: {address}\n")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from hoser_kd.sharing.hub import pull

    try:
        folder = pull(options.address, options.out)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sys.stdout.write(f"{folder}\n")
    return 0


def _export_next_step(options: argparse.Namespace) -> int:
    from hoser_kd.sharing.loading import load_student
    from hoser_kd.sharing.next_step_program import export_next_step

    try:
        student = load_student(student_path(options))
        export_next_step(student, options.out)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None
    sys.stdout.write(f"{student}\n  written: {options.out}\n")
    return 0
