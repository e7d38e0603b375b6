"""The pool `gpu`: as many steps at a time as the instance allows it, one unless set otherwise.

Dagster counts a pool's places in its database. SQLite has no row locks, so two runs that ask within milliseconds can
both be told that the last place is theirs; the database remembers one of them.
"""

import dagster as dg

POOL = "gpu"
_OFTEN = 100
"""To lose again takes another coincidence; the number is there because Dagster asks for one."""


def wait_for_place(context: dg.AssetExecutionContext) -> None:
    """Return if this step has the place it was given, or needs none; else have Dagster queue it again.

    Raises:
        dagster.RetryRequested: the place is another run's.
    """
    if context.assets_def.op.pool != POOL:
        return
    pool = context.instance.event_log_storage.get_concurrency_info(POOL)
    held = {(slot.run_id, slot.step_key) for slot in pool.claimed_slots}
    if pool.slot_count and (context.run.run_id, str(context.op_execution_context.op_handle)) not in held:
        context.log.info("Another run has got the last place in the pool %s; this step waits for the next one.", POOL)
        raise dg.RetryRequested(max_retries=_OFTEN)
