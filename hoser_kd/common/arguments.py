"""Checks of the arguments of public functions; each message ends with the right call."""

from __future__ import annotations

from os import PathLike


def check_path(name: str, value: object, call: str) -> None:
    """Raise TypeError unless the argument is a path; `call` is the right call, as code."""
    if not isinstance(value, str | PathLike):
        raise TypeError(f"{name} is of type {type(value).__name__}, not a path. Call {call}.")


def check_kind(name: str, value: object, kind: type, call: str) -> None:
    """Raise TypeError unless the argument is of this class; `call` is the right call, as code."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}, not {kind.__name__}. Call {call}.")


def check_choice(name: str, value: object, choices: tuple[str, ...], call: str) -> None:
    """Raise ValueError unless the argument is one of these words; `call` is the right call, as code."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}. Call {call}.")
