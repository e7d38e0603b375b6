"""Metadata of an artifact, as the UI shows it."""

from __future__ import annotations

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from assets import showing
from assets.showing import show, table_entry
from hoser_kd.pipeline.store import Artifact


def test_rows_with_different_keys_become_one_table():
    """Dagster refuses a table whose records differ in their fields."""
    table = table_entry([{"warning": "few steps", "epoch": 3}, {"warning": "last epoch is the best", "share": 0.5}])
    assert isinstance(table, dg.TableMetadataValue)
    assert [column.name for column in table.schema.columns] == ["warning", "epoch", "share"]
    assert table.records[0].data == {"warning": "few steps", "epoch": 3, "share": None}
    assert table.records[1].data == {"warning": "last epoch is the best", "epoch": None, "share": 0.5}


def test_a_report_begins_with_its_city_the_verdict_and_the_links(tmp_path, monkeypatch):
    monkeypatch.delenv("HOSER_KD_STORE", raising=False)
    monkeypatch.setattr(showing, "run_table", lambda *_: [{"student": "vanilla", "seeds": "0 1"}])
    folder = tmp_path / "town" / "distillation_report" / "0123"
    folder.mkdir(parents=True)
    for name in ("report.html", "map.html", "curves.png"):
        (folder / name).write_bytes(b"x")
    pq.write_table(pa.table({"trajectory_id": ["a", "b"]}), folder / "real.parquet")
    summary = {"seeds": "0, 1", "num_seeds": 2, "comparison": [{"metric": "nll", "vanilla": 1.0}], "verdict": "Helps."}
    metadata = show(Artifact("distillation_report", "town", None, "0123", folder, summary=summary))
    first = ["city", "verdict", "report", "map", "curves (file)", "files", "comparison", "all_runs", "seeds"]
    assert list(metadata)[: len(first)] == first
    assert (metadata["city"], metadata["verdict"]) == ("town", "Helps.")  # text, shown without a click
    # the UI draws these above the verdict
    assert "dagster/column_schema" not in metadata
    assert "dagster/row_count" not in metadata
    assert "columns of real.parquet" in metadata
    assert metadata["map"].url.endswith("/town/distillation_report/0123/map.html")
    assert list(metadata).index("size_mib") > list(metadata).index("comparison")


def test_the_verdict_on_each_task_is_visible_by_itself(tmp_path):
    verdict = "Next road: distilled is better. Trips: no clear difference, behind it.\nNext road: 0.2755 nat."
    metadata = show(Artifact("distillation_report", "town", None, "0123", tmp_path, summary={"verdict": verdict}))
    expected = {"next_road": "distilled is better", "trips": "no clear difference, behind it.", "verdict": verdict}
    assert list(metadata.items())[1:4] == list(expected.items())


def test_a_student_names_city_and_seed(tmp_path):
    metadata = show(Artifact("vanilla_student", "town", 3, "0123", tmp_path, summary={"steps": 7}))
    assert list(metadata)[:2] == ["city", "seed"]
    assert (metadata["city"], metadata["seed"]) == ("town", 3)
