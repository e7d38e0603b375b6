"""The numbers a grid is made of, under every name people use, and whether two sources of them agree.

A teacher's tokens mean cells of one grid only. Where checkpoint and settings both say which, a difference beyond
rounding is a mistake of one of them that no later figure would show: half a cell of shift moves most roads into
another cell and leaves the size of the grid as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hoser_kd.common.errors import ConfigError

KM_PER_DEGREE_LAT = 110.574
KM_PER_DEGREE_LNG = 111.320
"""At the equator; times the cosine of the latitude elsewhere. Both are LM-TAD's constants."""

SHAPE = "grip_size"
"""Rows and columns, as published checkpoints call them."""

_BOUNDS = {
    "min_lat": ("min_lat", "lat_min"),
    "max_lat": ("max_lat", "lat_max"),
    "min_lng": ("min_lng", "min_lon", "lng_min", "lon_min"),
    "max_lng": ("max_lng", "max_lon", "lng_max", "lon_max"),
}
_CELLS = {"cell_lat": ("cell_lat",), "cell_lng": ("cell_lng", "cell_lon")}
_OTHERS = {"cell_size_m": ("cell_size_m",), "downsample_factor": ("downsample_factor",)}
_BOXES = ("boundary", "bounds")
KNOWN = {name for group in (_BOUNDS, _CELLS, _OTHERS) for names in group.values() for name in names}
KNOWN |= {*_BOXES, SHAPE, "grid_size"}
"""Every name that is read."""

MOST_ALONG_AN_AXIS = 10_000_000
"""Rows, or columns, of a grid: 1 cm over 100 km. More are a mistake of a unit, and their edges alone fill a memory."""
MOST_WORDS = 4_000_000
"""Words of a teacher that is trained here. At width 256 their vectors take 16 GB in training."""

_ROUNDING_CELLS = 0.05
"""Share of a cell by which an edge may lie elsewhere before two grids count as different."""
_ROUNDING_METERS = 0.02
"""Share by which a side in meters, a nominal size, may differ from one in degrees."""


