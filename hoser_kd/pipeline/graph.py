"""The stages from raw files to the report: their inputs, their settings, and the code that computes them.

Dagster's assets and the command line run the same stages through `hoser_kd.pipeline.run`. To add a stage, add an entry
to `STAGES` and a function of the same name to `hoser_kd.pipeline.stages.<group>`. The asset, the choices of
`hoser-kd make`, and the lineage follow from the entry.

This module imports no heavy library, because Dagster's definitions load it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hoser_kd.common.errors import CheckpointError, DataError
from hoser_kd.common.hashing import digest_file, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.generation import PriorConfig
from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.config.pooled import PooledConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.source import SourceConfig
from hoser_kd.network.raw_files import digest_if_present, point_files
from hoser_kd.network.sources import kind_of
from hoser_kd.pipeline.settings_section import SettingsSection
from hoser_kd.pipeline.store import Artifact

Inputs = Mapping[str, Artifact | Mapping[int, Artifact]]
"""Artifacts by stage. A stage with one artifact per city reads all seeds of a stage with one artifact per seed."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    """Name of the stage, of its function and of its Dagster asset; a noun."""
    group: str
    """Asset group: the name of its module in `hoser_kd.pipeline.stages` and in `assets`."""
    description: str
    """What the artifact holds, as Dagster's UI shows it; Markdown."""
    inputs: tuple[str, ...] = ()
    """Names of the stages it reads."""
    optional_inputs: Mapping[str, Callable[[CityConfig], bool]] = field(default_factory=dict)
    """Inputs that it reads under some settings only, with the condition. Where it is false, the input stays in the
    lineage but is not passed to the function, and neither version nor record depends on it."""
    settings: tuple[str, ...] = ()
    """Names of the sections of `SETTINGS` it reads."""
    per_seed: bool = False
    """True: one artifact per city and seed; False: one per city."""
    uses_model: bool = False
    """True where it runs a model. Such steps share Dagster's pool `gpu`, so that a single GPU runs one at a time."""
    kinds: tuple[str, ...] = ()
    """Dagster's tags for the kind of computation and file format."""
    code_version: str = "1"
    """Raised by hand when the code, or the default of a setting, gives another result for the same inputs."""
    module: str = ""
    """Module of the function; empty: `hoser_kd.pipeline.stages.<group>`."""

    def inputs_read(self, config: CityConfig) -> tuple[str, ...]:
        """Return the names of the inputs that it reads under these settings."""
        unused = {name for name, is_read in self.optional_inputs.items() if not is_read(config)}
        return tuple(name for name in self.inputs if name not in unused)

    def function(self) -> Callable[[StageRun], dict[str, Any]]:
        """Import and return the stage's function."""
        module = importlib.import_module(self.module or f"hoser_kd.pipeline.stages.{self.group}")
        function: Callable[[StageRun], dict[str, Any]] = getattr(module, self.name)
        return function


def _teacher_settings(config: CityConfig) -> dict[str, Any]:
    return {**config.teacher.model_dump(mode="json"), "checkpoint": _checkpoint(config)}


def _checkpoint(config: CityConfig) -> str | None:
    """Return a digest of the checkpoint's content: a new file of the same name is another teacher."""
    if config.distill.ckpt_path is None:
        return None
    hint = "It is the value of `distill.ckpt_path`: correct it, or remove it to train a teacher in the graph."
    return _checkpoint_digest(config.distill.ckpt_path, hint)


