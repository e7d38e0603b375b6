"""Import a published teacher: describe its file, list what is missing, and convert it to this project's format."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.grid.parameters import SHAPE, missing, read_numbers
from hoser_kd.lmtad.checkpoint import CONFIG_FILE, WEIGHTS_FILE, LMTADCheckpoint, load_checkpoint, save


def import_teacher(source: str | PathLike[str], out: str | PathLike[str] | None = None) -> list[str]:
    """Convert a teacher's file into a folder of safetensors and JSON; return a description, line by line.

    The folder (default: in the working directory, with the name of the file) can be used as `distill.ckpt_path` in
    place of the file, and cannot contain code. A folder in this format is described and left unchanged.

    Raises CheckpointError as `load_checkpoint` does, and if the folder cannot be written.
    """
    file = Path(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = load_checkpoint(file)
    lines = [str(file), *report(checkpoint), *(f"note: {warning.message}" for warning in caught)]
    converted = file if file.is_dir() else file.parent if file.name in (WEIGHTS_FILE, CONFIG_FILE) else None
    folder = Path(out) if out is not None else converted or Path(file.stem)
    if converted is not None and folder.resolve() == converted.resolve():
        return [*lines, "written: nothing, it is in this format already"]
    _check_free(folder)
    try:
        save(checkpoint, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror}). Choose another folder with --out."
        ) from None
    lines.append(f"written: {folder / WEIGHTS_FILE} and {folder / CONFIG_FILE}")
    return lines


def _check_free(folder: Path) -> None:
    """Raise CheckpointError for a folder with other content, whose config.json would be replaced."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: a file of this name exists. Choose another folder with --out.")
    if folder.is_dir() and not (folder / WEIGHTS_FILE).is_file() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: holds other files. Choose a new folder with --out.")


def report(checkpoint: LMTADCheckpoint) -> list[str]:
    """Return a description of a teacher and of the settings it needs, line by line."""
    about, config = describe(checkpoint), checkpoint.config
    size = f"{about['layers']} layers, {about['heads']} heads, width {about['width']}, {about['parameters']:,} weights"
    specials = f"PAD {config.pad_token}, EOT {config.eot_token}, SOT {config.sot_token}"
    return [
        f"model: {size}",
        f"positions: {about['positions']}",
        f"context: {about['block_size']} tokens, including SOT and EOT",
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
            f"{written}, do not fit its {labels} labels: the file states another grid than that of its training, as "
            "published trainings do for data other than Porto"
        )
    if labels == height * width:
        return written
    unused = labels - height * width
    return f"{written}, {unused} labels unused" + (" (as published)" if unused == width + 1 else "")


def _needs(checkpoint: LMTADCheckpoint, about: dict[str, Any]) -> list[str]:
    """Return lines on bounds, missing settings and contradictions."""
    from hoser_kd.grid.spec import OCCUPIED_KEY, GridSpec

    about_data, missing = checkpoint.dataset_config, about["missing"]
    if about_data.get("kind") == "roads":
        return ["tokens: one per road of the road network it was trained on", "needs: `kind: roads` under `grid`"]
    if about["problem"] is not None:
        return [f"needs: a file whose settings can be read. {about['problem']}"]
    lines = [f"bounds: {'known' if about['bounds_known'] else 'not in the file'}"]
    if OCCUPIED_KEY in about_data:
        lines.append(f"cells: {len(about_data[OCCUPIED_KEY])} cells of the grid have a token")
    if missing:
        bounds = [name for name in missing if name.startswith("m")]
        cells = "`cell_size_m`, or `cell_lat` and `cell_lng`" if len(bounds) < len(missing) else ""
        required = " and ".join(filter(None, [f"`bounds` ({', '.join(bounds)})" if bounds else "", cells]))
        lines.append(
            f"needs: {required} of its training, under `grid` in the city's YAML; H rows and W columns must give "
            f"H · W or H · W + W + 1 = {about['labels']} labels"
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
    """Return the properties of a teacher.

    Keys: layers, heads, width, parameters, vocabulary, labels, block_size, positions, grid ((H, W) or None),
    grid_fits (None without a grid), bounds_known, missing (grid parameters to be set under `grid` in the config) and
    problem (why the grid parameters in the file cannot be read, else None).
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
