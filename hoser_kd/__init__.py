"""Distill LM-TAD, a language model over trajectories, into HOSER, a road-level trajectory generator.

The public API, for notebooks and scripts; `docs/api.md` has an example of each call. Names are imported on first use
(PEP 562), so `import hoser_kd` loads neither torch nor geopandas:

    import hoser_kd as hk

    city = hk.read_city("raw/porto")
    student = hk.load_student("data/porto/vanilla_student/seed-0/0123456789abcdef")
    trips = hk.generate(student, city.test.origins, city.test.start_times, city.test.destinations)
    trips.to_geojson("trips.geojson")
    metrics = hk.evaluate(city.test, trips, city.network, paired=True)

The library does not depend on Dagster; `assets` and `dagster_project` build on it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    # for editors and type checkers; the table below says the same at run time, and a test compares the two
    from hoser_kd.config.distill import DistillConfig as DistillConfig
    from hoser_kd.config.loading import load_config as load_config
    from hoser_kd.config.source import SyntheticConfig as SyntheticConfig
    from hoser_kd.config.student import StudentConfig as StudentConfig
    from hoser_kd.evaluation.metrics import evaluate as evaluate
    from hoser_kd.generation.decoding import Decoding as Decoding
    from hoser_kd.generation.prior import Prior as Prior
    from hoser_kd.grid.spec import GridSpec as GridSpec
    from hoser_kd.lmtad.loading import load_teacher as load_teacher
    from hoser_kd.network.city import City as City
    from hoser_kd.network.city import read_city as read_city
    from hoser_kd.network.road_network import read_network as read_network
    from hoser_kd.network.synthetic.city import make_synthetic_city as make_synthetic_city
    from hoser_kd.network.trajectories import Trajectories as Trajectories
    from hoser_kd.network.trajectories import read_trips as read_trips
    from hoser_kd.sharing.bundle import write_bundle as write_bundle
    from hoser_kd.sharing.generation import generate as generate
    from hoser_kd.sharing.hub import pull as pull
    from hoser_kd.sharing.hub import push as push
    from hoser_kd.sharing.loading import load_student as load_student
    from hoser_kd.sharing.next_step_program import export_next_step as export_next_step
    from hoser_kd.sharing.predictions import next_step as next_step
    from hoser_kd.sharing.predictions import travel_times as travel_times
    from hoser_kd.sharing.student import Student as Student
    from hoser_kd.sharing.trip_map import trip_map as trip_map
    from hoser_kd.student.losses import kl_loss as kl_loss
    from hoser_kd.student.training import train_student as train_student
    from hoser_kd.teacher.soft_labels import label as label

_API = {
    "City": "hoser_kd.network.city:City",
    "Decoding": "hoser_kd.generation.decoding:Decoding",
    "DistillConfig": "hoser_kd.config.distill:DistillConfig",
    "GridSpec": "hoser_kd.grid.spec:GridSpec",
    "Prior": "hoser_kd.generation.prior:Prior",
    "Student": "hoser_kd.sharing.student:Student",
    "StudentConfig": "hoser_kd.config.student:StudentConfig",
    "SyntheticConfig": "hoser_kd.config.source:SyntheticConfig",
    "Trajectories": "hoser_kd.network.trajectories:Trajectories",
    "evaluate": "hoser_kd.evaluation.metrics:evaluate",
    "export_next_step": "hoser_kd.sharing.next_step_program:export_next_step",
    "generate": "hoser_kd.sharing.generation:generate",
    "kl_loss": "hoser_kd.student.losses:kl_loss",
    "label": "hoser_kd.teacher.soft_labels:label",
    "load_config": "hoser_kd.config.loading:load_config",
    "load_student": "hoser_kd.sharing.loading:load_student",
    "load_teacher": "hoser_kd.lmtad.loading:load_teacher",
    "make_synthetic_city": "hoser_kd.network.synthetic.city:make_synthetic_city",
    "next_step": "hoser_kd.sharing.predictions:next_step",
    "pull": "hoser_kd.sharing.hub:pull",
    "push": "hoser_kd.sharing.hub:push",
    "read_city": "hoser_kd.network.city:read_city",
    "read_network": "hoser_kd.network.road_network:read_network",
    "read_trips": "hoser_kd.network.trajectories:read_trips",
    "train_student": "hoser_kd.student.training:train_student",
    "travel_times": "hoser_kd.sharing.predictions:travel_times",
    "trip_map": "hoser_kd.sharing.trip_map:trip_map",
    "write_bundle": "hoser_kd.sharing.bundle:write_bundle",
}
"""Public name: the module and the name it has there."""

__all__ = [
    "City",
    "Decoding",
    "DistillConfig",
    "GridSpec",
    "Prior",
    "Student",
    "StudentConfig",
    "SyntheticConfig",
    "Trajectories",
    "evaluate",
    "export_next_step",
    "generate",
    "kl_loss",
    "label",
    "load_config",
    "load_student",
    "load_teacher",
    "make_synthetic_city",
    "next_step",
    "pull",
    "push",
    "read_city",
    "read_network",
    "read_trips",
    "train_student",
    "travel_times",
    "trip_map",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _API:
        raise AttributeError(f"module 'hoser_kd' has no attribute {name!r}. Public names: {', '.join(sorted(_API))}.")
    module, _, attribute = _API[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not, and those of every module (`__doc__`, `__version__`)."""
    return sorted({*_API, *(name for name in globals() if name.startswith("__"))})
