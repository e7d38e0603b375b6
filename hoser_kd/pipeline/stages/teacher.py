"""Stages of the teacher group: corpus, LM-TAD, its evaluation, its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hoser_kd import plots
from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.arrays import Float64Array, Int64Array
from hoser_kd.common.device import pick_device
from hoser_kd.common.files import write_json
from hoser_kd.common.seals import remove_seals
from hoser_kd.grid.spec import GridSpec, OccupiedCells
from hoser_kd.grid.token_table import corpus_tokens
from hoser_kd.lmtad import LMTADCheckpoint, check_grid, load_checkpoint, save
from hoser_kd.network.step_statistics import position_of_step
from hoser_kd.network.trajectories import SPLITS, Trajectories
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.grid import cell_grid, load_grid, load_tokens
from hoser_kd.pipeline.stages.labels import keep_teacher, soft_label_scorer, stored_labels
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.pipeline.stages.teacher_training import load_corpus, train_teacher_together
from hoser_kd.plots.label_maps import mean_by_road, road_value_maps
from hoser_kd.teacher.corpus import Corpus
from hoser_kd.teacher.importing import describe
from hoser_kd.teacher.label_diagnostics import diagnose
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.outliers import outlier_test
from hoser_kd.teacher.scoring import score
from hoser_kd.teacher.soft_labels import SoftLabels


def teacher_corpus(run: StageRun) -> dict[str, Any]:
    """Write every trip as a sequence of tokens (Arrow IPC)."""
    tokens = load_tokens(run.path("grid_token_table"))
    rows = [_write_corpus(run.folder / f"{split}.arrow", split, load_trips(run, split), tokens) for split in SPLITS]
    return {
        "sequences": sum(row["sequences"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "splits": rows,
    }


def _write_corpus(path: Path, split: str, trips: Trajectories, tokens: Int64Array) -> dict[str, Any]:
    """Write the tokens of a split, chunk by chunk; returns the split's row of the summary."""
    distinct, repeats = np.zeros(int(tokens.max()) + 1, bool), 0
    with GrowingArray(path.with_suffix(".tokens"), np.int64) as written:
        for part in trips.chunks():
            sequences = Corpus(*corpus_tokens(tokens, part))
            same = np.diff(sequences.tokens) == 0
            same[sequences.offsets[1:-1] - 1] = False
            distinct[sequences.tokens] = True
            repeats += int(same.sum())
            written.append(sequences.tokens)
        corpus = Corpus(trips.offsets, written.mapped())
        corpus.save(path)
    return {
        "split": split,
        "sequences": corpus.num_sequences,
        "tokens": len(corpus.tokens),
        "distinct": int(distinct.sum()),
        "longest": int(corpus.lengths.max()),
        "repeats_the_cell": round(repeats / (len(corpus.tokens) - 1), 4),
    }


def teacher(run: StageRun) -> dict[str, Any]:
    """Import the checkpoint that the settings name, or train a teacher; writes safetensors and JSON."""
    grid = load_grid(run)
    if run.config.distill.ckpt_path is not None:
        checkpoint = load_checkpoint(run.config.distill.ckpt_path)
        shape = (1, grid.num_labels) if isinstance(grid, OccupiedCells) else grid.shape
        check_grid(checkpoint.config.vocab_size, shape)
        save(checkpoint, run.folder)
        metrics = {"imported": True, **_perplexity(run, checkpoint)}
    else:
        metrics = {"imported": False, **_train(run)}
        checkpoint = load_checkpoint(run.folder)
    about = describe(checkpoint)
    return {
        "layers": about["layers"],
        "heads": about["heads"],
        "width": about["width"],
        "parameters": about["parameters"],
        "vocab_size": about["vocabulary"],
        "block_size": about["block_size"],
        **metrics,
    }


def _train(run: StageRun) -> dict[str, Any]:
    result = train_teacher_together(run)
    (run.folder / "curves.png").write_bytes(plots.png(plots.training_curves({"teacher": [result.history]})))
    best = result.history[result.best_epoch - 1]
    return {
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "val_loss": round(best["val_loss"], 5),
        "val_perplexity": round(best["val_perplexity"], 4),
        "tokens_per_s": round(best["tokens_per_s"]),
        "epochs": result.history,
    }


def _load_teacher(run: StageRun) -> LMTADCheckpoint:
    return load_checkpoint(run.path("teacher"))


def _perplexity(run: StageRun, checkpoint: LMTADCheckpoint) -> dict[str, float]:
    result = score(checkpoint.model, load_corpus(run, "val"), device=pick_device(run.device), progress=run.progress)
    return {
        "val_loss": round(result.loss, 5),
        "val_perplexity": round(result.perplexity, 4),
        "val_sequences_scored": len(result.rows),
    }


