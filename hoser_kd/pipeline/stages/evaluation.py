"""The stage `trajectory_metrics`: metrics of next steps and of generated trips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hoser_kd import hoser
from hoser_kd.common.device import pick_device
from hoser_kd.common.files import write_json
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.comparison import headline_rows
from hoser_kd.evaluation.scenarios import evaluate_scenarios, next_step_by
from hoser_kd.evaluation.trip_values import (
    REQUEST_VALUES,
    STEP_SUMS,
    values_by_test_trip,
    write_request_values,
    write_step_sums,
)
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.generation import load_generated, student_folders
from hoser_kd.pipeline.stages.labels import load_labels
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.student.next_step_metrics import step_table, summarize_steps


def trajectory_metrics(run: StageRun) -> dict[str, Any]:
    """Evaluate both students on the next steps of all test trips and on their generated trips; writes JSON."""
    network, test = load_network(run), load_trips(run, "test")
    generated, requests = load_generated(run.path("generated_trajectories"))
    real = test.take(requests["test_row"]) if "test_row" in requests else test
    [labels] = load_labels(run, "test")
    training = load_trips(run, "train")
    # a run can have trained the student at another temperature than the YAML's
    temperature = float(run.artifact("distilled_student").settings["distillation"]["temperature"])
    results: dict[str, dict[str, Any]] = {}
    for kind, folder in student_folders(run).items():
        model = hoser.load(folder).to(pick_device(run.device))
        steps = step_table(model, test, labels=labels, temperature=temperature, progress=run.progress)
        write_step_sums(run.folder / STEP_SUMS.format(kind=kind), steps.columns, len(test))
        if "test_row" in requests:
            by_trip = values_by_test_trip(test, generated[kind], requests["test_row"], network, run.config.evaluation)
            write_request_values(run.folder / REQUEST_VALUES.format(kind=kind), *by_trip)
        trips = metrics.evaluate(
            real,
            generated[kind],
            network,
            run.config.evaluation,
            destinations=requests["destination"],
            training=training,
            paired="test_row" in requests,
        )
        od_pairs = requests["origin"], requests["start_time"], requests["destination"]
        results[kind] = {
            "next_step": summarize_steps(steps),
            "trips": trips,
            "scenarios": evaluate_scenarios(
                real,
                generated[kind],
                network,
                run.config.evaluation,
                requests=od_pairs,
                training=training,
                paired="test_row" in requests,
            ),
            "next_step_by": next_step_by(steps, test, network, run.config.evaluation),
        }
    write_json(run.folder / "metrics.json", results)
    return {"test_trips": len(test), "generated_trips": len(real), "comparison": comparison_rows(results)}


def comparison_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the short comparison: a row per headline metric, a column per student."""
    return headline_rows(
        {
            kind: {
                **{f"next_step.{name}": value for name, value in result["next_step"].items()},
                **metrics.flatten(result["trips"]),
            }
            for kind, result in results.items()
        }
    )
