"""A console logger for runs a person starts in a terminal: the step's name and what it says, nothing else."""

import logging
import sys

import dagster as dg


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        said = meta.get("orig_message") or record.getMessage()
        return f"      {meta.get('step_key') or ''}: {said}"


@dg.logger(description="Step and message, from the level INFO.")
def plain_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger; Dagster's own events, which are at DEBUG, do not show."""
    logger = logging.getLogger("hoser_kd.plain")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Plain())
        logger.addHandler(handler)
    return logger
