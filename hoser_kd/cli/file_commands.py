"""Commands on single files and folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hoser_kd.cli.command import AddCommand
from hoser_kd.common.errors import StoreError
from hoser_kd.pipeline.store import Artifact, read_artifact


def add_file_commands(command: AddCommand) -> None:
    """Add the commands for single files and folders."""
    teacher = command(
        "import-teacher",
        "Describe an LM-TAD checkpoint and the settings it needs; convert it to safetensors and JSON.",
        _import_teacher,
    )
    teacher.add_argument("file", type=Path, help="the checkpoint, or a folder written by this command")
    teacher.add_argument("--out", type=Path, help="folder to write (default: in the working folder, named as the file)")
    student = command(
        "export-student", "Write a student as a .pth state dict in the published layout.", _export_student
    )
    student.add_argument("folder", type=Path, help="folder of a student's artifact")
    student.add_argument("file", type=Path, help="the .pth file to write")
    lineage = command("lineage", "Print the versions that an artifact depends on, from the files alone.", _lineage)
    lineage.add_argument("artifact", type=Path, help="an artifact's folder, or a file in it such as report.html")


def _import_teacher(options: argparse.Namespace) -> int:
    from hoser_kd.teacher.importing import import_teacher

    sys.stdout.write("\n".join(import_teacher(options.file, options.out)) + "\n")
    return 0


def _export_student(options: argparse.Namespace) -> int:
    from hoser_kd.hoser import export_checkpoint, load
    from hoser_kd.hoser.loading import require_student_folder

    export_checkpoint(load(require_student_folder(options.folder)), options.file)
    sys.stdout.write(f"written: {options.file}\n")
    return 0


def _lineage(options: argparse.Namespace) -> int:
    folder = options.artifact if options.artifact.is_dir() else options.artifact.parent
    if not options.artifact.exists():
        raise StoreError(
            f"{options.artifact}: no such folder or file. An artifact's folder is "
            "<store>/<city>/<stage>/<version>, for a student <store>/<city>/<stage>/seed-<n>/<version>."
        )
    artifact = read_artifact(folder)
    levels = 1 + len(Path(artifact.name).parts)
    city = folder.resolve().parents[levels - 1]
    sys.stdout.write("\n".join(_chain(artifact, city, 0, set())) + "\n")
    return 0


def _chain(artifact: Artifact, city: Path, depth: int, printed: set[tuple[str, str]]) -> list[str]:
    line = f"{'  ' * depth}{artifact.name} {artifact.version} (code {artifact.code_version}, {artifact.created_at})"
    if (artifact.name, artifact.version) in printed:
        return [f"{line} …"] if artifact.inputs else [line]
    printed.add((artifact.name, artifact.version))
    lines = [line]
    for name, version in artifact.inputs.items():
        lines += _chain(read_artifact(city / name / version), city, depth + 1, printed)
    return lines
