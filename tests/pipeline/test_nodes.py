"""Trainings across machines: settings, command line, and two network namespaces that stand for two hosts.

`deploy/torchrun/two_hosts.py` also compares bit by bit with two processes on one machine, and kills a host.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest
import torch

from assets.stage_asset import stage_asset
from dagster_project.resources import ArtifactIOManager, Pipeline
from hoser_kd.cli import main
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.loading import with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.torchrun import TorchrunConfig
from hoser_kd.pipeline.plan import plan
from hoser_kd.pipeline.run import check_steps
from hoser_kd.pipeline.settings import SETTINGS
from hoser_kd.pipeline.workers.nodes import NODES, RENDEZVOUS, Nodes

FILE = Path(__file__).resolve().parents[2] / "deploy" / "torchrun" / "two_hosts.py"


def two_hosts_module():
    spec = importlib.util.spec_from_file_location("two_hosts", FILE)
    module = sys.modules["two_hosts"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_machine_is_the_default_and_no_stage_depends_on_the_machines():
    assert Nodes.of(TorchrunConfig(), {}).torchrun_options() == ["--standalone"]
    assert "torchrun" not in {section.section for section in SETTINGS.values()}


def test_the_environment_overrides_the_settings():
    config = TorchrunConfig(nodes=2, rendezvous="host0:29500", join_timeout_s=7)
    assert Nodes.of(config, {}) == Nodes(2, 0, "host0:29500", 7)
    nodes = Nodes.of(config, {NODES: "3", RENDEZVOUS: "10.0.0.1:4000"})
    options = nodes.torchrun_options()
    assert options[options.index("--nnodes") + 1] == "3"
    assert options[options.index("--rdzv-endpoint") + 1] == "10.0.0.1:4000"
    assert options[options.index("--node-rank") + 1] == "0"
    assert "timeout=7" in options


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({NODES: "2"}, "address of the first one is missing"),
        ({NODES: "many", RENDEZVOUS: "host0:1"}, "expected a number"),
        ({NODES: "2", RENDEZVOUS: "host0"}, "address host:port"),
    ],
)
def test_machines_that_cannot_meet_are_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        Nodes.of(TorchrunConfig(), environment)


CITY = CityConfig(city="town", source={"kind": "synthetic"}, grid={"bounds": "roads", "cell_size_m": 80})
OFF_PATH = with_changes(CITY, {"distill.recipe": ["off_path"]})


def test_several_machines_with_off_path_are_refused_before_the_first_stage(monkeypatch):
    monkeypatch.setenv(NODES, "2")
    monkeypatch.setenv(RENDEZVOUS, "host0:29500")
    steps = plan(["distillation_report"], config=OFF_PATH)
    with pytest.raises(ConfigError, match=r"HOSER_KD_NODES=2: .* `distill.recipe` of town has off_path.* Unset HOSER"):
        check_steps(steps, OFF_PATH)
    check_steps(plan(["distillation_report"], config=CITY), CITY)
    check_steps(plan(["vanilla_student"], config=OFF_PATH), OFF_PATH)
    disabled = with_changes(OFF_PATH, {"distill.enabled": False})
    check_steps(plan(["distillation_report"], config=disabled), disabled)
    monkeypatch.setenv(NODES, "1")
    check_steps(steps, OFF_PATH)


def test_dagster_refuses_them_in_the_first_stage(monkeypatch, tmp_path):
    monkeypatch.setenv(NODES, "2")
    monkeypatch.setenv(RENDEZVOUS, "host0:29500")
    (tmp_path / "town.yaml").write_text("source: {kind: synthetic}\ndistill: {recipe: [off_path]}\n")
    pipeline = Pipeline(config_folder=str(tmp_path), store_root=str(tmp_path / "store"))
    resources = {"pipeline": pipeline, "artifacts": ArtifactIOManager(pipeline)}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("city", ["town"])
        with pytest.raises(dg.Failure, match="HOSER_KD_NODES=2: the students train on 2 machines"):
            dg.materialize([stage_asset("source_files")], partition_key="town", instance=instance, resources=resources)
    assert not (tmp_path / "store").exists()


def test_trainings_of_one_machine_use_a_rendezvous_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = Nodes(2, 0, "host0:1")
    order = []

    def second():
        with Nodes(2, 0, "host0:1").one_training():
            order.append("second")

    with first.one_training(), Nodes(2, 0, "host0:2").one_training(), Nodes(2, 1, "host0:1").one_training():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", "2", "--rendezvous", "host0:1", "--node-rank", "0"], "is not the number of a further machine"),
        (["--nodes", "2", "--rendezvous", "host0:1", "--node-rank", "2"], "1 to 1"),
        (["--node-rank", "1"], "nothing to join"),
    ],
)
def test_join_names_what_is_wrong(options, message, capsys, monkeypatch):
    monkeypatch.delenv(NODES, raising=False)
    assert main(["join", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_student_trained_on_two_hosts_is_that_of_one(tmp_path):
    hosts = two_hosts_module()
    if reason := hosts.why_not():
        pytest.skip(reason)
    town = hosts.write_town(tmp_path / "town", epochs=2)
    with hosts.two_hosts() as both:
        hosts.train_on_both(both, "vanilla_student", town, tmp_path / "two")
        assert both[0].sent_bytes() > 100_000
    assert "a training at 10.77.0.1:29500 has ended" in (tmp_path / "town" / "b.log").read_text()
    assert (
        main(["make", "vanilla_student", "--config", str(town), "--store", str(tmp_path / "one"), "--cuda", "-1"]) == 0
    )
    ours, theirs = (hosts.weights(tmp_path / name, "vanilla_student") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-3)