def teacher_evaluation(run: StageRun) -> dict[str, Any]:
    """Evaluate the teacher: perplexity, the published outlier test, and negative log-likelihood by cell."""
    model, grid, device = _load_teacher(run).model, load_grid(run), pick_device(run.device)
    scores = {
        split: score(model, load_corpus(run, split), device=device, progress=run.progress) for split in ("val", "test")
    }
    perplexities = {f"{split}_perplexity": round(result.perplexity, 4) for split, result in scores.items()}
    outliers: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    spec = cell_grid(grid)
    # the outlier test moves tokens to neighboring cells, which road tokens do not have
    if spec is not None and len(scores["test"].rows):
        cell_of_token = grid.cells if isinstance(grid, OccupiedCells) else np.arange(grid.num_labels)
        results = outlier_test(
            model,
            load_corpus(run, "test"),
            grid.shape,
            device=device,
            cells=cell_of_token if isinstance(grid, OccupiedCells) else None,
        )
        outliers = [result.metrics() for result in results]
        means, counts = np.full(spec.num_labels, np.nan), np.zeros(spec.num_labels, np.int64)
        means[cell_of_token], counts[cell_of_token] = scores["test"].by_cell(grid.num_labels)
        cells = _highest_nll(means, counts, spec)
        figure = plots.cell_value_map(
            load_network(run),
            spec.lat_edges,
            spec.lng_edges,
            means.reshape(spec.shape),
            "mean negative log-likelihood of the teacher (nats per token)",
        )
        (run.folder / "nll_map.png").write_bytes(plots.png(figure))
    write_json(run.folder / "evaluation.json", {**perplexities, "outliers": outliers, "highest_nll": cells})
    means_of_outliers = {
        name: round(float(np.mean([row[name] for row in outliers])), 4)
        for name in ("f1", "pr_auc", "roc_auc")
        if outliers
    }
    return {
        **perplexities,
        **{f"outlier_mean_{name}": value for name, value in means_of_outliers.items()},
        "test_sequences_scored": len(scores["test"].rows),
        "outlier_test": outliers,
        "highest_nll_cells": cells,
    }


_MIN_VISITS = 5
"""Cells with fewer visits are left out of the list of cells with the highest negative log-likelihood."""


def _highest_nll(means: Float64Array, counts: Int64Array, grid: GridSpec, num_cells: int = 10) -> list[dict[str, Any]]:
    """Return one row for each of the cells with the highest mean negative log-likelihood."""
    order = np.argsort(np.where(counts >= _MIN_VISITS, means, -np.inf))[::-1][:num_cells]
    order = order[counts[order] >= _MIN_VISITS]
    row, column = np.divmod(order, grid.shape[1])
    return [
        {
            "cell": int(cell),
            "visits": int(counts[cell]),
            "nll_nats": round(float(means[cell]), 3),
            "lat_deg": round(float(grid.lat_edges[i : i + 2].mean()), 5),
            "lng_deg": round(float(grid.lng_edges[j : j + 2].mean()), 5),
        }
        for cell, i, j in zip(order, row, column, strict=True)
    ]


def teacher_soft_labels(run: StageRun) -> dict[str, Any]:
    """Score the candidates of every step of all trips; writes Arrow IPC. Test labels only measure agreement.

    With `distill.labels: online` the teacher itself is written instead, and only the diagnostic sample is scored.
    """
    scorer = soft_label_scorer(run)
    if run.config.distill.labels == "online":
        keep_teacher(run, _load_teacher(run), scorer.tokens)
        summary: dict[str, Any] = {"labels": "online", "window": str(scorer.window)}
    else:
        rows = [_stored(run, split, labels) for split, labels in stored_labels(run, scorer).items()]
        summary = {"steps": sum(row["steps"] for row in rows), "window": str(scorer.window), "splits": rows}
    means = _diagnose(run, scorer)
    remove_seals(run.folder)
    return {**summary, **{f"sample_{name}": round(value, 4) for name, value in means.items()}}


_SHOWN = {
    "candidate_mass": "teacher's probability of the candidates' cells",
    "entropy_nats": "entropy of the next cell (nats)",
    "true_probability": "probability of the true next cell",
}
"""Metrics of the sampled steps that are plotted, with their labels."""


def _diagnose(run: StageRun, scorer: SoftLabelScorer) -> dict[str, float]:
    """Score a sample of validation trips over the whole vocabulary, write files and figures; returns the means."""
    network, trips = scorer.network, load_trips(run, "val")
    sample = diagnose(scorer.model, scorer.tokens, trips, network, scorer.window, half=scorer.half)
    means: dict[str, float] = sample.pop("means")
    np.savez(run.folder / "diagnostics.npz", **sample)
    write_json(run.folder / "diagnostics.json", means)
    figure = plots.histograms({label: sample[name] for name, label in _SHOWN.items()})
    (run.folder / "diagnostics.png").write_bytes(plots.png(figure))
    roads = trips.road_ids[position_of_step(trips, sample["step"])]
    of_road = {label: mean_by_road(roads, sample[name], network.num_roads) for name, label in _SHOWN.items()}
    spans = {label: (0.0, 1.0) for name, label in _SHOWN.items() if name != "entropy_nats"}
    (run.folder / "diagnostics_map.png").write_bytes(plots.png(road_value_maps(network, of_road, spans)))
    return means


def _stored(run: StageRun, split: str, labels: SoftLabels) -> dict[str, Any]:
    size = (run.folder / f"{split}.arrow").stat().st_size
    row = {
        "split": split,
        "steps": len(labels),
        "scores": len(labels.scores),
        "bytes_a_step": round(size / max(len(labels), 1), 1),
    }
    if labels.outside_mass is not None:
        row["mean_outside_mass"] = round(float(labels.outside_mass.mean(dtype=np.float64)), 6)
    return row
