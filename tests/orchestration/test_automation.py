"""Sensors and schedules, ticked against an instance: one launch per change, and no training unless it is enabled."""

from __future__ import annotations

import datetime as dt
import os
import shutil

import dagster as dg
import pytest

from dagster_project.automation import city_watch, retrain_on_change, weekly_retraining
from dagster_project.definitions import build_defs
from dagster_project.full_pipeline import CHAIN_TAG, CITY_TAG, SEEDS_TAG, full_pipeline, full_pipeline_steps
from dagster_project.jobs import JOBS
from hoser_kd.config.loading import load_config
from hoser_kd.network.sources import REQUIRED_FILES
from hoser_kd.network.synthetic.city import make_city

YAML = "source: {{kind: hoser, path: {path}}}\ngrid: {{bounds: roads, cell_size_m: 80}}\n"


ODD_FILES = {
    "latin": "description: Köln\n".encode("latin-1"),
    "utf16": "source: {kind: synthetic}\n".encode("utf-16"),
    "._town": b"\x00\x05\x16\x07",
    "nested": b"a: " + b"[" * 5000 + b"]" * 5000,
    "digits": b"student: {max_epochs: " + b"9" * 5000 + b"}",
    "list_key": b"? [1, 2]\n: 3\n",
    "bomb": b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (k, k, b", ".join([b"*a%d" % (k - 1)] * 9)) for k in range(1, 12)),
    "loop": b"source: &a {kind: *a}\n",
    "bad name": b"source: {kind: synthetic}\n",
    "san-francisco": b"source: {kind: synthetic}\n",
}


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as temporary:
        yield temporary


@pytest.fixture
def city(tmp_path):
    """A config folder with one city whose raw files exist; sensors do not read their content."""
    raw, config = tmp_path / "raw", tmp_path / "config"
    raw.mkdir()
    config.mkdir()
    for name in REQUIRED_FILES:
        (raw / name).write_text("header\n")
    (config / "town.yaml").write_text(YAML.format(path=raw))
    return tmp_path


STALE = """query($partition: String!, $keys: [AssetKeyInput!]) {
  assetNodes(assetKeys: $keys) { assetKey { path } staleStatus(partition: $partition) } }"""


class Ticks:
    """A sensor over a config folder, ticked as the daemon does: it keeps cursor, partitions and events."""

    def __init__(self, sensor, instance, folder):
        self.sensor, self.instance, self.cursor, self.keys = sensor, instance, None, set()
        self.definitions = build_defs(config_folder=folder / "config", store_root=str(folder / "store"))

    def __call__(self):
        resources = {"pipeline": self.definitions.resources["pipeline"]}
        with dg.build_sensor_context(self.instance, self.cursor, resources=resources) as context:
            result = self.sensor(context)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            for key in request.partition_keys if isinstance(request, dg.DeleteDynamicPartitionsRequest) else ():
                self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.message = result.skip_reason.skip_message if result.skip_reason else ""
        keys = [request.run_key for request in result.run_requests or []]
        assert not self.keys & set(keys), "Dagster launches nothing for a run key it has seen"
        self.keys |= set(keys)
        return [request.partition_key for request in result.run_requests or []]


def reported(instance, piece):
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["settings", piece]), asset_partitions=["town"]), limit=10
    ).records
    return [record.asset_materialization.tags["dagster/data_version"] for record in records]


def test_no_file_stops_the_other_cities_and_impossible_names_are_no_partitions(instance, city):
    config = city / "config"
    for name, content in ODD_FILES.items():
        (config / f"{name}.yaml").write_bytes(content)
    (config / "folder.yaml").mkdir()
    instance.add_dynamic_partitions("city", ["bad name", "._town"])
    tick = Ticks(city_watch, instance, city)
    tick()
    tick()
    assert tick() == []
    assert reported(instance, "grid")
    possible = {name for name in ODD_FILES if " " not in name and not name.startswith(".")}
    assert set(instance.get_dynamic_partitions("city")) == {"town", *possible}
    assert "bad name.yaml is not a city: its name cannot be one, as it contains a space" in tick.message
    assert "folder.yaml is not a city: it is not a file" in tick.message
    for name in possible - {"san-francisco"}:
        assert f"{name}.yaml" in tick.message


