"""A console logger for runs started in a terminal: the step's name and its message."""

import logging
import sys

import dagster as dg


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        message = meta.get("orig_message") or record.getMessage()
        return f"      {meta.get('step_key') or ''}: {message}"


@dg.logger(None, description="Prints step and message from the level INFO, without Dagster's own events.")
def plain_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger. Dagster's own events are at the level DEBUG and therefore not printed."""
    logger = logging.getLogger("hoser_kd.plain")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PlainFormatter())
        logger.addHandler(handler)
    return logger
