"""The stage `ceilings`: pools of student, teacher and Markov chain over all comparable seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hoser_kd import hoser
from hoser_kd.common.device import pick_device
from hoser_kd.common.files import write_json
from hoser_kd.evaluation.ceilings import CEILING, CONTROL, Splits, interval_text, measure_ceilings, summary_rows
from hoser_kd.hoser.checkpoint import CONFIG_FILE
from hoser_kd.network.markov import MarkovChain
from hoser_kd.pipeline.seed_selection import comparable_seeds
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.labels import load_labels
from hoser_kd.pipeline.stages.network import load_network, load_trips
from hoser_kd.student.pools import markov_probabilities, student_probabilities, teacher_probabilities

CEILINGS_FILE = "ceilings.json"


def ceilings(run: StageRun) -> dict[str, Any]:
    """Fit the pools of all comparable seeds on validation and measure them on test; writes `ceilings.json`."""
    seeds = comparable_seeds(run)
    network, trips = load_network(run), [load_trips(run, split) for split in ("val", "test")]
    chain = MarkovChain.tune(load_trips(run, "train"), trips[0], network)
    labels = load_labels(run, "val", "test")
    num_models = 2 * len(seeds.seeds)

    def students(stage: str, done: int) -> Iterator[tuple[int, Splits]]:
        for place, seed in enumerate(seeds.seeds):
            folder = run.seeds(stage)[seed].path
            if (folder / CONFIG_FILE).is_file():  # none if the city's YAML switches distillation off
                model = hoser.load(folder).to(pick_device(run.device))
                yield seed, Splits(*(student_probabilities(model, part, network) for part in trips))
            run.progress("students", done + place + 1, num_models)

    measured = measure_ceilings(
        dict(students("vanilla_student", 0)),
        dict(students("distilled_student", len(seeds.seeds))),
        Splits(*(teacher_probabilities(own, part, network) for own, part in zip(labels, trips, strict=True))),
        Splits(*(markov_probabilities(chain, part) for part in trips)),
    )
    content = {
        "seeds": list(seeds.seeds),
        "left_out": list(seeds.left_out),
        "markov": {"order": chain.order, "smoothing": chain.smoothing},
        **measured.to_json(),
    }
    write_json(run.folder / CEILINGS_FILE, content)
    return _summary(content)


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of the artifact: the table, and the shares of the gap that distillation closes."""
    gap, beyond = content["share_of_gap_closed"] or {}, content["teacher_beyond_markov"]
    shares = {
        key: round(gap[name]["share"], 4)
        for key, name in (("share_of_gap_closed", CEILING), ("share_of_control_gap_closed", CONTROL))
        if name in gap and gap[name]["share"] is not None
    }
    return {
        "seeds": ", ".join(map(str, content["seeds"])),
        "num_seeds": len(content["seeds"]),
        "left_out": content["left_out"],
        "ceilings": summary_rows(content["rows"]),
        **shares,
        "teacher_beyond_markov_nll": round(beyond["nll"], 4),
        "teacher_beyond_markov_over_test_trips": interval_text(beyond["trips"]),
        "notes": " ".join(content["notes"]),
    }
