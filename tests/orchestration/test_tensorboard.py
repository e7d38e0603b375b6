"""The link on a student's page leads to a TensorBoard that shows that student."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest
from homes import free_port, start_module, wait_until

pytestmark = pytest.mark.xdist_group("town")
LINKS = """query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(partitions: [$partition], limit: 1) { metadataEntries { label
    ... on UrlMetadataEntry { url } } } } } }"""


@pytest.fixture(scope="module")
def board(town):
    """Queries TensorBoard, started as `make dev` does over the town's store."""
    port = free_port()
    with start_module(town, "dagster_project.tensorboard", "--port", str(port)) as process:

        def ask(path):
            with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=30) as answer:
                body = answer.read()
            return json.loads(body) if path.startswith("/data") else body.decode()

        def complete():
            assert process.poll() is None, (town.root / "dagster_project.tensorboard.log").read_text()
            with contextlib.suppress(OSError):
                return len(ask("/data/runs")) == 5  # a teacher, two students of two seeds
            return False

        wait_until(complete, 120, "five trainings in TensorBoard")
        yield ask


@pytest.mark.parametrize(
    ("asset", "partition"), [("distilled_student", "town|1"), ("vanilla_student", "town|0"), ("teacher", "town")]
)
def test_the_link_of_a_training_selects_its_run_alone(town, town_server, board, asset, partition):
    node = town_server.query(LINKS, key={"path": [asset]}, partition=partition)["assetNodeOrError"]
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
