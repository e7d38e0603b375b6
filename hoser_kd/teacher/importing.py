"""Taking over a foreign teacher: what its file holds, what it lacks to be of use here, and its form in this project."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.grid.parameters import SHAPE, missing, read_numbers
from hoser_kd.lmtad.checkpoint import CONFIG_FILE, WEIGHTS_FILE, LMTADCheckpoint, load_checkpoint, save


def import_teacher(source: str | PathLike[str], out: str | PathLike[str] | None = None) -> list[str]:
    """Convert a teacher's file into a folder of safetensors and JSON; return what was found, in lines.

    The folder (default: in the working directory, named as the file) serves as `distill.ckpt_path` as well as the
    file does, and cannot hold code. A folder that is one already is described and left as it is.

    Raises CheckpointError as `load_checkpoint` does, and where the folder cannot be written.
    """
    file = Path(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = load_checkpoint(file)
    lines = [str(file), *report(checkpoint), *(f"note: {warning.message}" for warning in caught)]
    converted = file if file.is_dir() else file.parent if file.name in (WEIGHTS_FILE, CONFIG_FILE) else None
    folder = Path(out) if out is not None else converted or Path(file.stem)
    if converted is not None and folder.resolve() == converted.resolve():
        return [*lines, "written: nothing, it is in this form already"]
    _check_free(folder)
    try:
        save(checkpoint, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror}). Name another folder with --out."
        ) from None
    lines.append(f"written: {folder / WEIGHTS_FILE} and {folder / CONFIG_FILE}")
    return lines


def _check_free(folder: Path) -> None:
    """Refuse a place that holds something else: its config.json would be replaced."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: there is a file of this name. Name another folder with --out.")
    if folder.is_dir() and not (folder / WEIGHTS_FILE).is_file() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: holds other files. Name a new folder with --out.")


def report(checkpoint: LMTADCheckpoint) -> list[str]:
    """Return what a person wants to know of a teacher, and what it still needs, in lines."""
    about, config = describe(checkpoint), checkpoint.config
    size = f"{about['layers']} layers, {about['heads']} heads, width {about['width']}, {about['parameters']:,} weights"
    specials = f"PAD {config.pad_token}, EOT {config.eot_token}, SOT {config.sot_token}"
    return [
        f"model: {size}",
        f"positions: {about['positions']}",
        f"context: {about['block_size']} tokens, SOT and EOT among them",
        f"vocabulary: {about['vocabulary']} tokens: cells 0 to {about['labels'] - 1}, {specials}",
        f"grid: {_grid(about)}",
        *_needs(checkpoint, about),
    ]


def _grid(about: dict[str, Any]) -> str:
    labels = about["labels"]
    if about["grid"] is None:
        return f"rows and columns not in the file; {labels} labels"
    height, width = about["grid"]
    written = f"{height} × {width} = {height * width} cells, as written in the file"
    if not about["grid_fits"]:
        return (
            f"{written}, do not fit its {labels} labels: the file states a grid it was not trained on, as "
            "published trainings do for other data than Porto's"
        )
    if labels == height * width:
        return written
    unused = labels - height * width
    return f"{written}, {unused} labels unused" + (" (as published)" if unused == width + 1 else "")


def _needs(checkpoint: LMTADCheckpoint, about: dict[str, Any]) -> list[str]:
    """Say whether bounds are known, what is missing, and what contradicts."""
    from hoser_kd.grid.spec import OCCUPIED_KEY, GridSpec

    about_data, missing = checkpoint.dataset_config, about["missing"]
    if about_data.get("kind") == "roads":
        return ["tokens: one a road, of the road network it was trained on", "needs: `kind: roads` under `grid`"]
    if about["problem"] is not None:
        return [f"needs: a file whose settings can be read. {about['problem']}"]
    lines = [f"bounds: {'known' if about['bounds_known'] else 'not in the file'}"]
    if OCCUPIED_KEY in about_data:
        lines.append(f"cells: {len(about_data[OCCUPIED_KEY])} of the grid's have a token")
    if missing:
        bounds = [name for name in missing if name.startswith("m")]
        cells = "`cell_size_m`, or `cell_lat` and `cell_lng`" if len(bounds) < len(missing) else ""
        wanted = " and ".join(filter(None, [f"`bounds` ({', '.join(bounds)})" if bounds else "", cells]))
        lines.append(
            f"needs: {wanted}, those of its training, under `grid` in the city's YAML; H rows and W columns "
            f"must make H · W or H · W + W + 1 = {about['labels']} labels"
        )
        return lines
    try:
        grid = GridSpec.from_dataset_config(about_data, vocab_size=checkpoint.config.vocab_size)
    except ConfigError as error:
        return [*lines, f"needs: a grid that fits. {error}"]
    (south, west), (north, east) = (grid.min_lat, grid.min_lng), (grid.max_lat, grid.max_lng)
    lines.append(
        f"extent: {south:g} to {north:g} north, {west:g} to {east:g} east, cells of {grid.cell_lat:g}° × "
        f"{grid.cell_lng:g}°"
        + (
            f", {grid.downsample_factor} × {grid.downsample_factor} of them merged"
            if grid.downsample_factor > 1
            else ""
        )
    )
    if OCCUPIED_KEY not in about_data and grid.num_labels > about["labels"]:
        size = f"{grid.shape[0]} × {grid.shape[1]} = {grid.num_labels} cells"
        return [*lines, f"needs: a grid that fits; these are {size}, more than its {about['labels']} labels"]
    return [*lines, "needs: nothing"]


def describe(checkpoint: LMTADCheckpoint) -> dict[str, Any]:
    """Return what a person wants to know of a teacher.

    Keys: layers, heads, width, parameters, vocabulary, labels, block_size, positions, grid ((H, W) or None),
    grid_fits (None without a grid), bounds_known, missing (what the grid still needs, from `grid` in the config) and
    problem (why the file's word on its grid cannot be read, else None).
    """
    config, problem = checkpoint.config, None
    try:
        numbers = read_numbers(checkpoint.dataset_config)
    except ConfigError as error:
        numbers, problem = {}, str(error)
    grid, absent = numbers.get(SHAPE), missing(numbers)
    return {
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "parameters": checkpoint.model.num_parameters(),
        "vocabulary": config.vocab_size,
        "labels": config.num_labels,
        "block_size": config.block_size,
        "positions": "sinusoidal, along the batch" if config.integer_poe else "learned",
        "grid": grid,
        "grid_fits": None if grid is None else grid[0] * grid[1] <= config.num_labels,
        "bounds_known": not any(name.startswith(("min_", "max_")) for name in absent),
        "missing": absent,
        "problem": problem,
    }
