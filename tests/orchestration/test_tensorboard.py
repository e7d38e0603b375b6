"""The link on a student's page leads to a TensorBoard that shows that student."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest

LINKS = """query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(partitions: [$partition], limit: 1) { metadataEntries { label
    ... on UrlMetadataEntry { url } } } } } }"""


@pytest.fixture
def board(town, beside):
    """TensorBoard as `make dev` starts it, over the town's store."""
    process, port = beside(town, "dagster_project.tensorboard")

    def ask(path):
        with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if path.startswith("/data") else body.decode()

    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            if len(ask("/data/runs")) == 5:  # a teacher, two students of two seeds
                return ask
        assert process.poll() is None, (town.root / "dagster_project.tensorboard.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("asset", "partition"), [("distilled_student", "town|1"), ("vanilla_student", "town|0"), ("teacher", "town")]
)
def test_the_link_of_a_training_names_its_run_alone(town, serve, board, asset, partition):
    node = serve(town).query(LINKS, key={"path": [asset]}, partition=partition)["assetNodeOrError"]
    shown = {entry["label"]: entry.get("url") for entry in node["assetMaterializations"][0]["metadataEntries"]}
    link = urlsplit(shown["tensorboard"])
    assert (link.scheme, link.netloc, link.path, link.fragment) == ("http", "localhost:6006", "/", "timeseries")
    (pattern,) = parse_qs(link.query)["runFilter"]
    (run,) = [name for name in board("/data/runs") if re.search(pattern, name)]
    folder = town.store / run
    assert folder.is_dir()
    assert asset in folder.parts
    tags = board("/data/plugin/timeseries/tags")["scalars"]["runTagInfo"][run]
    assert "epoch/val_loss" in tags if asset == "teacher" else {"epoch/nll", "step/next_step"} <= set(tags)
    assert "<title>TensorBoard</title>" in board("/")