def _checkpoint_digest(name: str, hint: str) -> str:
    path = Path(name)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("config.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"{path}: no such file. {hint}")
    return digest_json([digest_file(file) for file in files])


_LABEL_KEYS = {"window", "teacher_fp16", "labels", "store_outside_mass"}


def _label_settings(config: CityConfig) -> dict[str, Any]:
    return config.distill.model_dump(mode="json", include=_LABEL_KEYS)


def _student_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section; an unused key has its default."""
    settings = config.student.model_dump(mode="json")
    if not config.student.num_validation_ods:
        settings["select_max_steps"] = type(config.student).model_fields["select_max_steps"].default
    return settings


def _distillation_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section without the keys of labels; the settings of an unused recipe are its defaults."""
    settings = config.distill.model_dump(mode="json", exclude=_LABEL_KEYS | {"ckpt_path"})
    if not config.distill.uses_off_path:
        settings["off_path"] = OffPathConfig().model_dump(mode="json")
    if not config.distill.uses_pooled:
        settings["pooled"] = PooledConfig().model_dump(mode="json")
    hint = "`distill.pooled.other_teachers` names it: correct it, or remove it."
    settings["pooled"]["other_teachers"] = [
        _checkpoint_digest(path, hint) for path in settings["pooled"]["other_teachers"]
    ]
    return settings


_OFF_PATH_LABEL_KEYS = {"temperatures", "states", "max_steps", "smoothing", "costs", "teacher_weight", "labels"}


def _off_path_label_settings(config: CityConfig) -> dict[str, Any]:
    """Return the keys of states and targets; the defaults alone where none are stored."""
    stored = config.stores_off_path_labels
    section = config.distill.off_path if stored else OffPathConfig()
    settings: dict[str, Any] = {"off_path": section.model_dump(mode="json", include=_OFF_PATH_LABEL_KEYS)}
    if stored and section.reads_teacher:
        settings |= config.distill.model_dump(mode="json", include={"window", "teacher_fp16"})
    return settings


def _synthetic_trip_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section and how labels encode histories; the defaults alone where the trips are not used."""
    if not config.uses_synthetic_trips:
        return type(config.synthetic_trips)().model_dump(mode="json")
    histories = config.distill.model_dump(mode="json", include={"window", "teacher_fp16"})
    return {**config.synthetic_trips.model_dump(mode="json"), "used": True, **histories}


_REQUEST_KEYS = {"od_source", "od_file", "num_trips", "samples_per_od", "seed"}


def _generation_settings(config: CityConfig) -> dict[str, Any]:
    """Return the section with the digest of the OD file's content in place of its name; an unused prior is left out."""
    settings = config.generation.model_dump(mode="json")
    if not config.generation.prior.is_on:
        settings["prior"] = PriorConfig().model_dump(mode="json")
    if config.generation.od_file is not None:
        file = Path(config.generation.od_file)
        if not file.is_file():
            raise DataError(file, "no such file.", hint="It is the value of `generation.od_file`: correct it.")
        settings["od_file"] = digest_file(file)
    return settings


def _source_settings(config: CityConfig) -> dict[str, Any]:
    """Return what `source_files` reads: without sections that other stages read, with digests in place of files."""
    settings: dict[str, Any] = kind_of(config.source).settings(config.source)
    return settings


def _raw(config: CityConfig) -> SourceConfig:
    """Return the source; for a city that is not of raw data, with the defaults, which its versions leave out."""
    return config.source if config.is_raw else type(config.source).model_construct()


def _map_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.map` with digests of the content in place of the names of its files."""
    source = _raw(config)
    settings = source.map.model_dump(mode="json")
    for key in ("path", "polygon"):
        if settings[key] is not None:
            settings[key] = digest_if_present([Path(settings[key]).expanduser()])
    return {"map": settings}


def _point_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.points` with a digest of the content in place of the name of the file or folder."""
    source = _raw(config)
    settings = source.points.model_dump(mode="json")
    if settings["path"] is not None:
        settings["path"] = digest_if_present(point_files(source.points, missing_ok=True))
    return {"points": settings}


def _matching_settings(config: CityConfig) -> dict[str, Any]:
    """Return `source.matching`, and the time zone in which trips have their times."""
    zone = _raw(config).points.model_dump(mode="json", include={"time_zone"})
    return {"matching": _raw(config).matching.model_dump(mode="json"), "points": zone}


SETTINGS: dict[str, SettingsSection] = {
    "source": SettingsSection("source", "Source of the city's data: `source`.", _source_settings),
    "map": SettingsSection(
        "source", "The OpenStreetMap extract: `source.map`, and the content of its files.", _map_settings
    ),
    "points": SettingsSection(
        "source", "The GPS points: `source.points`, and the content of their files.", _point_settings
    ),
    "matching": SettingsSection(
        "source", "Map matching: `source.matching`, and the time zone of `source.points`.", _matching_settings
    ),
    "split": SettingsSection(
        "source",
        "Division of matched trips: `source.split`.",
        lambda config: {"split": _raw(config).split.model_dump(mode="json")},
    ),
    "rows": SettingsSection(
        "source",
        "Handling of invalid trips: `source.on_bad_row`.",
        lambda config: config.source.model_dump(mode="json", include={"on_bad_row"}),
    ),
    "connections": SettingsSection(
        "source",
        "Handling of repeated connections: `source.on_duplicate_connection`.",
        lambda config: config.source.model_dump(mode="json", include={"on_duplicate_connection"}),
    ),
    "zones": SettingsSection(
        "zones", "Partition of the roads into zones: `zones`.", lambda config: config.zones.model_dump(mode="json")
    ),
    "grid": SettingsSection(
        "grid",
        "The teacher's grid: `grid`, and the content of the checkpoint if one is named.",
        lambda config: {**config.grid.model_dump(mode="json"), "checkpoint": _checkpoint(config)},
    ),
    "teacher": SettingsSection(
        "teacher",
        "Size and training of the teacher: `teacher`, and the content of the checkpoint if one is named.",
        _teacher_settings,
    ),
    "labels": SettingsSection(
        "distill",
        "Labeling by the teacher: `window`, `teacher_fp16`, `labels` and `store_outside_mass` of `distill`.",
        _label_settings,
    ),
    "synthetic_trips": SettingsSection(
        "synthetic_trips",
        "Sampling of trips from the teacher: `synthetic_trips`, and `window` and `teacher_fp16` of `distill`; the "
        "defaults where neither `sequence` in `distill.recipe` nor `distill.off_path.costs` needs them.",
        _synthetic_trip_settings,
    ),
    "student": SettingsSection("student", "HOSER and its training: `student`.", _student_settings),
    "distillation": SettingsSection(
        "distill",
        "How the student learns from the teacher: `distill.recipe` and the keys of its parts, without those for the "
        "teacher and its labels.",
        _distillation_settings,
    ),
    "off_path_labels": SettingsSection(
        "distill",
        "States off any real trip that are labeled before the training: keys of `distill.off_path`.",
        _off_path_label_settings,
    ),
    "generation": SettingsSection("generation", "Generation of trips: `generation`.", _generation_settings),
    "requests": SettingsSection(
        "generation",
        "Requested trips: `od_source`, `od_file`, `num_trips`, `samples_per_od` and `seed` of `generation`.",
        lambda config: {key: value for key, value in _generation_settings(config).items() if key in _REQUEST_KEYS},
    ),
    "evaluation": SettingsSection(
        "evaluation",
        "Metrics of generated trips: `evaluation`.",
        lambda config: config.evaluation.model_dump(mode="json"),
    ),
}
"""Sections of the settings as stages read them, by name; each is a Dagster asset in the group `settings`."""


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return those of a stage's settings that differ from the defaults; sections without any are left out."""
    changed = {name: SETTINGS[name].changed(values) for name, values in settings.items()}
    return {name: values for name, values in changed.items() if values}


SOURCE_NOTE = "source.json"
"""File of `source_files` that records where the raw files are, with their sizes and times."""

_NETWORK = ("road_network", "trajectories", "road_zones", "zone_transitions")
_STUDENTS = ("vanilla_student", "distilled_student")
_RAW_DATA = "hoser_kd.pipeline.stages.raw_data"


def _is_raw(config: CityConfig) -> bool:
    return config.is_raw


def _is_not_raw(config: CityConfig) -> bool:
    return not config.is_raw


_OFF_PATH_INPUTS = (
    "vanilla_student",
    "trajectories",
    "road_network",
    "teacher",
    "grid_token_table",
    "synthetic_trips",
)


def _labels_off_path_with_teacher(config: CityConfig) -> bool:
    return config.stores_off_path_labels and config.distill.off_path.reads_teacher


_OF_KIND = {"source_files": _is_not_raw, "osm_extract": _is_raw, "matched_trips": _is_raw}
"""Raw data reaches roads and trips through stages of its own, other data through `source_files`."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "source_files",
            "network",
            "The raw files in HOSER's format: `roadmap.geo`, `roadmap.rel`, `train.csv`, `val.csv`, `test.csv`, and "
            "the partition into zones if the data set ships one. Read from a folder, generated (`synthetic`), or "
            "downloaded from a Hugging Face repository. The version is a digest of the files' content.",
            settings=("source",),
            kinds=("csv",),
        ),
        Stage(
            "osm_extract",
            "network",
            "Drivable ways of the OpenStreetMap extract, clipped to the area, and their nodes (Parquet). Only for raw "
            "data (`source.kind: raw`); empty otherwise.",
            settings=("map",),
            kinds=("osm", "parquet"),
            module=_RAW_DATA,
        ),
        Stage(
            "gps_points",
            "network",
            "GPS points in one schema (Parquet: trip_id, vehicle_id, t in UTC, lon, lat, part), cleaned: invalid and "
            "duplicate points, jumps, gaps, stops, standing ends. Only for raw data; empty otherwise.",
            settings=("points",),
            kinds=("parquet",),
            module=_RAW_DATA,
        ),
        Stage(
            "road_network",
            "network",
            "Directed roads (GeoParquet: road_id, highway, length_m, LineString in EPSG:4326) and the connections "
            "between them (Parquet). Every row is validated.",
            inputs=("source_files", "osm_extract"),
            optional_inputs=_OF_KIND,
            settings=("connections",),
            kinds=("geopandas", "parquet"),
        ),
        Stage(
            "matched_trips",
            "network",
            "GPS points matched to roads: pieces of trips with local entry times (Arrow IPC), what they are in the raw "
            "data (Parquet), and figures of the quality. Only for raw data; empty otherwise.",
            inputs=("osm_extract", "gps_points", "road_network"),
            optional_inputs=dict.fromkeys(("osm_extract", "gps_points", "road_network"), _is_raw),
            settings=("matching",),
            kinds=("numba", "arrow"),
            code_version="2",
            module=_RAW_DATA,
        ),
        Stage(
            "trajectories",
            "network",
            "Training, validation and test trips as ragged arrays of road ids and times (Arrow IPC, memory-mapped). "
            "Each step is validated against the road network. Matched trips are divided by date or at random.",
            inputs=("source_files", "road_network", "matched_trips"),
            optional_inputs=_OF_KIND,
            settings=("rows", "split"),
            kinds=("arrow",),
        ),
        Stage(
            "road_centroids",
            "network",
            "Centroid of each road's line as a point in EPSG:4326 (GeoParquet).",
            inputs=("road_network",),
            kinds=("geopandas", "parquet"),
        ),
        Stage(
            "road_zones",
            "network",
            "Zone of each road: the data set's own partition where it ships one, otherwise KaHIP's partition of the "
            "undirected road graph.",
            inputs=("source_files", "road_network"),
            optional_inputs={"source_files": _is_not_raw},
            settings=("zones",),
            kinds=("kahip", "parquet"),
        ),
        Stage(
            "zone_transitions",
            "network",
            "Number of transitions of the training trips from each zone to each other zone (Z × Z counts).",
            inputs=("road_zones", "trajectories"),
            kinds=("numpy",),
        ),
        Stage(
            "grid_token_table",
            "grid",
            "Row, column and token of each road in the teacher's grid, a flag for roads clamped into it, and the "
            "occupied cells as polygons. Metrics: coverage, roads per cell, and resolution: the share of the steps "
            "with two or more candidates whose candidates lie in different cells. The teacher provides no signal on "
            "the remaining steps.",
            inputs=("road_network", "road_centroids", "trajectories"),
            settings=("grid",),
            uses_model=True,
            kinds=("geopandas", "parquet"),
            code_version="2",
        ),
        Stage(
            "teacher_corpus",
            "teacher",
            "Training, validation and test trips as sequences of grid tokens, one token per road (Arrow IPC).",
            inputs=("trajectories", "grid_token_table"),
            kinds=("arrow",),
        ),
        Stage(
            "teacher",
            "teacher",
            "LM-TAD, a causal language model over grid tokens: imported if `distill.ckpt_path` names a checkpoint, "
            "otherwise trained on the corpus (best epoch by validation loss).",
            inputs=("teacher_corpus", "grid_token_table", "road_network"),
            settings=("teacher",),
            uses_model=True,
            kinds=("pytorch", "safetensors"),
        ),
        Stage(
            "teacher_evaluation",
            "teacher",
            "Perplexity of the teacher on validation and test trips, the published outlier test (route switch and "
            "detour), and the cells of the highest negative log-likelihood, on a map.",
            inputs=("teacher", "teacher_corpus", "grid_token_table", "road_network"),
            uses_model=True,
            kinds=("pytorch",),
            code_version="2",
        ),
        Stage(
            "teacher_soft_labels",
            "teacher",
            "Scores of the candidates of each step, from one causal pass of the teacher per trip, at temperature 1 and "
            "not normalized: temperature, weight and sharing rule are applied in the student's training. A sample is "
            "scored over the whole vocabulary to measure the teacher's probability mass on the candidates.",
            inputs=("teacher", "grid_token_table", "trajectories", "road_network"),
            settings=("labels",),
            uses_model=True,
            kinds=("pytorch", "arrow"),
        ),
        Stage(
            "synthetic_trips",
            "teacher",
            "Trips sampled from the teacher along the road graph (Arrow IPC, like `trajectories`, without times), for "
            "the recipe `sequence` or for `distill.off_path.costs`; nothing is sampled without them. Metrics: share of "
            "the attempts that end, lengths, copies of training trips, and coverage of the road pairs of validation "
            "and test trips.",
            inputs=("teacher", "grid_token_table", "trajectories", "road_network"),
            settings=("synthetic_trips",),
            uses_model=True,
            kinds=("pytorch", "arrow"),
            module="hoser_kd.pipeline.stages.synthetic_trips",
        ),
        Stage(
            "vanilla_student",
            "student",
            "HOSER trained without a teacher; the best epoch by `student.select_by`.",
            inputs=_NETWORK,
            settings=("student",),
            per_seed=True,
            uses_model=True,
            kinds=("pytorch", "safetensors"),
            code_version="2",
        ),
        Stage(
            "off_path_labels",
            "student",
            "States off any real trip that the vanilla student visits, with destination-conditioned targets of their "
            "candidates (Arrow IPC), for the recipe `off_path` with `distill.off_path.labels: stored`; nothing is "
            "labeled without it. Metrics: number of states, share of the trips that arrive, share of the states with "
            "a target and off the real trip, seconds.",
            inputs=_OFF_PATH_INPUTS,
            optional_inputs={
                **dict.fromkeys(_OFF_PATH_INPUTS, lambda config: config.stores_off_path_labels),
                **dict.fromkeys(("teacher", "grid_token_table"), _labels_off_path_with_teacher),
                "synthetic_trips": lambda config: config.stores_off_path_labels and config.distill.averages_histories,
            },
            settings=("off_path_labels",),
            per_seed=True,
            uses_model=True,
            kinds=("pytorch", "arrow"),
            module="hoser_kd.pipeline.stages.off_path_labels",
        ),
        Stage(
            "distilled_student",
            "student",
            "HOSER trained with the teacher, as `distill.recipe` says: with the distillation term on the teacher's "
            "labels, on trips sampled from the teacher, on a pool of the teacher with the vanilla student and a Markov "
            "chain, on states off any real trip, or several of these. With the term alone, everything else, including "
            "the order of batches, equals the vanilla student of the same seed.",
            inputs=(
                *_NETWORK,
                "teacher_soft_labels",
                "grid_token_table",
                "synthetic_trips",
                "vanilla_student",
                "off_path_labels",
            ),
            optional_inputs={
                "synthetic_trips": lambda config: config.student_reads_synthetic_trips,
                "vanilla_student": lambda config: config.pools_vanilla_student,
                "off_path_labels": lambda config: config.stores_off_path_labels,
            },
            settings=("student", "distillation"),
            per_seed=True,
            uses_model=True,
            kinds=("pytorch", "safetensors"),
            code_version="2",
        ),
        Stage(
            "generated_trajectories",
            "evaluation",
            "Trips of both students for the requested ODs, generated by the published search, beam search or sampling: "
            "Parquet, CSV in the published layout, and lines for a map (GeoParquet).",
            inputs=(*_STUDENTS, "road_network", "trajectories"),
            settings=("generation",),
            per_seed=True,
            uses_model=True,
            kinds=("pytorch", "parquet"),
            code_version="2",
            module="hoser_kd.pipeline.stages.generation",
        ),
        Stage(
            "trajectory_metrics",
            "evaluation",
            "Next-step metrics of both students on test trips, and the published metrics of their generated trips "
            "(distance, radius, duration, Hausdorff, DTW, EDR) with additional ones.",
            inputs=(*_STUDENTS, "generated_trajectories", "teacher_soft_labels", "road_network", "trajectories"),
            settings=("evaluation",),
            per_seed=True,
            uses_model=True,
            kinds=("numba",),
            code_version="6",
        ),
        Stage(
            "baseline_trips",
            "evaluation",
            "Trips of the baselines (Markov chain, shortest path, fastest path, nearest training trip) for the same "
            "requests as the students', with the same metrics, and next-step metrics of counting models (frequency, "
            "Markov chains of order 1 and 2). Fitted on training trips; smoothing is chosen on validation trips.",
            inputs=("road_network", "trajectories"),
            settings=("requests", "evaluation"),
            kinds=("numba", "parquet"),
            code_version="2",
            module="hoser_kd.pipeline.stages.baselines",
        ),
        Stage(
            "ceilings",
            "evaluation",
            "Upper bounds of next-step prediction over all seeds trained with the same settings: pools of student and "
            "teacher, of two students, and of student and Markov chain (the control), arithmetic and log-linear, "
            "fitted on validation and measured on test; and the share of the gap that distillation closes.",
            inputs=(*_STUDENTS, "teacher_soft_labels", "road_network", "trajectories"),
            uses_model=True,
            kinds=("pytorch", "scipy"),
            code_version="2",
            module="hoser_kd.pipeline.stages.ceilings",
        ),
        Stage(
            "distillation_report",
            "evaluation",
            "Vanilla against distilled over all seeds trained with the same settings, with paired confidence "
            "intervals, baselines, ceilings, curves and distributions, and a zoomable map: two HTML files that need no "
            "network connection.",
            inputs=(
                *_STUDENTS,
                "generated_trajectories",
                "trajectory_metrics",
                "baseline_trips",
                "ceilings",
                "road_network",
                "trajectories",
                "grid_token_table",
                "teacher",
                "teacher_evaluation",
                "teacher_soft_labels",
            ),
            kinds=("html",),
            code_version="8",
            module="hoser_kd.pipeline.stages.report",
        ),
    )
}
"""All stages by name, in topological order."""


@dataclass
class StageRun:
    """Arguments of a stage's function."""

    stage: Stage
    config: CityConfig
    seed: int | None
    inputs: Inputs
    folder: Path
    """Work folder, empty or with the files of an interrupted run of the same version; becomes the artifact."""
    progress: Progress = silent
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    on_epoch: Callable[[dict[str, float]], None] = field(default=lambda _: None)
    """Called with the metrics of each finished epoch of a training."""

    def path(self, stage: str) -> Path:
        """Return the folder of an input that has one artifact."""
        return self.artifact(stage).path

    def artifact(self, stage: str) -> Artifact:
        """Return an input that has one artifact."""
        artifact = self.inputs[stage]
        if not isinstance(artifact, Artifact):
            raise TypeError(f"{stage} has one artifact per seed; use `seeds`")
        return artifact

    def seeds(self, stage: str) -> Mapping[int, Artifact]:
        """Return the artifacts of an input that has one per seed."""
        artifacts = self.inputs[stage]
        if isinstance(artifacts, Artifact):
            raise TypeError(f"{stage} has one artifact; use `path`")
        return artifacts
