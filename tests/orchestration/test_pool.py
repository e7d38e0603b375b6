"""The pool `gpu` when the database has given its last slot to two runs."""

import threading
import time
import uuid

import dagster as dg

from assets.pool import POOL, wait_for_slot


def test_a_step_that_lost_its_slot_to_another_run_is_queued_again_and_runs_once(tmp_path):
    (tmp_path / "dagster.yaml").write_text("concurrency: {pools: {default_limit: 1}}\ntelemetry: {enabled: false}\n")
    other = str(uuid.uuid4())
    entered, held_while_working = [], []

    @dg.asset(pool=POOL)
    def student(context: dg.AssetExecutionContext) -> int:
        places = context.instance.event_log_storage
        entered.append(time.monotonic())
        if len(entered) == 1:  # the database gave the slot to the other run as well, and counts it as that run's
            places.free_concurrency_slot_for_step(context.run.run_id, "student")
            assert places.claim_concurrency_slot(POOL, other, "student").is_claimed
            threading.Timer(1, places.free_concurrency_slots_for_run, [other]).start()
        wait_for_slot(context)
        held_while_working.append([slot.run_id for slot in places.get_concurrency_info(POOL).claimed_slots])
        return 1

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        result = dg.materialize([student], instance=instance)
        assert result.success
        assert held_while_working == [[result.run_id]]
        assert len(entered) == 2
        assert entered[1] - entered[0] >= 1
        assert not instance.event_log_storage.get_concurrency_info(POOL).claimed_slots


def test_without_a_limit_a_step_runs_at_once(tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    @dg.asset(pool=POOL)
    def student(context: dg.AssetExecutionContext) -> int:
        wait_for_slot(context)
        return 1

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([student], instance=instance).success
    assert dg.materialize([student]).success
