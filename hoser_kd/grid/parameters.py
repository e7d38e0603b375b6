"""Grid parameters under all names in use, and comparison of two sources of them.

A teacher's tokens refer to the cells of one particular grid. If the checkpoint and the settings both define it, a
difference beyond rounding is an error that no later metric would reveal: a shift by half a cell moves most roads to
another cell but keeps the shape of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.grid import GridConfig

KM_PER_DEGREE_LAT = 110.574
KM_PER_DEGREE_LNG = 111.320
"""At the equator; elsewhere multiplied by the cosine of the latitude. Both constants are those of LM-TAD."""

SHAPE = "grip_size"
"""Key of the number of rows and columns in published checkpoints."""

_BOUNDS = {
    "min_lat": ("min_lat", "lat_min"),
    "max_lat": ("max_lat", "lat_max"),
    "min_lng": ("min_lng", "min_lon", "lng_min", "lon_min"),
    "max_lng": ("max_lng", "max_lon", "lng_max", "lon_max"),
}
_CELLS = {"cell_lat": ("cell_lat",), "cell_lng": ("cell_lng", "cell_lon")}
_OTHERS = {"cell_size_m": ("cell_size_m",), "downsample_factor": ("downsample_factor",)}
_BOXES = ("boundary", "bounds")
KNOWN_KEYS = {name for group in (_BOUNDS, _CELLS, _OTHERS) for names in group.values() for name in names}
KNOWN_KEYS |= {*_BOXES, SHAPE, "grid_size"}
"""All keys that are read."""

MAX_CELLS_PER_AXIS = 10_000_000
"""Maximum number of rows or columns: 1 cm over 100 km. More indicate a wrong unit and would exhaust the memory."""
MAX_TOKENS = 4_000_000
"""Maximum vocabulary of a teacher trained in the pipeline. At width 256, its embeddings take 16 GB in training."""

_ROUNDING_CELLS = 0.05
"""Tolerance of an edge of the grid, in cells."""
_ROUNDING_METERS = 0.02
"""Relative tolerance between a cell side in meters, which is nominal, and one in degrees."""


def read_numbers(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the grid parameters in a mapping, renamed to the fields of GridSpec, cell_size_m and grip_size.

    Raises ConfigError for a value of the wrong type.
    """
    numbers: dict[str, Any] = {}
    for box in _BOXES:
        if isinstance(cfg.get(box), Mapping):
            numbers.update(read_numbers(cfg[box]))
    for name, aliases in (_BOUNDS | _CELLS | _OTHERS).items():
        given = next((alias for alias in aliases if cfg.get(alias) is not None), None)
        if given is not None:
            numbers[name] = _number(given, cfg[given])
    if cfg.get("grid_size") is not None:
        size = _number("grid_size", cfg["grid_size"])
        numbers.setdefault("cell_lat", size)
        numbers.setdefault("cell_lng", size)
    if cfg.get(SHAPE) is not None:
        shape = np.ravel(np.asarray(cfg[SHAPE], object))
        if len(shape) != 2:
            raise ConfigError(f"The grid's {SHAPE} is {cfg[SHAPE]!r}; it must be rows and columns.")
        numbers[SHAPE] = (int(_number(SHAPE, shape[0])), int(_number(SHAPE, shape[1])))
    return numbers


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"The grid's {name} is {value!r}; it must be a number.") from None
    if not math.isfinite(number):
        raise ConfigError(f"The grid's {name} is {value!r}; it must be a finite number.")
    return number


def missing(numbers: Mapping[str, Any]) -> list[str]:
    """Return the names of required parameters that are missing from the result of `read_numbers`."""
    absent = [name for name in _BOUNDS if name not in numbers]
    if "cell_size_m" not in numbers:
        absent += [name for name in _CELLS if name not in numbers]
    return absent


def check_settings(grid: GridConfig) -> None:
    """Raise ConfigError with the names of missing parameters, for a teacher trained in the pipeline.

    A checkpoint of an imported teacher may have the parameters that the settings lack.
    """
    if grid.kind == "cells":
        of_roads = dict.fromkeys(_BOUNDS, 0.0) if grid.bounds == "roads" else {}
        _require_all(of_roads | read_numbers(grid.model_dump()))


def _require_all(numbers: Mapping[str, Any]) -> None:
    """Raise ConfigError with the names of missing parameters."""
    absent = missing(numbers)
    if absent:
        raise ConfigError(
            f"The grid's {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing. Set `bounds` and "
            "`cell_size_m`, or `cell_lat` and `cell_lng`, under `grid` in the city's YAML. For an imported teacher, "
            "use the values of its training; for a teacher trained here, `bounds: roads` uses the extent of the roads."
        )