def read_numbers(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mapping says of a grid under the names of GridSpec, cell_size_m and grip_size.

    Raises ConfigError for a value of another kind.
    """
    found: dict[str, Any] = {}
    for box in _BOXES:
        if isinstance(cfg.get(box), Mapping):
            found.update(read_numbers(cfg[box]))
    for name, aliases in (_BOUNDS | _CELLS | _OTHERS).items():
        given = next((alias for alias in aliases if cfg.get(alias) is not None), None)
        if given is not None:
            found[name] = _number(given, cfg[given])
    if cfg.get("grid_size") is not None:
        size = _number("grid_size", cfg["grid_size"])
        found.setdefault("cell_lat", size)
        found.setdefault("cell_lng", size)
    if cfg.get(SHAPE) is not None:
        shape = np.ravel(np.asarray(cfg[SHAPE], object))
        if len(shape) != 2:
            raise ConfigError(f"The grid's {SHAPE} is {cfg[SHAPE]!r}: it must be rows and columns.")
        found[SHAPE] = (int(_number(SHAPE, shape[0])), int(_number(SHAPE, shape[1])))
    return found


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"The grid's {name} is {value!r}: it must be a number.") from None
    if not math.isfinite(number):
        raise ConfigError(f"The grid's {name} is {value!r}: it must be a finite number.")
    return number


def missing(numbers: Mapping[str, Any]) -> list[str]:
    """Return what `read_numbers` did not find of what a grid needs."""
    absent = [name for name in _BOUNDS if name not in numbers]
    if "cell_size_m" not in numbers:
        absent += [name for name in _CELLS if name not in numbers]
    return absent


def grid_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a GridSpec; meters become degrees at the middle latitude of the bounds.

    Raises ConfigError naming the numbers that are missing.
    """
    absent = missing(numbers)
    if absent:
        raise ConfigError(
            f"The grid's {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not known. Give `bounds` and "
            "`cell_size_m`, or `cell_lat` and `cell_lng`, under `grid` in the city's YAML: for an imported teacher "
            "those it was trained with; for one trained here, `bounds: roads` takes the extent of the roads."
        )
    cells = _cells(numbers)
    factor = numbers.get("downsample_factor", 1)
    return {
        **{name: numbers[name] for name in _BOUNDS},
        **cells,
        "downsample_factor": int(factor) if factor == int(factor) else factor,
    }


def rows_and_columns(numbers: Mapping[str, Any]) -> tuple[float, float]:
    """Return how many rows and columns a GridSpec of these fields has before cells are merged; infinite is a number."""
    with np.errstate(over="ignore", divide="ignore"):
        spans = [
            np.float64(numbers[f"max_{axis}"] - numbers[f"min_{axis}"]) / numbers[f"cell_{axis}"]
            for axis in ("lat", "lng")
        ]
    return float(np.floor(spans[0])) + 1, float(np.floor(spans[1])) + 1


def check_vocabulary(numbers: Mapping[str, Any], said: str, *, all_cells: bool, num_roads: int) -> None:
    """Refuse a grid of more cells than a teacher can have words, or than can be counted, before anything is made of it.

    `numbers` are the fields of a GridSpec, `said` the setting the size of a cell comes from, `all_cells` is whether
    each cell is a word. Raises ConfigError with the number of cells and the mend.
    """
    factor = numbers["downsample_factor"]
    height, width = (max(1.0, float(np.floor(count / factor))) for count in rows_and_columns(numbers))
    size = f"With `grid.{said}` the grid has {height:,.0f} × {width:,.0f} = {height * width:,.0f} cells"
    if max(height, width) * factor > MOST_ALONG_AN_AXIS:
        raise ConfigError(
            f"{size}; a grid has at most {MOST_ALONG_AN_AXIS:,} rows or columns. Give a larger cell: is "
            "it in the unit of the key? The limit of ever smaller cells is `kind: roads`."
        )
    if all_cells and height * width > MOST_WORDS:
        raise ConfigError(
            f"{size}, and `grid.vocabulary: all` gives each of them a word: more than {MOST_WORDS:,} fit no teacher. "
            f"Set `vocabulary: occupied`, which gives words only to cells that hold one of the {num_roads:,} roads, or "
            "give a larger cell."
        )


def _cells(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the sides of a cell in degrees, or what is known of them."""
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
    """Return a phrase for each number that a checkpoint (`own`) and the settings (`given`) state differently.

    Both as `read_numbers` returns them. An edge may differ by 0.05 of a cell, at the far end of the grid too; a side
    in meters by 2 %.
    """
    cells = _cells({**given, **own})
    return [
        *_different_bounds(own, given, cells),
        *_different_cells(own, given, cells),
        *(
            f"downsample_factor is {own['downsample_factor']:g} in the checkpoint and {given['downsample_factor']:g} "
            "in "
            "the settings"
            for name in ("downsample_factor",)
            if name in own and name in given and own[name] != given[name]
        ),
    ]


def _different_bounds(own: Mapping[str, Any], given: Mapping[str, Any], cells: Mapping[str, float]) -> list[str]:
    told = []
    for name in _BOUNDS:
        if name not in own or name not in given:
            continue
        cell = cells.get(f"cell_{name[-3:]}")
        off = abs(own[name] - given[name])
        if off > (_ROUNDING_CELLS * cell if cell else 1e-6):
            size = f", {off / cell:.2g} cells apart" if cell else ""
            told.append(f"{name} is {own[name]:.10g} in the checkpoint and {given[name]:.10g} in the settings{size}")
    return told


def _different_cells(own: Mapping[str, Any], given: Mapping[str, Any], cells: Mapping[str, float]) -> list[str]:
    told = []
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
            told.append(
                f"{name} is {theirs[name]:.8g}° in the checkpoint and {ours[name]:.8g}°{meters} in the settings"
            )
    return told
