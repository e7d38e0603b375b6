"""Render Dagster's Helm chart with `values.yaml`, without Helm and without a cluster, and validate what it makes.

    pip install helm-python-sdk kubernetes-validate        # Helm's own engine as a library, and the API of Kubernetes
    python deploy/kubernetes/render.py dagster-1.13.27.tgz  # the chart: an archive, or its folder

The values are validated by the schema of the chart, all objects by the API of Kubernetes, and the settings of the
instance by Dagster. Prints a line per object; with `--print` the objects too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

API_VERSION = "1.33"
RELEASE = "hoser-kd"
VALUES = Path(__file__).with_name("values.yaml")
_DEFINITIONS = "https://raw.githubusercontent.com/yannh/kubernetes-json-schema/master/v1.19.0/_definitions.json"


def render(chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that a chart makes of the values. Raises HelmError if its schema refuses them."""
    from helm_python import Chart

    with tempfile.TemporaryDirectory() as name:
        folder = _with_local_schema(chart, Path(name))
        with Chart.load(folder) as loaded:
            loaded.validate_schema(values)
            texts = loaded.render(values=values, name=RELEASE, namespace="default")
    return [each for file, text in sorted(texts.items()) if file.endswith(".yaml") for each in _objects(text)]


def _objects(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def _with_local_schema(chart: Path, folder: Path) -> Path:
    """Copy a chart; its schema reads the types of Kubernetes from kubernetes-validate rather than from the network."""
    import kubernetes_validate

    if chart.is_dir():
        shutil.copytree(chart, folder / "dagster")
    else:
        with tarfile.open(chart) as archive:
            archive.extractall(folder, filter="data")
    schemas = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{API_VERSION}.0-local"
    types = (schemas / "_definitions.json").read_text(encoding="utf-8").replace("$defs", "definitions")
    (folder / "types.json").write_text(types, encoding="utf-8")
    for schema in folder.glob("dagster/**/values.schema.json"):
        text = schema.read_text(encoding="utf-8").replace(_DEFINITIONS, (folder / "types.json").as_uri())
        schema.write_text(text, encoding="utf-8")
    return folder / "dagster"


def validate(objects: list[dict[str, Any]]) -> list[str]:
    """Validate objects by the API of Kubernetes; returns a line per object."""
    import kubernetes_validate

    lines = []
    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        try:
            kubernetes_validate.validate(each, API_VERSION, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            name += f": not validated, {each['apiVersion']} is an extension"
        lines.append(name)
    return lines


def instance_settings(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the dagster.yaml of the instance. Raises DagsterInvalidConfigError if Dagster does not accept it."""
    import dagster as dg
    from dagster._core.instance.config import dagster_instance_config

    [text] = [each["data"]["dagster.yaml"] for each in objects if "dagster.yaml" in (each.get("data") or {})]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "dagster.yaml").write_text(text, encoding="utf-8")
        settings, _ = dagster_instance_config(home)
    from dagster_k8s import K8sRunLauncher

    launcher = settings["run_launcher"]["config"]
    checked = dg.validate_run_config(_job_with(K8sRunLauncher.config_type()), {"ops": {"launch": {"config": launcher}}})
    assert checked
    return dict(settings)


def _job_with(schema: Any) -> Any:
    import dagster as dg

    @dg.job
    def check() -> None:
        dg.op(name="launch", config_schema=schema)(lambda _: None)()

    return check


def run_context(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the code location passes to the pods of runs and steps."""
    [location] = [each for each in objects if each["metadata"].get("labels", {}).get("deployment") == RELEASE][:1]
    [container] = location["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    return dict(json.loads(variables["DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"]))


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chart", type=Path, help="Dagster's chart: dagster-VERSION.tgz, or its folder")
    parser.add_argument("--values", type=Path, default=VALUES)
    parser.add_argument("--print", action="store_true", help="print the objects")
    options = parser.parse_args()
    objects = render(options.chart, yaml.safe_load(options.values.read_text(encoding="utf-8")))
    settings = instance_settings(objects)
    if options.print:
        yaml.safe_dump_all(objects, sys.stdout)
    print("\n".join(validate(objects)))
    print(f"dagster.yaml: {', '.join(sorted(settings))}")


if __name__ == "__main__":
    main()