def grid_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a GridSpec; meters are converted to degrees at the middle latitude of the bounds.

    Raises ConfigError with the names of missing parameters.
    """
    _require_all(numbers)
    cells = _cells(numbers)
    factor = numbers.get("downsample_factor", 1)
    return {
        **{name: numbers[name] for name in _BOUNDS},
        **cells,
        "downsample_factor": int(factor) if factor == int(factor) else factor,
    }


def rows_and_columns(numbers: Mapping[str, Any]) -> tuple[float, float]:
    """Return the number of rows and columns before cells are merged, as floats; infinity for vanishing cells."""
    with np.errstate(over="ignore", divide="ignore"):
        spans = [
            np.float64(numbers[f"max_{axis}"] - numbers[f"min_{axis}"]) / numbers[f"cell_{axis}"]
            for axis in ("lat", "lng")
        ]
    return float(np.floor(spans[0])) + 1, float(np.floor(spans[1])) + 1


def check_vocabulary(numbers: Mapping[str, Any], setting: str, *, all_cells: bool, num_roads: int) -> None:
    """Raise ConfigError if a grid has too many rows or columns, or more cells than a teacher can have tokens.

    `numbers` are the fields of a GridSpec, `setting` names the cell size in messages (`cell_size_m: 50`), `all_cells`
    tells whether every cell gets a token. The message has the number of cells and the fix.
    """
    factor = numbers["downsample_factor"]
    height, width = (max(1.0, float(np.floor(count / factor))) for count in rows_and_columns(numbers))
    size = f"With `grid.{setting}` the grid has {height:,.0f} × {width:,.0f} = {height * width:,.0f} cells"
    if max(height, width) * factor > MAX_CELLS_PER_AXIS:
        raise ConfigError(
            f"{size}; the maximum is {MAX_CELLS_PER_AXIS:,} rows or columns. Use larger cells and check the "
            "unit of the key; for one token per road, set `kind: roads`."
        )
    if all_cells and height * width > MAX_TOKENS:
        raise ConfigError(
            f"{size}, and `grid.vocabulary: all` gives each of them a token; the maximum is {MAX_TOKENS:,}. "
            f"Set `vocabulary: occupied`, which gives tokens only to cells with one of the {num_roads:,} roads, or use "
            "larger cells."
        )


def _cells(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the sides of a cell in degrees, as far as they are defined."""
    cells = {name: float(numbers[name]) for name in _CELLS if name in numbers}
    if len(cells) < 2 and {"cell_size_m", "min_lat", "max_lat"} <= numbers.keys():
        middle = np.radians((numbers["min_lat"] + numbers["max_lat"]) / 2)
        size_km = numbers["cell_size_m"] / 1000
        cells = {
            "cell_lat": size_km / KM_PER_DEGREE_LAT,
            "cell_lng": float(size_km / KM_PER_DEGREE_LNG / np.cos(middle)),
        }
    return cells


def disagreements(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each parameter that differs between a checkpoint (`own`) and the settings (`given`).

    Both are results of `read_numbers`. Tolerances: 0.05 cells for every edge of the grid, also for the far edges that
    follow from the cell size; 2 % for a side in meters.
    """
    cells = _cells({**given, **own})
    return [
        *_different_bounds(own, given, cells),
        *_different_cells(own, given, cells),
        *_different_factors(own, given),
    ]


def _different_factors(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    name = "downsample_factor"
    if name not in own or name not in given or own[name] == given[name]:
        return []
    return [f"{name} is {own[name]:g} in the checkpoint and {given[name]:g} in the settings"]


def _different_bounds(own: Mapping[str, Any], given: Mapping[str, Any], cells: Mapping[str, float]) -> list[str]:
    phrases = []
    for name in _BOUNDS:
        if name not in own or name not in given:
            continue
        cell = cells.get(f"cell_{name[-3:]}")
        off = abs(own[name] - given[name])
        if off > (_ROUNDING_CELLS * cell if cell else 1e-6):
            size = f", {off / cell:.2g} cells apart" if cell else ""
            phrases.append(f"{name} is {own[name]:.10g} in the checkpoint and {given[name]:.10g} in the settings{size}")
    return phrases


def _different_cells(own: Mapping[str, Any], given: Mapping[str, Any], cells: Mapping[str, float]) -> list[str]:
    phrases = []
    theirs = _cells({**own, **{name: given[name] for name in _BOUNDS if name in given and name not in own}})
    ours = _cells({**given, **{name: own[name] for name in _BOUNDS if name in own and name not in given}})
    nominal = ("cell_size_m" in own) != ("cell_size_m" in given)
    known = {**given, **own}
    for name in _CELLS:
        if name not in theirs or name not in ours:
            continue
        axis = name[-3:]
        span = known.get(f"max_{axis}", math.nan) - known.get(f"min_{axis}", math.nan)
        count = 1000.0 if math.isnan(span) else max(span / cells[name], 1.0)
        allowed = _ROUNDING_METERS if nominal else _ROUNDING_CELLS / count
        if abs(theirs[name] / ours[name] - 1) > allowed:
            meters = f" (cell_size_m {given['cell_size_m']:g})" if nominal and "cell_size_m" in given else ""
            phrases.append(
                f"{name} is {theirs[name]:.8g}° in the checkpoint and {ours[name]:.8g}°{meters} in the settings"
            )
    return phrases
