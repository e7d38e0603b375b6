"""The whole graph as one readable file, `graph.json`: assets, groups, partitions, checks, jobs and automation.

Update it with `python tests/orchestration/test_snapshot.py`, and read the difference before you commit it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dagster as dg

FILE = Path(__file__).with_name("graph.json")


def graph():
    """Return the graph that the UI shows as plain values."""
    from dagster_project.definitions import build_defs

    repository = build_defs().get_repository_def()
    assets = repository.asset_graph
    found = {
        "assets": {
            node.key.to_user_string(): {
                "group": node.group_name,
                "kind": "observed" if node.is_external else "made",
                "partitions": dimensions(node.partitions_def),
                "from": sorted(parent.to_user_string() for parent in node.parent_keys),
                "checks": sorted(key.name for key in node.check_keys),
                "pools": sorted(node.pools),
            }
            for node in sorted(assets.asset_nodes, key=lambda node: node.key)
        },
        "blocking checks": sorted(
            key.to_user_string() for key in assets.asset_check_keys if assets.get_check_spec(key).blocking
        ),
        "jobs": {
            job.name: {
                "partitions": dimensions(job.partitions_def),
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "run config": job.run_config or {},
            }
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "by default": schedule.default_status.value,
                "launches": schedule.job_name,
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "by default": sensor.default_status.value,
                "launches": sorted(target.job_name for target in sensor.targets),
            }
            for sensor in repository.sensor_defs
        },
    }
    return json.loads(json.dumps(found, sort_keys=True))


def dimensions(partitions):
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return [dimension.name for dimension in partitions.partitions_defs]
    return [partitions.name] if partitions is not None else []


def test_the_graph_equals_the_file():
    assert graph() == json.loads(FILE.read_text()), (
        "read the difference; if it is intended, update the file (see above)"
    )


def test_every_asset_and_job_has_a_description():
    from dagster_project.definitions import build_defs

    repository = build_defs().get_repository_def()
    for node in repository.asset_graph.asset_nodes:
        assert node.description, node.key
    for named in (*repository.get_all_jobs(), *repository.sensor_defs, *repository.schedule_defs):
        assert named.description or named.name.startswith("__"), named.name


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    FILE.write_text(json.dumps(graph(), indent=1, sort_keys=True) + "\n")
