"""The link on a student's page leads to a TensorBoard that shows that student."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest
from homes import wait_until

pytestmark = pytest.mark.xdist_group("dev")
LINKS = """query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(partitions: [$partition], limit: 1) { metadataEntries { label
    ... on UrlMetadataEntry { url } } } } } }"""


@pytest.mark.parametrize(
    ("asset", "partition"), [("distilled_student", "town|1"), ("vanilla_student", "town|0"), ("teacher", "town")]
)
def test_the_link_of_a_training_selects_its_run_alone(dev_town, shared_dev, asset, partition):
    home, server = dev_town
    dev, _ = shared_dev.running()

    def ask(path):
        with urllib.request.urlopen(f"http://localhost:{dev.ports[0]}/tensorboard{path}", timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if path.startswith("/data") else body.decode()

    node = server.query(LINKS, key={"path": [asset]}, partition=partition)["assetNodeOrError"]
    shown = {entry["label"]: entry.get("url") for entry in node["assetMaterializations"][0]["metadataEntries"]}
    link = urlsplit(shown["tensorboard"])
    assert link.fragment == "timeseries"
    assert (link.scheme, link.netloc, link.path) == ("", "", "/tensorboard/")  # at the address of the UI
    (pattern,) = parse_qs(link.query)["runFilter"]

    def selected():
        with contextlib.suppress(OSError):
            return [name for name in ask("/data/runs") if re.search(pattern, name)]
        return []

    (run,) = wait_until(selected, 120, "the training in TensorBoard", every=0.5)
    folder = home.store / run
    assert folder.is_dir()
    assert asset in folder.parts
    expected = {"epoch/val_loss"} if asset == "teacher" else {"epoch/nll", "step/next_step"}

    def complete():
        tags = ask("/data/plugin/timeseries/tags")["scalars"]["runTagInfo"]
        return expected <= set(tags.get(run, ()))

    wait_until(complete, 60, f"{expected} in TensorBoard", every=0.5)
    assert "<title>TensorBoard</title>" in ask("/")