def test_a_new_city_becomes_a_partition_and_is_prepared_once(instance, city):
    tick = Ticks(city_watch, instance, city)
    assert tick() == []  # it may still be being copied
    assert instance.get_dynamic_partitions("city") == ["town"]
    assert len(reported(instance, "student")) == 1
    assert [tick(), tick(), tick()] == [["town"], [], []]
    assert len(reported(instance, "student")) == 1


def test_changed_trip_files_launch_once_when_they_are_at_rest(instance, city):
    tick = Ticks(city_watch, instance, city)
    tick(), tick()
    for rows in (2, 3):  # a file that is still growing launches nothing
        (city / "raw" / "train.csv").write_text("header\n" * rows)
        assert tick() == []
    assert [tick(), tick()] == [["town"], []]
    (city / "raw" / "train.csv").write_text("header\n")  # restored: a change as well
    assert [tick(), tick(), tick()] == [[], ["town"], []]


@pytest.mark.parametrize("name", ["train.csv", "roadmap.geo"])
def test_files_copied_again_with_the_same_content_launch_nothing(instance, city, name):
    tick = Ticks(city_watch, instance, city)
    tick(), tick()
    file = city / "raw" / name
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 5))
    assert [tick(), tick(), tick()] == [[], [], []]
    shutil.copytree(city / "raw", city / "elsewhere")  # with other times
    shutil.rmtree(city / "raw")
    assert tick() == []
    shutil.copytree(city / "elsewhere", city / "raw", copy_function=shutil.copyfile)
    assert [tick(), tick(), tick()] == [[], [], []]
    file.write_text("reader\n")  # as long as before
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 10))
    assert [tick(), tick(), tick()] == [[], ["town"], []]


def test_a_prepared_city_is_recognized_by_the_content_of_its_files(fresh_home):
    home, raw = fresh_home, fresh_home.root / "raw"
    yaml = home.config / "town.yaml"
    make_city(raw, load_config(yaml).source.synthetic)
    head, _, tail = yaml.read_text().partition("source:\n  kind: synthetic\n")
    yaml.write_text(f"{head}source:\n  kind: hoser\n  path: {raw}\n{tail[tail.index('zones:') :]}")
    home.materialize("prepare_city")
    (raw / "train.csv").touch()
    with home.instance() as instance:
        tick = Ticks(city_watch, instance, home.root)
        assert [tick(), tick(), tick()] == [[], [], []]
        lines = (raw / "train.csv").read_text().splitlines(keepends=True)
        (raw / "train.csv").write_text("".join(lines[:-1]))
        assert [tick(), tick(), tick()] == [[], ["town"], []]
        tick = Ticks(city_watch, instance, home.root)  # it starts from the recorded events alone
        assert [tick(), tick(), tick()] == [[], ["town"], []]
        home.materialize("prepare_city")
        tick = Ticks(city_watch, instance, home.root)
        assert [tick(), tick()] == [[], []]
        assert "already prepared" in tick.message


def test_other_files_beside_the_raw_ones_launch_nothing(instance, city):
    tick = Ticks(city_watch, instance, city)
    tick(), tick()
    (city / "raw" / "notes.txt").write_text("mine")
    assert [tick(), tick(), tick()] == [[], [], []]
    (city / "raw" / "road_network_partition").write_text("0\n")  # zones that the data set ships count
    assert [tick(), tick(), tick()] == [[], ["town"], []]


def test_a_copied_city_is_not_trained_again(instance, city):
    tick = Ticks(retrain_on_change, instance, city)
    instance.report_runless_asset_event(dg.AssetMaterialization("vanilla_student", partition="town|0"))
    tick(), tick()
    file = city / "raw" / "train.csv"
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 5))
    assert [tick(), tick(), tick()] == [[], [], []]
    for text in ("other\n", "header\n"):
        file.write_text(text)
        assert [tick(), tick(), tick()] == [[], ["town"], []]


def test_an_edited_setting_is_reported_at_once_and_trains_nothing(instance, city):
    tick = Ticks(city_watch, instance, city)
    tick(), tick()
    yaml = city / "config" / "town.yaml"
    yaml.write_text(yaml.read_text() + "student: {max_epochs: 3}\n")
    assert [tick(), tick()] == [[], []]
    assert len(set(reported(instance, "student"))) == 2
    assert len(reported(instance, "distillation")) == 1
    yaml.write_text(yaml.read_text() + "zones: {count: 5}\n")
    assert [tick(), tick(), tick()] == [[], ["town"], []]


