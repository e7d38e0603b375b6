"""The job `verify_store` and its schedule: all files of the store against the digests in their records.

What belongs here: when the store is verified, and how a run shows the result. What does not: the verification
(`hoser_kd.pipeline.verification`), which `hoser-kd verify` runs too.
"""

import dagster as dg

from hoser_kd.common.errors import HoserKdError


@dg.op(
    required_resource_keys={"pipeline"},
    description="Reads every file of the store and compares it with the digest in the record of its artifact.",
)
def compare_with_digests(context: dg.OpExecutionContext) -> None:
    """Fail with a sentence per damaged artifact."""
    from hoser_kd.pipeline.verification import verify_store as verify

    try:
        result = verify(context.resources.pipeline.store())
    except HoserKdError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(result.summary)
    if result.damaged:
        raise dg.Failure("\n".join(result.damaged), metadata={"damaged": len(result.damaged)}, allow_retries=False)


@dg.job(
    executor_def=dg.in_process_executor,
    description="Compare all files of the store with the digests in their records. Fails if a file is missing or has "
    "changed, and names it; materialize that asset again. Writes nothing.",
)
def verify_store() -> None:
    """Verify the whole store."""
    compare_with_digests()


weekly_verification = dg.ScheduleDefinition(
    name="weekly_verification",
    job=verify_store,
    cron_schedule="30 3 * * 6",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Saturdays at 3:30 UTC: launches verify_store, which finds files that a failing disk has changed.",
)
