"""Registries: lazy loading of the home module, errors with the closest name, and checks of names and items."""

from __future__ import annotations

import sys

import pytest

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.registry import Registry
from hoser_kd.config.variants import DECODERS, LOSS_TERMS, SELECTION_RULES, SOURCE_KINDS
from hoser_kd.generation.decoding import DecoderSpec, Search
from hoser_kd.network.sources import SyntheticCity
from hoser_kd.student.losses import LossTerm
from hoser_kd.student.model_selection import SelectionRule

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


@pytest.mark.parametrize(
    ("name", "error"), [(1, TypeError), (None, TypeError), ("", ValueError), (" beam", ValueError)]
)
def test_a_name_is_a_string_that_is_not_empty(registry, name, error):
    with pytest.raises(error, match="the name of a decoder is"):
        registry.register(name, 1)
    assert registry.names() == ("search", "beam")


def test_an_item_that_fails_the_check_is_not_registered():
    def check(name, item):
        if not isinstance(item, int):
            raise TypeError(f"{name} is {item!r}, not an integer")

    numbers = Registry("number", __name__, check)
    numbers.register("one", 1)
    with pytest.raises(TypeError, match="two is '2', not an integer"):
        numbers.register("two", "2")
    assert numbers.names() == ("one",)


class _NoUpdate:
    def next_nodes(self):
        return []


def _text(_):
    return "text"


@pytest.mark.parametrize(
    ("registry", "item", "message"),
    [
        (DECODERS, Search, r"not a DecoderSpec\. Call DECODERS.register\('mine', DecoderSpec\("),
        (DECODERS, DecoderSpec(_NoUpdate, "mine", _text), r"class _NoUpdate of decoder 'mine' has no method update"),
        (DECODERS, DecoderSpec("search", "mine", _text), "trip_class of decoder 'mine' is 'search', not a class"),
        (DECODERS, DecoderSpec(Search, "mine", "text"), "describe of decoder 'mine' is 'text', not a function"),
        (DECODERS, DecoderSpec(Search, "mine", _text, nodes_per_round=8), "nodes_per_round of decoder 'mine' is 8"),
        (DECODERS, DecoderSpec(Search, None, _text), "summary of decoder 'mine' is None, not a string"),
        (SOURCE_KINDS, SyntheticCity, r"instance: SOURCE_KINDS.register\('mine', SyntheticCity\(\)\)"),
        (SOURCE_KINDS, "folder", "'folder', not a SourceKind"),
        (LOSS_TERMS, LossTerm("mine", 1.0, _text, _text), "not a function. Register a function of the LossContext"),
        (LOSS_TERMS, 0.5, "loss term 'mine' is 0.5, not a function"),
        (SELECTION_RULES, _text, r"not a SelectionRule\. Call SELECTION_RULES.register"),
        (SELECTION_RULES, SelectionRule("nll", "mine"), "must be functions of the metrics"),
        (SELECTION_RULES, SelectionRule(_text, "mine", tie_break="nll"), "must be functions of the metrics"),
    ],
)
def test_each_registry_refuses_items_of_another_kind(registry, item, message):
    with pytest.raises(TypeError, match=message):
        registry.register("mine", item)
    assert "mine" not in registry
