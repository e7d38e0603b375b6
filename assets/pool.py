"""The pool `gpu` limits how many model steps run at the same time: one, unless the instance sets another limit.

Dagster keeps the slots of a pool in its database. SQLite has no row locks, so two runs that claim a slot within
milliseconds can both be granted the last one, while the database records only one of them.

The limit counts the steps of all machines of an instance. Which of them run on the same machine is counted there
(`hoser_kd.common.machine_slots`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import dagster as dg

from hoser_kd.common.machine_slots import machine_slots
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.stage import Stage

POOL = "gpu"
_MAX_RETRIES = 100
"""Required by Dagster. Losing a slot again takes another coincidence, so the limit is never reached in practice."""


def num_slots(instance: dg.DagsterInstance) -> int:
    """Return how many steps of the pool run at the same time; 1 if the instance sets no limit."""
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    return limits.get(POOL) or instance.get_concurrency_config().pool_config.default_pool_limit or 1


def wait_for_slot(context: dg.AssetExecutionContext) -> None:
    """Return if this step holds its pool slot, or needs none; otherwise re-queue the step.

    Raises:
        dagster.RetryRequested: the database records the slot for another run.
    """
    if context.assets_def.op.pool != POOL:
        return
    pool = context.instance.event_log_storage.get_concurrency_info(POOL)
    claimed = {(slot.run_id, slot.step_key) for slot in pool.claimed_slots}
    if pool.slot_count and (context.run.run_id, str(context.op_execution_context.op_handle)) not in claimed:
        context.log.info("The last slot of the pool %s was claimed by another run; this step is queued again.", POOL)
        raise dg.RetryRequested(max_retries=_MAX_RETRIES)


def slots_of(
    stage: Stage, settings: CityConfig, device: str, log: Callable[[str], object]
) -> AbstractContextManager[str]:
    """Return a context that holds the slots of this machine which a stage needs, and yields its device."""
    if not stage.uses_model:
        return nullcontext(device)
    processes = {"student": settings.student.num_processes, "teacher": 1}
    if stage.name == "teacher":
        processes["teacher"] = settings.teacher.num_processes
    if stage.name == "teacher_soft_labels":
        processes["teacher"] = settings.distill.label_processes
    return machine_slots(device, processes.get(stage.group, 1), log)
