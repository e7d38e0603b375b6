"""Sweep group: studies over the settings of a city, run trial by trial on the artifacts of the other groups.

What belongs here: launching a study and showing its results. What does not: the trials (`hoser_kd.pipeline.sweep`),
whose artifacts are in the store but not in the lineage, because they are not those of the city's YAML.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.gpu_limits import gpu_tags_of_step
from assets.orphans import end_with_run
from assets.partitions import city_partitions
from assets.pool import POOL, wait_for_slot
from assets.showing import figure_entry, table_entry
from hoser_kd.common.errors import HoserKdError
from hoser_kd.common.progress import TimedLines


class RunSweep(dg.Config):
    """Which study a run works on."""

    study: str = Field(default="lambda", description="Name of a study in the folder `studies` beside the cities' YAML.")
    trials: int | None = Field(default=None, description="Number of trials of the study; default: that of its YAML.")
    device: str = Field(
        default="auto", description="`auto` uses a GPU if there is one; `cpu`, `cuda` or `cuda:<n>` select a device."
    )


@dg.asset(
    name="sweep",
    group_name="sweep",
    description="A study over settings of the city, such as the weight of the distillation term: trials on validation "
    "trips, the importance of each setting, and the best settings as a YAML patch. Choose the study in the launchpad. "
    "Finished trials of earlier runs are kept; runs and `hoser-kd sweep` can work on one study at a time.",
    kinds={"optuna"},
    deps=["teacher_soft_labels", "zone_transitions"],
    partitions_def=city_partitions,
    required_resource_keys={"pipeline"},
    code_version="1",
    pool=POOL,
    op_tags=gpu_tags_of_step(),
)
def sweep(context: dg.AssetExecutionContext, config: RunSweep) -> dg.MaterializeResult[None]:
    """Run the trials of a study that are left, and show all."""
    # imported here, so that the definitions load without torch
    from hoser_kd.config.study import find_study, load_study
    from hoser_kd.pipeline.sweep import Sweep
    from hoser_kd.pipeline.sweep_results import write_results

    end_with_run()
    wait_for_slot(context)
    pipeline = context.resources.pipeline
    try:
        file = find_study(config.study, Path(pipeline.config_folder))
        study = load_study(file)
        if config.trials is not None:
            study = study.model_copy(update={"trials": config.trials})
        trials = Sweep(file.stem, study, pipeline.config(context.partition_key), pipeline.store())

        def on_trial(trial: Any) -> None:
            outcome = trial.user_attrs.get("error") or f"{study.metric} {trial.value:.5g}"
            context.log.info("trial %s: %s: %s", trial.number, trials.settings_of(trial), outcome)

        trials.work(progress=TimedLines(context.log.info), device=config.device, on_trial=on_trial)
        result = write_results(trials)
    except HoserKdError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    return dg.MaterializeResult(metadata=sweep_shown(file.stem, result))


def sweep_shown(name: str, result: Any) -> dict[str, Any]:
    """Return the metadata of a study, from its `SweepResult`: figures, patch, trials."""
    from hoser_kd.pipeline.sweep_results import FIGURES, PATCH_FILE

    shown: dict[str, Any] = {"study": name, "metric": result.metric, "trials": len(result.rows)}
    shown["failed_trials"] = result.num_failed
    if result.best is not None:
        shown["best"] = float(result.rows[0][result.metric])
        patch = (result.folder / PATCH_FILE).read_text(encoding="utf-8")
        shown["best_settings"] = dg.MetadataValue.md(f"```yaml\n{patch}```")
        shown |= {
            Path(each).stem: figure_entry(Path(each).stem, (result.folder / each).read_bytes()) for each in FIGURES
        }
    if result.rows:
        shown["trial_table"] = table_entry(result.rows[:50])
    return {**shown, "folder": dg.MetadataValue.path(str(result.folder))}
