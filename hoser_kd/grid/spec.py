"""The teacher's words: grids of cells, or of roads, and which of them a city and its teacher have.

A cell grid is LM-TAD's (Mbuya et al., SIGSPATIAL 2024, preprocessing of the Porto data): equal steps in degrees from
the south-west corner, token = row · W + column. The limit of ever smaller cells is a token for each road.
All arithmetic is float64: in float32 roads near an edge fall into the cell beside theirs.
Shapes: H rows, W columns, N roads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hoser_kd.common.arrays import BoolArray, Float64Array, Int64Array
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.schema import GridConfig
from hoser_kd.grid.parameters import (
    KNOWN,
    MOST_ALONG_AN_AXIS,
    SHAPE,
    check_vocabulary,
    disagreements,
    grid_numbers,
    read_numbers,
    rows_and_columns,
)
from hoser_kd.network.road_network import RoadNetwork

OCCUPIED_KEY = "occupied_cells"
"""Where a checkpoint of this project keeps the cells its tokens stand for, if they are not all cells."""


class Cells(NamedTuple):
    """Where points fall in a grid; all of the shape of the points."""

    row: Int64Array
    """int64, 0 … H - 1 from the south."""
    column: Int64Array
    """int64, 0 … W - 1 from the west."""
    clamped: BoolArray
    """bool: the point lies outside and was moved to the nearest cell."""


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
    """Cells merged into one along each axis."""

    def __post_init__(self) -> None:
        """Raise ConfigError where the numbers make no grid."""
        numbers = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        wrong = [f"{name} is {value}" for name, value in numbers.items() if not np.isfinite(value)]
        wrong += [
            f"{low} {numbers[low]} is not below {high} {numbers[high]}"
            for low, high in (("min_lat", "max_lat"), ("min_lng", "max_lng"))
            if numbers[low] >= numbers[high]
        ]
        wrong += [f"{name} {numbers[name]} is not above 0" for name in ("cell_lat", "cell_lng") if numbers[name] <= 0]
        if self.downsample_factor < 1 or self.downsample_factor != int(self.downsample_factor):
            wrong.append(f"downsample_factor {self.downsample_factor} is not a whole number from 1")
        if not wrong and max(rows_and_columns(numbers)) > MOST_ALONG_AN_AXIS:
            cell = f"cells of {self.cell_lat:g}° × {self.cell_lng:g}°"
            wrong = [f"{cell} make over {MOST_ALONG_AN_AXIS:,} rows or columns"]
        if wrong:
            raise ConfigError(f"No grid can be made: {'; '.join(wrong)}.")

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
        """H · W: tokens are 0 … H · W - 1."""
        height, width = self.shape
        return height * width

    @property
    def lat_edges(self) -> Float64Array:
        """(H + 1,) float64: latitudes between which the rows lie; clamping adds what lies beyond the outer ones."""
        return self.min_lat + self.cell_lat * self.downsample_factor * np.arange(self.shape[0] + 1, dtype=np.float64)

    @property
    def lng_edges(self) -> Float64Array:
        """(W + 1,) float64: longitudes between which the columns lie, as `lat_edges`."""
        return self.min_lng + self.cell_lng * self.downsample_factor * np.arange(self.shape[1] + 1, dtype=np.float64)

    def cell_of(self, lat: npt.ArrayLike, lng: npt.ArrayLike) -> Cells:
        """Return the cells of points in degrees, computed in float64. Raises ValueError for NaN and infinity."""
        row = np.floor((np.asarray(lat, np.float64) - self.min_lat) / self.cell_lat)
        column = np.floor((np.asarray(lng, np.float64) - self.min_lng) / self.cell_lng)
        if not (np.isfinite(row).all() and np.isfinite(column).all()):
            raise ValueError("a latitude or longitude is not finite")
        height, width = self.shape
        row, column = row // self.downsample_factor, column // self.downsample_factor
        kept_row, kept_column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
        clamped = (row != kept_row) | (column != kept_column)
        return Cells(kept_row.astype(np.int64), kept_column.astype(np.int64), clamped)

    def tokenize(self, lat: npt.ArrayLike, lng: npt.ArrayLike) -> Int64Array:
        """Return the tokens of points in degrees, int64 of their shape: row · W + column."""
        cells = self.cell_of(lat, lng)
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
        """Return the grid a teacher was trained on, from what its checkpoint says of its data.

        Known keys: min_lat, max_lat, min_lng, max_lng (also as min_lon, lat_min, …, and inside `boundary` or
        `bounds`), cell_lat, cell_lng, grid_size (degrees, for both axes), downsample_factor, grip_size (H, W).
        `fallbacks` take the same keys, and cell_size_m, and stand in where `cfg` has no value.

        H and W must be those of `grip_size`. Published trainings write (51, 158) whatever the data, so it is passed
        over where `vocab_size` bears out the grid exactly (V - 3 is H · W, or H · W + W + 1 as published), or where
        `ignore_grip_size` is set. Raises ConfigError saying which numbers are missing, or which contradict.
        """
        fallback = read_numbers(fallbacks)
        if unknown := set(fallbacks) - KNOWN:
            raise ConfigError(f"Unknown fallback {', '.join(sorted(unknown))}; known: {', '.join(sorted(KNOWN))}.")
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
        """Return the grid of a teacher that is trained here. Raises ConfigError saying which setting is missing.

        Meters become degrees at the middle latitude of the bounds. A grid of more cells than a teacher can learn is
        refused before anything is made of it.
        """
        numbers = grid_numbers(config_fallbacks(config, network))
        sides = ("cell_size_m", "cell_lat", "cell_lng")
        given = {name: getattr(config, name) for name in sides if getattr(config, name) is not None}
        said = ", ".join(f"{name}: {value:g}" for name, value in given.items())
        check_vocabulary(numbers, said, all_cells=config.vocabulary == "all", num_roads=network.num_roads)
        return cls(**numbers)


@dataclass(frozen=True)
class RoadTokens:
    """A token for each road: the grid of a city whose cells have become so small that roads share none."""

    network: RoadNetwork

    @property
    def shape(self) -> tuple[int, int]:
        """(1, N): one row, a column for each road."""
        return 1, self.network.num_roads

    @property
    def num_labels(self) -> int:
        """N: the token is the road id."""
        return self.network.num_roads


@dataclass(frozen=True)
class OccupiedCells:
    """A cell grid that gives tokens only to the cells that hold a road: a vocabulary without words nobody uses."""

    spec: GridSpec
    """The grid."""
    cells: Int64Array
    """(L,) int64, ascending: the cell, row · W + column, of each token."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.spec.shape

    @property
    def num_labels(self) -> int:
        """L."""
        return len(self.cells)

    @classmethod
    def of(cls, spec: GridSpec, network: RoadNetwork) -> OccupiedCells:
        """Return the cells in which a road has its center."""
        return cls(spec, np.unique(spec.tokenize(*network.centroids.T)))