@pytest.mark.xdist_group("dev")
def test_an_edited_setting_shows_as_stale_without_a_run(dev_town):
    home, server = dev_town
    home.yaml.write_text(home.yaml.read_text() + "distill: {temperature: 3.0}\n")
    with home.instance() as instance:
        tick = Ticks(city_watch, instance, home.root)
        assert [tick(), tick()] == [[], []]  # the artifacts of the runner count
        assert "town: already prepared" in tick.message
    students = [{"path": [f"{kind}_student"]} for kind in ("vanilla", "distilled")]
    nodes = server.query(STALE, partition="town|1", keys=students)["assetNodes"]
    assert {node["assetKey"]["path"][0]: node["staleStatus"] for node in nodes} == {
        "vanilla_student": "FRESH",
        "distilled_student": "STALE",
    }


def test_a_broken_yaml_is_reported_and_does_not_block_other_cities(instance, city):
    (city / "config" / "ruin.yaml").write_text("sauce: 1\n")
    tick = Ticks(city_watch, instance, city)
    assert tick() == []
    assert "`sauce` is not a known setting" in tick.message
    assert tick() == ["town"]


def test_a_city_whose_yaml_was_deleted_is_reported_and_keeps_its_partition(instance, city):
    tick = Ticks(city_watch, instance, city)
    tick()
    tick()
    (city / "config" / "town.yaml").unlink()
    assert tick() == []
    assert "town: its YAML is gone" in tick.message
    assert instance.get_dynamic_partitions("city") == ["town"]


def test_a_city_waits_for_its_raw_files(instance, city):
    gone = (city / "raw" / "val.csv").rename(city / "val.csv")
    tick = Ticks(city_watch, instance, city)
    assert [tick(), tick()] == [[], []]
    assert "waits for its raw files" in tick.message
    gone.rename(city / "raw" / "val.csv")
    assert [tick(), tick(), tick()] == [[], ["town"], []]


def test_a_sensor_downloads_nothing(instance, city):
    (city / "config" / "town.yaml").write_text("source: {kind: huggingface, repo_id: a/b}\n")
    tick = Ticks(city_watch, instance, city)
    assert [tick(), tick(), tick()] == [[], [], []]
    assert instance.get_dynamic_partitions("city") == ["town"]


def test_retraining_is_off_by_default_and_launches_once_per_change(instance, city):
    assert retrain_on_change.default_status == dg.DefaultSensorStatus.STOPPED
    tick = Ticks(retrain_on_change, instance, city)
    for seed in ("0", "2"):
        instance.report_runless_asset_event(dg.AssetMaterialization("vanilla_student", partition=f"town|{seed}"))
    assert [tick(), tick()] == [[], []]
    (city / "raw" / "test.csv").write_text("other\n")
    assert [tick(), tick(), tick()] == [[], ["town"], []]


def test_weekly_retraining_is_off_by_default_and_takes_trained_cities_with_their_seeds(instance):
    assert weekly_retraining.default_status == dg.DefaultScheduleStatus.STOPPED
    instance.add_dynamic_partitions("city", ["town", "village"])
    instance.report_runless_asset_event(dg.AssetMaterialization("vanilla_student", partition="town|1"))
    sunday = dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC)
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=sunday) as context:
        (request,) = list(weekly_retraining(context))
    assert request.partition_key == "town"
    assert request.run_config["ops"]["begin"]["config"]["seeds"] == [1]
    with (
        dg.DagsterInstance.local_temp() as fresh,
        dg.build_schedule_context(instance=fresh, scheduled_execution_time=sunday) as context,
    ):
        (skipped,) = list(weekly_retraining(context))
    assert isinstance(skipped, dg.SkipReason)


def succeeded(instance, job, tags, run_config=None):
    """Record a successful run of a job; returns it and the runs that the chain's sensor then requests."""
    run = instance.create_run_for_job(job, tags=tags, run_config=run_config, status=dg.DagsterRunStatus.SUCCESS)
    event = dg.DagsterEvent("PIPELINE_SUCCESS", job.name)
    with dg.build_run_status_sensor_context("full_pipeline_steps", event, instance, run) as context:
        requests = list(full_pipeline_steps(context))
    return run, [request for request in requests if isinstance(request, dg.RunRequest)]


