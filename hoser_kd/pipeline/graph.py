"""The stages from raw files to the report: their inputs, their settings, and the code that computes them.

Dagster's assets and the command line run the same stages through `hoser_kd.pipeline.run`. To add a stage, add an entry
to `STAGES` and a function of the same name to `hoser_kd.pipeline.stages.<group>`. The asset, the choices of
`hoser-kd make`, and the lineage follow from the entry.

This module imports no heavy library, because Dagster's definitions load it.
"""

from __future__ import annotations

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.stage import Stage

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
            "teacher_soft_labels",
            "teacher",
            "Scores of the candidates of each step, from one causal pass of the teacher per trip, at temperature 1 and "
            "not normalized: temperature, weight and sharing rule are applied in the student's training. A sample is "
            "scored over the whole vocabulary to measure the teacher's probability mass on the candidates. Synthetic "
            "trips are labeled too if the student is trained on a pool with the teacher.",
            inputs=("teacher", "grid_token_table", "trajectories", "road_network", "synthetic_trips"),
            optional_inputs={"synthetic_trips": lambda config: config.labels_synthetic_trips},
            settings=("labels",),
            uses_model=True,
            kinds=("pytorch", "arrow"),
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
                "vanilla_student": lambda config: config.pools_vanilla_student or config.fine_tunes_vanilla_student,
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
            code_version="7",
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
            code_version="4",
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
            code_version="11",
            module="hoser_kd.pipeline.stages.report",
        ),
    )
}
"""All stages by name, in topological order."""
