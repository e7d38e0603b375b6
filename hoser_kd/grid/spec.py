"""Grids that define the teacher's tokens, and the choice of the grid of a city.

A cell grid is that of LM-TAD (Mbuya et al., SIGSPATIAL 2024, preprocessing of the Porto data): equal steps in degrees
from the south-west corner, token = row · W + column. Alternatively, each road is a token.
All arithmetic is float64; in float32, roads near an edge would fall into the neighboring cell.
Shapes: H rows, W columns, N roads, L labels (tokens without the special ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.grid import GridConfig
from hoser_kd.grid.parameters import (
    KNOWN_KEYS,
    MAX_CELLS_PER_AXIS,
    SHAPE,
    check_vocabulary,
    disagreements,
    grid_numbers,
    read_numbers,
    rows_and_columns,
)
from hoser_kd.network.road_network import RoadNetwork

OCCUPIED_KEY = "occupied_cells"
"""Key in checkpoints of this project that lists the cells with a token, if not all cells have one."""
_USAGE = "GridSpec(min_lat, max_lat, min_lng, max_lng, cell_lat, cell_lng)"


class Cells(NamedTuple):
    """Cells of points; all arrays have the shape of the points."""

    row: Int64Array
    """int64, 0 … H - 1 from the south."""
    column: Int64Array
    """int64, 0 … W - 1 from the west."""
    clamped: BoolArray
    """bool: the point lies outside the bounds of the grid and is assigned to the nearest cell."""


@dataclass(frozen=True)
class GridSpec:
    """A grid of equal cells in degrees, EPSG:4326."""

    min_lat: float
    max_lat: float
    min_lng: float
    max_lng: float
    cell_lat: float
    """Height of a cell in degrees, before cells are merged."""
    cell_lng: float
    """Width of a cell in degrees, before cells are merged."""
    downsample_factor: int = 1
    """Number of cells merged along each axis."""

    def __post_init__(self) -> None:
        """Raise TypeError for a value that is no number, ConfigError if the numbers do not define a grid."""
        numbers = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} is of type {type(value).__name__}, not a number. Call {_USAGE}.")
        problems = [f"{name} is {value}" for name, value in numbers.items() if not np.isfinite(value)]
        problems += [
            f"{low} {numbers[low]} is not below {high} {numbers[high]}"
            for low, high in (("min_lat", "max_lat"), ("min_lng", "max_lng"))
            if numbers[low] >= numbers[high]
        ]
        problems += [
            f"{name} {numbers[name]} is beyond ±{limit}°"
            for name, limit in (("min_lat", 90), ("max_lat", 90), ("min_lng", 360), ("max_lng", 360))
            if limit < abs(numbers[name]) < np.inf
        ]
        problems += [
            f"{name} {numbers[name]} is not above 0" for name in ("cell_lat", "cell_lng") if numbers[name] <= 0
        ]
        problems += [
            f"{cell} {numbers[cell]} is larger than the extent of {numbers[high] - numbers[low]:g}° ({low} to {high})"
            for cell, low, high in (("cell_lat", "min_lat", "max_lat"), ("cell_lng", "min_lng", "max_lng"))
            if numbers[low] < numbers[high] and numbers[high] - numbers[low] < numbers[cell] < np.inf
        ]
        if self.downsample_factor < 1 or self.downsample_factor != int(self.downsample_factor):
            problems.append(f"downsample_factor {self.downsample_factor} is not a whole number of at least 1")
        if not problems and max(rows_and_columns(numbers)) > MAX_CELLS_PER_AXIS:
            cell = f"cells of {self.cell_lat:g}° × {self.cell_lng:g}°"
            problems = [f"{cell} give more than {MAX_CELLS_PER_AXIS:,} rows or columns"]
        if problems:
            raise ConfigError(f"Invalid grid: {'; '.join(problems)}. Call {_USAGE}, in degrees.")

    @property
    def full_shape(self) -> tuple[int, int]:
        """(H, W) before cells are merged."""
        height = int(np.floor((self.max_lat - self.min_lat) / self.cell_lat)) + 1
        width = int(np.floor((self.max_lng - self.min_lng) / self.cell_lng)) + 1
        return height, width

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.full_shape
        return max(1, height // self.downsample_factor), max(1, width // self.downsample_factor)

    @property
    def num_labels(self) -> int:
        """Number of tokens, H · W."""
        height, width = self.shape
        return height * width

    @property
    def lat_edges(self) -> Float64Array:
        """(H + 1,) float64: latitudes of the row boundaries; points beyond the outer ones are clamped."""
        return self.min_lat + self.cell_lat * self.downsample_factor * np.arange(self.shape[0] + 1, dtype=np.float64)

    @property
    def lng_edges(self) -> Float64Array:
        """(W + 1,) float64: longitudes of the column boundaries, like `lat_edges`."""
        return self.min_lng + self.cell_lng * self.downsample_factor * np.arange(self.shape[1] + 1, dtype=np.float64)

    def cell_of(self, lat: npt.ArrayLike, lng: npt.ArrayLike) -> Cells:
        """Return the cells of points in degrees, computed in float64. Raises ValueError for NaN and infinity."""
        row = np.floor((np.asarray(lat, np.float64) - self.min_lat) / self.cell_lat)
        column = np.floor((np.asarray(lng, np.float64) - self.min_lng) / self.cell_lng)
        if not (np.isfinite(row).all() and np.isfinite(column).all()):
            raise ValueError("a latitude or longitude is not finite")
        height, width = self.shape
        # a factor that does not divide leaves rows over, and one above the number of rows reaches beyond them
        last_row, last_column = (
            max(full, merged * self.downsample_factor) for full, merged in zip(self.full_shape, self.shape, strict=True)
        )
        clamped = (row < 0) | (row >= last_row) | (column < 0) | (column >= last_column)
        # rows that a factor leaves over belong to the last complete row of merged cells, as published
        row = np.clip(row // self.downsample_factor, 0, height - 1)
        column = np.clip(column // self.downsample_factor, 0, width - 1)
        return Cells(row.astype(np.int64), column.astype(np.int64), clamped)

    def in_remainder(self, lat: npt.ArrayLike, lng: npt.ArrayLike) -> BoolArray:
        """Return which points lie inside the grid, but beyond its last complete row or column of merged cells.

        There are some only if `downsample_factor` does not divide the number of rows and columns. They get the token of
        the nearest complete cell, as published.
        """
        beyond = (np.asarray(lat, np.float64) >= self.lat_edges[-1]) | (
            np.asarray(lng, np.float64) >= self.lng_edges[-1]
        )
        inside: BoolArray = beyond & ~self.cell_of(lat, lng).clamped
        return inside

    def tokenize(self, lat: npt.ArrayLike, lng: npt.ArrayLike) -> Int64Array:
        """Return the tokens of points in degrees, int64 of their shape: row · W + column.

        A point outside the grid gets the token of the nearest cell, as published. Raises ValueError if all points lie
        outside, if `lat` and `lng` differ in shape, and for NaN and infinity.
        """
        if np.shape(lat) != np.shape(lng):
            raise ValueError(f"lat has shape {np.shape(lat)}, lng {np.shape(lng)}. Call tokenize(lat, lng).")
        cells = self.cell_of(lat, lng)
        if cells.clamped.size and cells.clamped.all():
            hint = "Check that the grid is that of this city."
            if not self.cell_of(lng, lat).clamped.all():
                hint = "They are inside if lat and lng are exchanged. Call tokenize(lat, lng)."
            raise ValueError(
                f"none of the {cells.clamped.size} points lies inside the grid, {self.min_lat:g} to {self.max_lat:g} "
                f"north, {self.min_lng:g} to {self.max_lng:g} east. {hint}"
            )
        return cells.row * self.shape[1] + cells.column

    @classmethod
    def from_dataset_config(
        cls,
        cfg: Mapping[str, Any],
        *,
        vocab_size: int | None = None,
        ignore_grip_size: bool = False,
        **fallbacks: Any,
    ) -> GridSpec:
        """Return the grid a teacher was trained on, from the `dataset_config` of its checkpoint.

        Known keys: min_lat, max_lat, min_lng, max_lng (also as min_lon, lat_min, …, and inside `boundary` or
        `bounds`), cell_lat, cell_lng, grid_size (degrees, for both axes), downsample_factor, grip_size (H, W).
        `fallbacks` have the same keys and cell_size_m, and are used where `cfg` has no value.

        H and W must equal `grip_size`. Published trainings store (51, 158) for any data, so `grip_size` is ignored if
        `vocab_size` confirms the grid (V - 3 is H · W, or H · W + W + 1 as published) or `ignore_grip_size` is set.
        Raises ConfigError for missing or contradictory values.
        """
        fallback = read_numbers(fallbacks)
        if unknown := set(fallbacks) - KNOWN_KEYS:
            raise ConfigError(f"Unknown fallback {', '.join(sorted(unknown))}. Known: {', '.join(sorted(KNOWN_KEYS))}.")
        own = read_numbers(cfg)
        if "cell_lat" in own or "cell_lng" in own:
            fallback.pop("cell_size_m", None)
        numbers = {**fallback, **own}
        grid = cls(**grid_numbers(numbers))
        if not ignore_grip_size and SHAPE in numbers:
            _check_shape(grid, numbers[SHAPE], vocab_size)
        return grid

    @classmethod
    def from_config(cls, config: GridConfig, network: RoadNetwork) -> GridSpec:
        """Return the grid of a teacher trained in the pipeline.

        Meters are converted to degrees at the middle latitude of the bounds. Raises ConfigError if a setting is missing
        or the grid has too many cells.
        """
        numbers = grid_numbers(config_fallbacks(config, network))
        sides = ("cell_size_m", "cell_lat", "cell_lng")
        given = {name: getattr(config, name) for name in sides if getattr(config, name) is not None}
        setting = ", ".join(f"{name}: {value:g}" for name, value in given.items())
        check_vocabulary(numbers, setting, all_cells=config.vocabulary == "all", num_roads=network.num_roads)
        return cls(**numbers)


@dataclass(frozen=True)
class RoadTokens:
    """One token per road, the limit of ever smaller cells."""

    network: RoadNetwork

    @property
    def shape(self) -> tuple[int, int]:
        """(1, N): one row, one column per road."""
        return 1, self.network.num_roads

    @property
    def num_labels(self) -> int:
        """Number of tokens, N; the token is the road id."""
        return self.network.num_roads


@dataclass(frozen=True)
class OccupiedCells:
    """A cell grid in which only cells with a road get a token, so that the vocabulary has no unused tokens."""

    spec: GridSpec
    """The grid."""
    cells: Int64Array
    """(L,) int64, ascending: cell of each token, row · W + column."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.spec.shape

    @property
    def num_labels(self) -> int:
        """Number of tokens, L."""
        return len(self.cells)

    @classmethod
    def of(cls, spec: GridSpec, network: RoadNetwork) -> OccupiedCells:
        """Return the cells that contain the center of a road."""
        return cls(spec, np.unique(spec.tokenize(*network.centroids.T)))


