"""Settings of a city as one typed, frozen tree, read from `config/<city>.yaml` by `hoser_kd.config.loading`.

The sections have modules of their own in this package.

The docstring under each field is its documentation; it appears in the docs, in Dagster and in error messages.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from hoser_kd.config.city_names import require_city_name
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.config.generation import GenerationConfig
from hoser_kd.config.grid import GridConfig
from hoser_kd.config.section import Section
from hoser_kd.config.source import SourceConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.synthetic_trips import SyntheticTripsConfig
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.config.torchrun import TorchrunConfig
from hoser_kd.config.variants import SOURCE_KINDS
from hoser_kd.config.zones import ZonesConfig


class CityConfig(Section):
    """All settings of a city, read from one YAML file named after it."""

    city: Annotated[str, AfterValidator(require_city_name)]
    """Name of the city: the file name without `.yaml`."""
    description: str = ""
    """One-line description."""
    source: SourceConfig
    """Data source."""
    zones: ZonesConfig = ZonesConfig()
    """Partition of the roads into zones."""
    grid: GridConfig = GridConfig()
    """The teacher's grid."""
    teacher: TeacherConfig = TeacherConfig()
    """LM-TAD."""
    distill: DistillConfig = DistillConfig()
    """Teacher labels and distillation."""
    synthetic_trips: SyntheticTripsConfig = SyntheticTripsConfig()
    """Trips sampled from the teacher."""
    student: StudentConfig = StudentConfig()
    """HOSER."""
    generation: GenerationConfig = GenerationConfig()
    """Generation of trips."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics of generated trips."""
    torchrun: TorchrunConfig = TorchrunConfig()
    """Machines that train together."""

    @model_validator(mode="after")
    def _window_holds_the_destination(self) -> Self:
        window = self.distill.window
        if self.teacher.destination_prefix and window != "full" and window < 3:
            raise ValueError(
                f"distill.window is {window}; with teacher.destination_prefix it needs at least 3 tokens: SOT, the "
                "destination and a road"
            )
        return self

    @model_validator(mode="after")
    def _off_path_in_one_process(self) -> Self:
        if not self.distill.enabled or not self.distill.uses_off_path:
            return self
        processes, nodes = self.student.num_processes, self.torchrun.nodes
        if processes > 1 or nodes > 1:
            key = f"student.num_processes is {processes}" if processes > 1 else f"torchrun.nodes is {nodes}"
            raise ValueError(
                f"{key}, and distill.recipe has off_path, which runs in one process: set it to 1, or remove off_path"
            )
        return self

    @property
    def is_raw(self) -> bool:
        """Whether roads and trips are made of an OpenStreetMap extract and GPS points."""
        return bool(SOURCE_KINDS[self.source.kind].is_raw)

    @property
    def uses_synthetic_trips(self) -> bool:
        """Whether trips are sampled from the teacher: a student trains on them, or they are histories of its costs."""
        return self.distill.enabled and ("sequence" in self.distill.recipe or self.distill.averages_histories)

    @property
    def labels_synthetic_trips(self) -> bool:
        """Whether the teacher's labels of synthetic trips are stored: the student's pool has the teacher."""
        distill = self.distill
        return (
            distill.enabled and "sequence" in distill.recipe and distill.pools("teacher") and distill.labels == "stored"
        )

    @property
    def fine_tunes_vanilla_student(self) -> bool:
        """Whether the distilled student is the vanilla one, fine-tuned on off-path states."""
        return self.distill.enabled and self.distill.recipe == ("off_path",)

    @property
    def reads_vanilla_student(self) -> bool:
        """Whether the distilled student needs the vanilla one: in its pool, for off-path labels, or as its start."""
        return self.pools_vanilla_student or self.stores_off_path_labels or self.fine_tunes_vanilla_student

    @property
    def student_reads_synthetic_trips(self) -> bool:
        """Whether the distilled student reads them; it does not where the off-path labels are stored."""
        reads_costs = self.distill.averages_histories and not self.distill.stores_off_path_labels
        return self.distill.enabled and ("sequence" in self.distill.recipe or reads_costs)

    @property
    def stores_off_path_labels(self) -> bool:
        """Whether the stage `off_path_labels` has labels."""
        return self.distill.enabled and self.distill.stores_off_path_labels

    @property
    def pools_vanilla_student(self) -> bool:
        """Whether the distilled student is trained on a pool with the vanilla student."""
        return self.distill.enabled and self.distill.pools("student")