Grid = GridSpec | OccupiedCells | RoadTokens


def choose_grid(
    config: GridConfig,
    network: RoadNetwork,
    dataset_config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> Grid:
    """Return the grid of a city: that of the imported teacher, completed from the config, or the config's own.

    `dataset_config` and `vocab_size` are those of the teacher's checkpoint, None where it is trained here. A teacher
    of this project that knows occupied cells only carries their list as `occupied_cells`.

    Raises ConfigError as `GridSpec.from_dataset_config` and `GridSpec.from_config` do, and where checkpoint and
    config state one number differently by more than rounding, naming both.
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
    """Return where the bounds of `choose_grid`'s answer come from: checkpoint, settings, roads, or both first ones."""
    if config.kind == "roads":
        return "none: a token is a road"
    given = "roads" if config.bounds == "roads" else "settings"
    if dataset_config is None or "min_lat" not in read_numbers(dataset_config):
        return given
    return "checkpoint" if config.bounds is None else f"checkpoint, agreeing with {given}"


def _check_kind(
    config: GridConfig, network: RoadNetwork, own: Mapping[str, Any], kind: object, vocab_size: int | None
) -> None:
    """Refuse cells for a teacher whose tokens are roads, and the other way round."""
    if kind == "roads" and config.kind != "roads":
        raise ConfigError(
            "The teacher's checkpoint has a token for each road: set `kind: roads` under `grid` in the city's YAML."
        )
    if config.kind != "roads" or vocab_size is None:
        return
    if vocab_size - 3 != network.num_roads or own.get(SHAPE, (1, network.num_roads)) != (1, network.num_roads):
        raise ConfigError(
            f"`grid.kind` is `roads`, and the city has {network.num_roads} of them, but the teacher's checkpoint has "
            f"{vocab_size - 3} labels{'' if SHAPE not in own else ' and grip_size {} × {}'.format(*own[SHAPE])}: its "
            "tokens are cells, or roads of another network. Set `kind: cells`, or train a teacher here."
        )


def _check_agreement(own: Mapping[str, Any], given: Mapping[str, Any], *, of_roads: bool) -> None:
    """Refuse two statements of one grid that differ."""
    told = disagreements(own, given)
    if told:
        raise ConfigError(
            f"The teacher's checkpoint and the settings state its grid differently: {'; '.join(told)}. Its tokens mean "
            f"the cells of one of them only. Take {'`bounds: roads` and other ' if of_roads else ''}numbers that are "
            "in the checkpoint out of `grid` in the city's YAML, or name the checkpoint that they belong to."
        )


def config_fallbacks(config: GridConfig, network: RoadNetwork) -> dict[str, float]:
    """Return the numbers a city's `grid` section gives, by the names `GridSpec.from_dataset_config` takes."""
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
    """Refuse a grid that is not the checkpoint's, unless the vocabulary says that grip_size is the one to doubt."""
    if grip_size in (grid.shape, grid.full_shape):
        return
    height, width = grid.shape
    if vocab_size is not None and vocab_size - 3 in (height * width, height * width + width + 1):
        return
    raise ConfigError(
        f"The grid has {height} × {width} cells, but the teacher's checkpoint says grip_size "
        f"{grip_size[0]} × {grip_size[1]}: bounds or cell size are not those it was trained with. Correct them under "
        "`grid` in the city's YAML."
    )
