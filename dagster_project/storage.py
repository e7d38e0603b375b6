"""The database of Dagster's runs and events: whether it can be reached, asked before anything is started."""

from __future__ import annotations

import os

from hoser_kd.common.errors import StoreError

_TIMEOUT_S = 5


def require_database() -> None:
    """Raise StoreError if HOSER_KD_POSTGRES names a database that cannot be reached within 5 s.

    Dagster itself would try for minutes, and end with a traceback.
    """
    address = os.environ.get("HOSER_KD_POSTGRES")
    if not address:
        return
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    shown = "the address in it"
    try:
        url = make_url(address)
        shown = url.render_as_string(hide_password=True)
        with create_engine(url, connect_args={"connect_timeout": _TIMEOUT_S}, poolclass=NullPool).connect():
            pass
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = next(iter(str(getattr(error, "orig", None) or error).splitlines()), type(error).__name__)
        raise StoreError(
            f"HOSER_KD_POSTGRES: {shown} cannot be reached ({reason}). Start the database or correct the address "
            "(postgresql+psycopg2://user:password@host/database); without the variable, runs are kept in SQLite."
        ) from None