def test_full_pipeline_goes_through_all_jobs_and_seeds_and_reports_at_the_end(instance):
    definitions = build_defs()
    instance.add_dynamic_partitions("city", ["town"])
    config = {"ops": {"begin": {"config": {"seeds": [0, 2]}}}}
    first, requests = succeeded(instance, full_pipeline, {"dagster/partition": "town"}, config)
    order = [full_pipeline.name]
    waiting = list(requests)
    while waiting:
        request = waiting.pop(0)
        order.append(f"{request.job_name} {request.partition_key}")
        tags = {**request.tags, "dagster/partition": str(request.partition_key)}
        if isinstance(request.partition_key, dg.MultiPartitionKey):
            tags["dagster/partition/seed"] = request.partition_key.keys_by_dimension["seed"]
        assert request.tags[CHAIN_TAG] == first.run_id
        _, requests = succeeded(instance, definitions.resolve_job_def(request.job_name), tags)
        waiting += requests
    assert order == [
        "full_pipeline",
        "prepare_city town",
        "train_teacher town",
        "distill town|0",
        "distill town|2",
        "evaluate town|0",
        "evaluate town|2",
        "report town",
    ]


def test_vanilla_students_train_beside_the_teacher_if_the_pool_has_slots(instance):
    instance.add_dynamic_partitions("city", ["town"])
    jobs = {job.name: build_defs().resolve_job_def(job.name) for job in JOBS}
    chain = {CHAIN_TAG: "first", CITY_TAG: "town", SEEDS_TAG: "0,2", "dagster/partition": "town"}

    def requested(job, seed=None):
        tags = chain if seed is None else {**chain, "dagster/partition/seed": seed}
        requests = succeeded(instance, jobs[job], tags)[1]
        return [f"{request.job_name} {request.partition_key}" for request in requests]

    instance.event_log_storage.set_concurrency_slots("gpu", 1)
    assert requested("prepare_city") == ["train_teacher town"]
    instance.event_log_storage.set_concurrency_slots("gpu", 2)
    assert requested("prepare_city") == ["train_teacher town", "train_vanilla town|0", "train_vanilla town|2"]
    for seed in ("0", "2"):
        tags = {**chain, "dagster/partition/seed": seed}
        instance.create_run_for_job(jobs["train_vanilla"], tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert requested("train_vanilla", "0") == []
    assert requested("train_teacher") == ["distill town|0"]
    assert requested("train_vanilla", "2") == ["distill town|2"]


@pytest.mark.parametrize("job", ["prepare_city", "evaluate"])
def test_a_link_that_succeeds_again_requests_what_it_has_requested_already(instance, job):
    """Dagster launches nothing for a run key it has seen, so a succeeded link, re-executed, starts nothing."""
    definition = build_defs().resolve_job_def(job)
    key = dg.MultiPartitionKey({"city": "town", "seed": "0"}) if job == "evaluate" else "town"
    tags = {CHAIN_TAG: "first", CITY_TAG: "town", SEEDS_TAG: "0", "dagster/partition": str(key)}
    if job == "evaluate":
        tags["dagster/partition/seed"] = "0"
    _, [request] = succeeded(instance, definition, tags)
    _, [again] = succeeded(instance, definition, tags)
    assert again.run_key == request.run_key
    assert (again.job_name, again.partition_key) == (request.job_name, request.partition_key)


def test_a_job_launched_by_itself_starts_nothing(instance):
    job = build_defs().resolve_job_def("prepare_city")
    assert succeeded(instance, job, {"dagster/partition": "town"})[1] == []


def test_the_store_is_verified_by_a_job(copy_of_town):
    home = copy_of_town
    definitions = build_defs(config_folder=home.root / "config", store_root=str(home.store))
    job = definitions.resolve_job_def("verify_store")
    assert job.execute_in_process().success
    [labels] = home.store.glob("town/teacher_soft_labels/*/train.arrow")
    content = bytearray(labels.read_bytes())
    content[-100] ^= 1
    labels.write_bytes(content)
    with pytest.raises(dg.Failure, match=r"the content of train\.arrow has changed.* Materialize teacher_soft_labels"):
        job.execute_in_process()
