"""Metadata of an artifact, as the UI shows it."""

from __future__ import annotations

import dagster as dg

from assets.showing import _table


def test_rows_with_different_keys_become_one_table():
    """Dagster refuses a table whose records differ in their fields."""
    table = _table([{"warning": "few steps", "epoch": 3}, {"warning": "last epoch is the best", "share": 0.5}])
    assert isinstance(table, dg.TableMetadataValue)
    assert [column.name for column in table.schema.columns] == ["warning", "epoch", "share"]
    assert table.records[0].data == {"warning": "few steps", "epoch": 3, "share": None}
    assert table.records[1].data == {"warning": "last epoch is the best", "epoch": None, "share": 0.5}
