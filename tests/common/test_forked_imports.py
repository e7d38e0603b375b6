"""Imports before a fork: no collection meanwhile, and as before afterwards."""

from __future__ import annotations

import gc

import pytest

from hoser_kd.common.forked_imports import imports_before_fork


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_during_imports_nor_visited_after_them():
    with imports_before_fork():
        with imports_before_fork():
            pass
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert not {id(each) for each in kept} & {id(each) for each in gc.get_objects()}


def test_collections_go_on_after_a_failed_import():
    with pytest.raises(ImportError), imports_before_fork():
        raise ImportError
    assert gc.isenabled()
