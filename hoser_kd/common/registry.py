"""Registries of named variants: decoders, source kinds, loss terms, selection rules.

A registry is declared low in the package order (`hoser_kd.config.variants`) and filled by its home module, which
defines the variants. The home module is imported when the registry is first read, so settings are validated against
names that higher packages define without importing those packages together with the schema.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Generic, TypeVar

from hoser_kd.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Registry(Generic[T]):
    """Named variants, in order of registration."""

    def __init__(self, what: str, home: str) -> None:
        """`what` names one variant in error messages; `home` is the module that registers the built-in ones."""
        self.what = what
        self.home = home
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Add a variant and return it. Raises ValueError if the name is already registered."""
        if name in self._items:
            raise ValueError(f"{self.what} {name!r} is already registered")
        self._items[name] = item
        return item

    def unregister(self, name: str) -> None:
        """Remove a variant, for example after a test."""
        self._load()
        del self._items[name]

    def names(self) -> tuple[str, ...]:
        """Return the names of all variants."""
        self._load()
        return tuple(self._items)

    def __getitem__(self, name: str) -> T:
        """Return the variant. Raises ConfigError with the known names and the closest one."""
        self._load()
        if name not in self._items:
            near = difflib.get_close_matches(str(name), self._items, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown {self.what} {name!r}. Known: {', '.join(self._items)}.{hint}")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        """Return whether a variant has this name."""
        self._load()
        return name in self._items

    def _load(self) -> None:
        importlib.import_module(self.home)