Grid = GridSpec | OccupiedCells | RoadTokens


def choose_grid(
    config: GridConfig,
    network: RoadNetwork,
    dataset_config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> Grid:
    """Return the grid of a city: that of the imported teacher, completed by the config, or that of the config.

    `dataset_config` and `vocab_size` come from the teacher's checkpoint and are None if the teacher is trained in the
    pipeline. A checkpoint with occupied cells lists them under `occupied_cells`.

    Raises ConfigError like `GridSpec.from_dataset_config` and `GridSpec.from_config`, and if a value differs between
    checkpoint and config by more than rounding.
    """
    if dataset_config is None:
        if config.kind == "roads":
            return RoadTokens(network)
        spec = GridSpec.from_config(config, network)
        return OccupiedCells.of(spec, network) if config.vocabulary == "occupied" else spec
    own = read_numbers(dataset_config)
    _check_kind(config, network, own, dataset_config.get("kind"), vocab_size)
    if config.kind == "roads":
        return RoadTokens(network)
    fallbacks: dict[str, Any] = config_fallbacks(config, network)
    _check_agreement(own, fallbacks, of_roads=config.bounds == "roads")
    spec = GridSpec.from_dataset_config(dataset_config, vocab_size=vocab_size, **fallbacks)
    if OCCUPIED_KEY in dataset_config:
        return OccupiedCells(spec, np.asarray(dataset_config[OCCUPIED_KEY], np.int64))
    return spec


def bounds_source(config: GridConfig, dataset_config: Mapping[str, Any] | None) -> str:
    """Return the source of the bounds of `choose_grid`: checkpoint, settings, roads, or checkpoint and another one."""
    if config.kind == "roads":
        return "none: one token per road"
    given = "roads" if config.bounds == "roads" else "settings"
    if dataset_config is None or "min_lat" not in read_numbers(dataset_config):
        return given
    return "checkpoint" if config.bounds is None else f"checkpoint, agreeing with {given}"


def _check_kind(
    config: GridConfig, network: RoadNetwork, own: Mapping[str, Any], kind: object, vocab_size: int | None
) -> None:
    """Raise ConfigError if the config and the checkpoint differ in whether tokens are cells or roads."""
    if kind == "roads" and config.kind != "roads":
        raise ConfigError(
            "The teacher's checkpoint has one token per road: set `kind: roads` under `grid` in the city's YAML."
        )
    if config.kind != "roads" or vocab_size is None:
        return
    if vocab_size - 3 != network.num_roads or own.get(SHAPE, (1, network.num_roads)) != (1, network.num_roads):
        raise ConfigError(
            f"`grid.kind` is `roads` and the city has {network.num_roads} roads, but the teacher's checkpoint has "
            f"{vocab_size - 3} labels{'' if SHAPE not in own else ' and grip_size {} × {}'.format(*own[SHAPE])}: its "
            "tokens are cells, or roads of another network. Set `kind: cells`, or train a teacher on this network."
        )


def _check_agreement(own: Mapping[str, Any], given: Mapping[str, Any], *, of_roads: bool) -> None:
    """Raise ConfigError if the checkpoint and the settings define different grids."""
    differences = disagreements(own, given)
    if differences:
        raise ConfigError(
            f"The teacher's checkpoint and the settings define different grids: {'; '.join(differences)}. Remove "
            f"{'`bounds: roads` and other ' if of_roads else ''}values that are in the checkpoint from `grid` in the "
            "city's YAML, or import the checkpoint they belong to."
        )


def config_fallbacks(config: GridConfig, network: RoadNetwork) -> dict[str, float]:
    """Return the parameters in a city's `grid` section, named as `GridSpec.from_dataset_config` expects them."""
    numbers: dict[str, float] = {}
    if config.bounds == "roads":
        (numbers["min_lat"], numbers["min_lng"]), (numbers["max_lat"], numbers["max_lng"]) = (
            map(float, network.centroids.min(0)),
            map(float, network.centroids.max(0)),
        )
    elif config.bounds is not None:
        numbers.update(config.bounds.model_dump())
    sizes = {"cell_size_m": config.cell_size_m, "cell_lat": config.cell_lat, "cell_lng": config.cell_lng}
    numbers.update({name: value for name, value in sizes.items() if value is not None})
    if config.downsample_factor != 1:
        numbers["downsample_factor"] = config.downsample_factor
    return numbers


def _check_shape(grid: GridSpec, grip_size: tuple[int, int], vocab_size: int | None) -> None:
    """Raise ConfigError if the shape contradicts `grip_size`, unless the vocabulary size confirms the shape."""
    if grip_size in (grid.shape, grid.full_shape):
        return
    height, width = grid.shape
    if vocab_size is not None and vocab_size - 3 in (height * width, height * width + width + 1):
        return
    raise ConfigError(
        f"The grid has {height} × {width} cells, but the teacher's checkpoint has grip_size "
        f"{grip_size[0]} × {grip_size[1]}, so the bounds or the cell size differ from those in training. Correct them "
        "under `grid` in the city's YAML."
    )
