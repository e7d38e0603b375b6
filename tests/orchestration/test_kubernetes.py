"""Kubernetes: the pods that Dagster starts for runs and steps, and the image they run in.

No cluster runs here. The objects that the run launcher and the executor would create are built by dagster-k8s from the
values of the chart, and validated against the API of Kubernetes.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.gpu_limits import TAG, VARIABLE, gpu_tags_of_run
from assets.stage_asset import stage_asset
from dagster_project.jobs import jobs_of
from hoser_kd.common.errors import ConfigError
from hoser_kd.pipeline.graph import STAGES

ROOT = Path(__file__).resolve().parents[2]
VALUES = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "values.yaml").read_text())
[DEPLOYMENT] = VALUES["dagster-user-deployments"]["deployments"]
API_VERSION = "1.33"
ONE_GPU = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}


def op_tags(name):
    return stage_asset(name).op.tags


def test_only_steps_with_a_model_have_gpu_limits_and_only_if_they_are_switched_on(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert all(TAG not in op_tags(name) for name in STAGES)
    monkeypatch.setenv(VARIABLE, "1")
    tagged = {name for name in STAGES if TAG in op_tags(name)}
    assert tagged == {name for name, stage in STAGES.items() if stage.uses_model}
    assert "teacher" in tagged
    assert "road_network" not in tagged


@pytest.mark.parametrize(("executor", "in_run"), [("k8s", False), ("multiprocess", True), ("", True)])
def test_the_pod_of_a_run_has_gpus_only_where_its_steps_run_in_it(monkeypatch, executor, in_run):
    monkeypatch.setenv(VARIABLE, "amd.com/gpu=2")
    monkeypatch.setenv("HOSER_KD_EXECUTOR", executor)
    tags = {job.name: job.tags for job in jobs_of(ROOT / "config")}
    assert {name for name, tag in tags.items() if TAG in (tag or {})} == (
        {"train_teacher", "train_vanilla", "distill", "evaluate", "report"} if in_run else set()
    )
    if in_run:
        assert gpu_tags_of_run()[TAG]["container_config"]["resources"]["limits"] == {"amd.com/gpu": "2"}


def test_a_wrong_number_of_gpus_is_refused(monkeypatch):
    for wrong in ("one", "-1", "nvidia.com/gpu=", "a=b=1"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ConfigError, match="number of GPUs"):
            stage_asset("teacher")
    monkeypatch.setenv(VARIABLE, "0")
    assert TAG not in op_tags("teacher")


def from_values():
    """The settings of launcher and code location that the chart makes of the values, as far as pods depend on them.

    The chart does not pass the security contexts of a code location to its pods; those of the launcher count.
    """
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    config = launcher["runK8sConfig"]
    of_launcher = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "dagster_home": "/opt/dagster/dagster_home",
        "image_pull_policy": launcher["imagePullPolicy"],
        "security_context": launcher["securityContext"],
        "run_k8s_config": {"pod_spec_config": config["podSpecConfig"], "job_spec_config": config["jobSpecConfig"]},
    }
    of_location = {
        "image_pull_policy": DEPLOYMENT["image"]["pullPolicy"],
        "env": DEPLOYMENT["env"],
        "env_secrets": [secret["name"] for secret in DEPLOYMENT["envSecrets"]],
        "volumes": DEPLOYMENT["volumes"],
        "volume_mounts": DEPLOYMENT["volumeMounts"],
        "resources": DEPLOYMENT["resources"],
    }
    return of_launcher, {"k8s": of_location}


def from_chart():
    """The same settings, as the chart itself makes them. The variable HOSER_KD_CHART names its archive."""
    pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    if "HOSER_KD_CHART" not in os.environ:
        pytest.skip("Dagster's chart is not at hand: HOSER_KD_CHART=dagster-VERSION.tgz")
    path = ROOT / "deploy" / "kubernetes" / "render.py"
    spec = importlib.util.spec_from_file_location("render", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    objects = module.render(Path(os.environ["HOSER_KD_CHART"]), VALUES)
    assert len(module.validate(objects)) >= 18
    settings = module.instance_settings(objects)
    assert settings["run_monitoring"]["start_timeout_seconds"] == 1800
    assert settings["concurrency"]["pools"]["default_limit"] == 4
    return settings["run_launcher"]["config"], module.run_context(objects)


@pytest.fixture(params=[from_values, from_chart], ids=["values", "chart"])
def pods(monkeypatch, request):
    """Return a function that builds the job of a run or step, as JSON, from the values of the chart."""
    job = pytest.importorskip("dagster_k8s.job")
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.container_context import K8sContainerContext
    from kubernetes import client

    of_launcher, of_location = request.param()
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    launcher = K8sRunLauncher(**of_launcher)
    context = K8sContainerContext.create_for_run(dg.DagsterRun(job_name="distill"), launcher, include_run_tags=False)
    context = context.merge(K8sContainerContext.create_from_config(of_location))
    image = "{repository}:{tag}".format(**DEPLOYMENT["image"])

    def build(tags):
        own = context
        if tags:
            own = context.merge(
                K8sContainerContext(run_k8s_config=job.UserDefinedDagsterK8sConfig.from_dict(tags[TAG]))
            )
        built = job.construct_dagster_k8s_job(
            own.get_k8s_job_config(image, launcher),
            args=["dagster", "api", "execute_step"],
            job_name="dagster-step-1",
            user_defined_k8s_config=own.run_k8s_config,
        )
        return client.ApiClient().sanitize_for_serialization(built)

    return build


@pytest.mark.parametrize("stage", ["road_network", "teacher"])
def test_the_pod_of_a_step_is_valid_and_has_what_the_step_needs(pods, monkeypatch, stage):
    validate = pytest.importorskip("kubernetes_validate").validate
    monkeypatch.setenv(VARIABLE, next(each["value"] for each in DEPLOYMENT["env"] if each["name"] == VARIABLE))
    tags = {name: yaml.safe_load(tag) if isinstance(tag, str) else tag for name, tag in op_tags(stage).items()}
    built = pods(tags if TAG in tags else None)
    validate(built, API_VERSION, strict=True)
    spec = built["spec"]["template"]["spec"]
    [container] = spec["containers"]
    limits = container["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == ("1" if stage == "teacher" else None)
    assert limits["memory"] == "16Gi"  # the tag of a step adds to the limits of all
    assert container["image"] == "registry.example.org/hoser-kd:0.1.0-cu128"
    assert {"secretRef": {"name": "hoser-kd-bucket"}} in container["envFrom"]
    names = {variable["name"] for variable in container["env"]}
    assert names >= {"HOSER_KD_STORE", "HOSER_KD_EXECUTOR", "DAGSTER_HOME", "DAGSTER_PG_PASSWORD"}
    assert spec["securityContext"] == DEPLOYMENT["podSecurityContext"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == DEPLOYMENT["securityContext"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/cache", "/project/config", "/dev/shm"}
    assert built["spec"]["ttlSecondsAfterFinished"] == 86400


def test_the_variables_of_the_values_are_those_that_the_code_reads():
    sources = [*ROOT.glob("assets/*.py"), *ROOT.glob("dagster_project/*.py"), *ROOT.glob("hoser_kd/**/*.py")]
    text = "".join(source.read_text() for source in sources)
    ours = [variable["name"] for variable in DEPLOYMENT["env"] if variable["name"].startswith("HOSER_KD_")]
    assert len(ours) == 6
    assert [name for name in ours if f'"{name}"' not in text] == []


def stages_of_dockerfile():
    """The instructions of each stage of the image, as pairs of word and value."""
    parser = pytest.importorskip("dockerfile_parse").DockerfileParser(path=str(ROOT / "Dockerfile"), cache_content=True)
    stages = []
    for entry in parser.structure:
        if entry["instruction"] == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((entry["instruction"], entry["value"]))
    return stages


def test_the_image_is_multi_stage_not_run_by_root_and_has_a_health_check():
    stages = stages_of_dockerfile()
    assert len(stages) == 3
    last = stages[-1]
    instructions = [word for word, _ in last]
    assert dict(last)["USER"].split(":")[0].isdecimal()
    assert dict(last)["USER"].split(":")[0] == str(DEPLOYMENT["podSecurityContext"]["runAsUser"])
    assert instructions.index("USER") < instructions.index("CMD")
    assert {"HEALTHCHECK", "CMD", "WORKDIR"} <= set(instructions)
    assert ("ARG", "TORCH=cpu") in stages[1]
    images = [value.split()[0] for stage in stages for word, value in stage if word == "FROM"]
    assert all(re.fullmatch(r"python:\$\{PYTHON\}-slim-\w+", image) for image in images)
    commands = [value for stage in stages for word, value in stage if word == "RUN"]
    assert not any("sudo" in each or "curl" in each for each in commands)
    assert all(
        "--no-install-recommends" in each and "rm -rf /var/lib/apt/lists" in each
        for each in commands
        if "apt-get" in each
    )
    assert all("--no-cache-dir" in each for each in commands if "pip install" in each or "pip wheel" in each)
    assert not any(word == "ADD" for stage in stages for word, _ in stage)


def test_the_build_context_has_what_the_image_copies_and_no_data():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for stage in stages_of_dockerfile():
        for word, value in stage:
            if word == "COPY" and "--from" not in value:
                copied |= {part for part in value.split()[:-1] if not part.startswith("--")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_chart_has_the_version_of_the_pinned_dagster():
    assert f"--version {dg.__version__}" in (ROOT / "deploy" / "kubernetes" / "values.yaml").read_text()
