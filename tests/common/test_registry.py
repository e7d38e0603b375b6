"""Registries: lazy loading of the home module, errors with the closest name, and duplicates."""

from __future__ import annotations

import sys

import pytest

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.registry import Registry

HOME = "registry_home_for_tests"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry whose home module registers `search` and `beam` on import."""
    (tmp_path / f"{HOME}.py").write_text(
        "import registries_for_tests\n"
        "for name in ('search', 'beam'):\n"
        "    registries_for_tests.registry.register(name, name.upper())\n"
    )
    registry = Registry("decoder", HOME)
    module = type(sys)("registries_for_tests")
    module.registry = registry
    monkeypatch.setitem(sys.modules, "registries_for_tests", module)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield registry
    sys.modules.pop(HOME, None)


def test_the_home_module_is_imported_on_the_first_read_only(registry):
    assert HOME not in sys.modules
    assert registry["beam"] == "BEAM"
    assert HOME in sys.modules


@pytest.mark.parametrize(
    "read", [Registry.names, tuple, lambda registry: ("search" in registry) and ("search", "beam")]
)
def test_every_way_of_reading_loads_the_home_module(registry, read):
    assert read(registry) == ("search", "beam")


def test_variants_from_outside_keep_their_order(registry):
    registry.register("sampling", "SAMPLING")
    assert registry.names() == ("sampling", "search", "beam")
    registry.unregister("sampling")
    assert "sampling" not in registry


def test_an_unknown_name_is_rejected_with_the_closest_one(registry):
    with pytest.raises(ConfigError, match=r"unknown decoder 'serach'\. Known: search, beam\. Did you mean 'search'\?$"):
        registry["serach"]
    with pytest.raises(ConfigError, match=r"unknown decoder 'xyz'\. Known: search, beam\.$"):
        registry["xyz"]


def test_a_name_cannot_be_registered_twice(registry):
    registry.register("sampling", 1)
    with pytest.raises(ValueError, match="decoder 'sampling' is already registered"):
        registry.register("sampling", 2)
    assert registry["sampling"] == 1
