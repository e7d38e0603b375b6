"""Registries of named variants: decoders, source kinds, loss terms, selection rules.

A registry is declared low in the package order (`hoser_kd.config.variants`) and filled by its home module, which
defines the variants. The home module is imported when the registry is first read, so settings are validated against
names that higher packages define without importing those packages together with the schema.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from hoser_kd.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Registry(Generic[T]):
    """Named variants, in order of registration."""

    def __init__(self, what: str, home: str, check: Callable[[str, T], None] | str | None = None) -> None:
        """`what` names one variant in error messages; `home` is the module that registers the built-in ones.

        `check` gets (name, item) before an item is registered and raises TypeError or ValueError for a wrong one. As a
        string, it is the name of a function of the home module, which is then imported at the first registration.
        """
        self.what = what
        self.home = home
        self.check = check
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Add a variant and return it.

        Raises:
            TypeError: the name is not a string, or the item is not of the type of this registry.
            ValueError: the name is empty, has spaces around it or is already registered, or the item is invalid.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a {self.what} is {name!r}, not a string. Call register(name, item), with the name first."
            )
        if not name or name != name.strip():
            raise ValueError(
                f"the name of a {self.what} is {name!r}. Use a name that is not empty, without spaces around."
            )
        check = getattr(importlib.import_module(self.home), self.check) if isinstance(self.check, str) else self.check
        if check is not None:
            check(name, item)
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
