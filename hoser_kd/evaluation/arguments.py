"""Validation of the arguments of `evaluate`, before anything is computed from them.

Shapes: n trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.errors import DataError
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

if TYPE_CHECKING:
    import numpy.typing as npt

    from hoser_kd.common.arrays import Int64Array

USAGE = "Call evaluate(real, generated, network, config, destinations=..., training=..., paired=True)."
_SOURCES = {
    Trajectories: "Read trips with Trajectories.load(path), or take those of a city, such as read_city(folder).test.",
    RoadNetwork: "Read a road network with RoadNetwork.load(folder).",
    EvaluationConfig: "Give EvaluationConfig(...) or config.evaluation, or leave it out for the published values.",
}
_NAMES = {Trajectories: "Trajectories", RoadNetwork: "a RoadNetwork", EvaluationConfig: "an EvaluationConfig or None"}


def check_types(
    real: object, generated: object, network: object, config: object, training: object, **flags: object
) -> None:
    """Raise TypeError unless the arguments of `evaluate` have their types; `flags` are booleans."""
    _check_type("real", real, Trajectories)
    _check_type("generated", generated, Trajectories)
    _check_type("network", network, RoadNetwork)
    if config is not None:
        _check_type("config", config, EvaluationConfig)
    if training is not None:
        _check_type("training", training, Trajectories)
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is of type {type(value).__name__}, not True or False. {USAGE}")


def _check_type(name: str, value: object, expected: type) -> None:
    if isinstance(value, expected):
        return
    if isinstance(value, type):
        found = f"the class {value.__name__}"
    else:
        found = "None" if value is None else f"of type {type(value).__name__}"
    raise TypeError(f"{name} is {found}, not {_NAMES[expected]}. {USAGE} {_SOURCES[expected]}")


def check_trips(name: str, trips: Trajectories, network: RoadNetwork) -> None:
    """Raise DataError with the trip unless each trip has a road and all roads are on the network."""
    empty = trips.lengths < 1
    if empty.any():
        raise DataError(name, "the trip has no road.", row=int(np.argmax(empty)), hint="Leave out trips without roads.")
    outside = _outside(trips.road_ids, network)
    if outside.any():
        position = int(np.argmax(outside))
        row = int(np.searchsorted(trips.offsets, position, side="right")) - 1
        _refuse_road(name, row, int(trips.road_ids[position]), network)


def check_destinations(destinations: object, num_trips: int, network: RoadNetwork) -> Int64Array:
    """Return the requested destinations, (n,) int64.

    Raises TypeError for other dtypes, ValueError for other shapes, and DataError for roads that are not on the network.
    """
    array = np.asarray(destinations)
    if array.ndim != 1:
        raise ValueError(f"destinations has shape {array.shape}, not (n,): one road id per generated trip. {USAGE}")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"destinations has dtype {array.dtype}, not an integer type: they are road ids. {USAGE}")
    if len(array) != num_trips:
        raise ValueError(f"got {len(array)} destinations for {num_trips} generated trips")
    outside = _outside(array, network)
    if outside.any():
        row = int(np.argmax(outside))
        _refuse_road("destinations", row, int(array[row]), network)
    return array.astype(np.int64, copy=False)


def _outside(roads: npt.NDArray[Any], network: RoadNetwork) -> npt.NDArray[np.bool_]:
    return np.asarray((roads < 0) | (roads >= network.num_roads))


def _refuse_road(name: str, row: int, road: int, network: RoadNetwork) -> None:
    hint = f"Ids run from 0 to {network.num_roads - 1}. Are these trips of another network?"
    raise DataError(name, f"road {road} does not exist.", row=row, hint=hint)
