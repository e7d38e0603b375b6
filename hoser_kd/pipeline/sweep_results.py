"""Results of a sweep: a row per trial, importances, the best settings as a YAML patch, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from hoser_kd import plots
from hoser_kd.common.files import atomic_path, write_json
from hoser_kd.config.study import patch_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.pipeline.sweep import Sweep

PATCH_FILE, RESULTS_FILE = "best.yaml", "results.json"
FIGURES = ("parallel_coordinates.png", "importances.png")


@dataclass(frozen=True)
class SweepResult:
    """What a study has found so far."""

    folder: Path
    """Folder of the study, with `best.yaml`, `results.json` and the figures."""
    metric: str
    """Name of the metric."""
    num_trials: int
    """Number of trials that the study has when it is finished."""
    rows: list[dict[str, Any]]
    """Finished trials, the best first: `trial`, the metric, the searched settings, `seconds`. Failed trials are last,
    with `error`."""
    importances: Mapping[str, float]
    """Share of the metric's variance by setting, which sums to 1 (PED-ANOVA, Watanabe et al., IJCAI 2023); empty with
    fewer than two different results."""
    best: Mapping[str, Any] | None
    """Searched settings of the best trial; None if all failed."""

    @property
    def num_failed(self) -> int:
        """Number of failed trials."""
        return sum("error" in row for row in self.rows)

    @property
    def is_finished(self) -> bool:
        """Whether all trials are finished."""
        return len(self.rows) >= self.num_trials


def write_results(sweep: Sweep) -> SweepResult:
    """Write the results of all finished trials to the folder of the study and return them."""
    result = results_of(sweep)
    record = {
        "study": sweep.study.model_dump(mode="json"),
        "num_trials": result.num_trials,
        "trials": result.rows,
        "importances": dict(result.importances),
        "best": None if result.best is None else dict(result.best),
    }
    write_json(sweep.folder / RESULTS_FILE, record)
    if result.best is not None:
        done = [row for row in result.rows if "error" not in row]
        head = f"# Best of {len(done)} trials of the study {sweep.name} on {sweep.config.city}: {result.metric} "
        with atomic_path(sweep.folder / PATCH_FILE) as beside:
            beside.write_text(f"{head}{done[0][result.metric]:.6g}\n{patch_of(result.best)}", encoding="utf-8")
        figures = _figures(sweep, result, done)
        for name, figure in zip(FIGURES, figures, strict=True):
            (sweep.folder / name).write_bytes(plots.png(figure))
    return result


def results_of(sweep: Sweep) -> SweepResult:
    """Return the results of all finished trials; nothing is written."""
    metric, minimize = sweep.study.metric, sweep.study.direction == "minimize"
    trials = sweep.trials.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    done.sort(key=lambda trial: (_value(trial) if minimize else -_value(trial), trial.number))
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and "error" in trial.user_attrs]
    rows = [
        {
            "trial": trial.number,
            metric: _value(trial),
            **sweep.settings_of(trial),
            "seconds": trial.user_attrs["seconds"],
        }
        for trial in done
    ]
    rows += [
        {"trial": trial.number, **sweep.settings_of(trial), "error": trial.user_attrs["error"]} for trial in failed
    ]
    varied = len({_value(trial) for trial in done}) > 1
    importances = get_param_importances(sweep.trials) if varied else {}
    best = sweep.settings_of(done[0]) if done else None
    return SweepResult(sweep.folder, metric, sweep.num_trials, rows, importances, best)


def _figures(sweep: Sweep, result: SweepResult, done: list[dict[str, Any]]) -> tuple[Any, Any]:
    columns = {key: [row[key] for row in done] for key in sweep.study.search}
    values = [row[result.metric] for row in done]
    lines = plots.parallel_coordinates(
        columns, result.metric, values, lower_is_better=sweep.study.direction == "minimize"
    )
    return lines, plots.importances(result.importances)


def _value(trial: FrozenTrial) -> float:
    value = trial.value
    assert value is not None
    return value
