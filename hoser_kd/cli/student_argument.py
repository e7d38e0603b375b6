"""How commands name a student: a folder, file or repository, or a city of the store."""

from __future__ import annotations

import argparse
import sys

from hoser_kd.cli.command import seed_number, store_of
from hoser_kd.common.errors import ConfigError


def add_student_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument and the options that name a student; `student_path` reads them."""
    parser.add_argument(
        "student",
        nargs="?",
        help="a student's folder in the store, a bundle, user/name on Hugging Face, or file://…; or use --dataset",
    )
    parser.add_argument("--dataset", help="city of the store: the newest distilled student of it")
    parser.add_argument("--vanilla", action="store_true", help="with --dataset: the vanilla student")
    parser.add_argument("--seed", type=seed_number, help="with --dataset: seed of the student (default 0)")
    parser.add_argument("--store", help="with --dataset: artifact store (default: $HOSER_KD_STORE or data/)")


def student_path(options: argparse.Namespace) -> str:
    """Return the path or the address of the named student. Raises ConfigError for none or two, StoreError."""
    names = [
        f"--{name}" for name in ("dataset", "vanilla", "seed", "store") if getattr(options, name) not in (None, False)
    ]
    if options.student is not None and names:
        raise ConfigError(f"{options.student} and {', '.join(names)}: a student is named in one of both ways.")
    if options.student is not None:
        return str(options.student)
    if options.dataset is None:
        raise ConfigError("no student given. Give its folder, a bundle or user/name, or use --dataset CITY --seed N.")
    from hoser_kd.sharing.finding import find_student

    stage = "vanilla_student" if options.vanilla else "distilled_student"
    folder = find_student(store_of(options), options.dataset, stage, options.seed or 0)
    sys.stderr.write(f"student: {folder}\n")
    return str(folder)
