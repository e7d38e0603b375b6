"""Sources: each kind provides a complete folder in HOSER's format or names what is missing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hoser_kd.common.errors import ConfigError, DataError
from hoser_kd.common.hashing import digest_file
from hoser_kd.config.loading import load_config
from hoser_kd.config.source import SourceConfig, SyntheticConfig
from hoser_kd.config.variants import SOURCE_KINDS
from hoser_kd.network import road_network
from hoser_kd.network.sources import (
    REQUIRED_FILES,
    SourceKind,
    content_digest,
    fetch,
    hoser_files,
    kind_of,
    raw_files_of,
    raw_signature,
    raw_version,
    require_files,
)
from hoser_kd.network.synthetic.city import make_city

SMALL = SyntheticConfig(blocks=(5, 5), num_trips=30)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return make_city(tmp_path_factory.mktemp("city"), SMALL)


@pytest.fixture
def copy(city, tmp_path):
    return shutil.copytree(city, tmp_path / "copy")


def test_an_existing_folder_is_returned_unchanged(city, tmp_path):
    assert fetch(SourceConfig(kind="hoser", path=str(city)), tmp_path / "unused") == city
    assert not (tmp_path / "unused").exists()


def test_missing_files_are_named(copy, tmp_path):
    (copy / "roadmap.rel").unlink()
    (copy / "val.csv").unlink()
    with pytest.raises(DataError, match=r"copy: roadmap\.rel, val\.csv are missing.*source\.path"):
        fetch(SourceConfig(kind="hoser", path=str(copy)), tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        fetch(SourceConfig(kind="hoser", path=str(tmp_path / "nowhere")), tmp_path)


def test_a_synthetic_city_is_written_to_the_folder(tmp_path, city):
    folder = fetch(SourceConfig(kind="synthetic", synthetic=SMALL), tmp_path / "raw")
    assert folder == tmp_path / "raw"
    assert content_digest(folder) == content_digest(city)


def test_hoser_files_are_the_existing_ones(copy):
    assert [path.name for path in hoser_files(copy)] == list(REQUIRED_FILES)
    (copy / "road_network_partition").write_text("0\n")
    (copy / "notes.txt").write_text("mine")
    assert [path.name for path in hoser_files(copy)] == [*REQUIRED_FILES, "road_network_partition"]


def test_the_digest_covers_names_and_contents_of_the_format_only(copy, city):
    before = content_digest(copy)
    assert before == content_digest(city)
    (copy / "notes.txt").write_text("mine")
    assert content_digest(copy) == before
    (copy / "road_network_partition").write_text("0\n")
    with_zones = content_digest(copy)
    assert with_zones != before
    (copy / "val.csv").rename(copy / "aside")
    (copy / "test.csv").rename(copy / "val.csv")
    (copy / "aside").rename(copy / "test.csv")
    assert content_digest(copy) != with_zones


class ZipArchive(SourceKind):
    """A kind from outside the project: a zip file with a city in it."""

    def validate_settings(self, source):
        if not (source.path or "").endswith(".zip"):
            raise ValueError("kind zip needs `path`, a zip file")

    def fetch(self, source, folder, progress):
        progress("unpack", 0, 1)
        shutil.unpack_archive(source.path, folder)
        require_files(folder, "Zip the files themselves, not their folder.")
        return folder

    def describe(self, source):
        return {"kind": "zip", "archive": source.path}


@pytest.fixture
def zip_kind():
    SOURCE_KINDS.register("zip", ZipArchive())
    yield SOURCE_KINDS["zip"]
    SOURCE_KINDS.unregister("zip")


def test_a_new_kind_needs_only_its_class(zip_kind, city, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "town"), "zip", city)
    config = tmp_path / "town.yaml"
    config.write_text(f"source: {{kind: zip, path: {archive}}}\n")
    source = load_config(config).source
    reports = []
    folder = fetch(source, tmp_path / "raw", lambda *report: reports.append(report))
    assert content_digest(folder) == content_digest(city)
    assert reports == [("unpack", 0, 1)]
    assert raw_files_of(source) == []
    assert raw_signature(source) is not None
    assert raw_version(source, ["train.csv"]) != raw_version(SourceConfig(kind="synthetic"), ["train.csv"])
    assert kind_of(source).describe(source) == {"kind": "zip", "archive": archive}


def test_the_example_of_a_new_kind_in_the_docs_works(city, tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "network.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    archive = shutil.make_archive(str(tmp_path / "town"), "zip", city)
    try:
        exec(compile(example, "docs/network.md", "exec"), {})
        folder = fetch(SourceConfig(kind="zip", path=archive), tmp_path / "raw")
    finally:
        SOURCE_KINDS.unregister("zip")
    assert content_digest(folder) == content_digest(city)


def test_the_settings_of_a_new_kind_are_validated_with_file_and_line(zip_kind, tmp_path):
    config = tmp_path / "town.yaml"
    config.write_text("# town\nsource: {kind: zip, path: here}\n")
    with pytest.raises(ConfigError, match=r"town\.yaml, line 2: `source`: kind zip needs `path`, a zip file"):
        load_config(config)


def test_an_unknown_kind_is_rejected_with_the_closest_name(tmp_path):
    config = tmp_path / "town.yaml"
    config.write_text("source:\n  kind: hugingface\n")
    expected = (
        "town.yaml, line 2: `source.kind`: unknown source kind 'hugingface'. "
        "Known: hoser, raw, import, fmm, valhalla, libcity, start, osmnx, geopandas, synthetic, huggingface. "
        "Did you mean 'huggingface'?"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    assert str(caught.value).endswith(expected)


@pytest.mark.parametrize(
    ("settings", "external", "by_content", "downloads"),
    [
        ({"kind": "hoser", "path": "here"}, True, True, False),
        ({"kind": "synthetic"}, False, False, False),
        ({"kind": "huggingface", "repo_id": "people/city"}, False, True, True),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_properties_of_each_kind(settings, external, by_content, downloads):
    kind = kind_of(SourceConfig(**settings))
    assert (kind.is_external, kind.versioned_by_content, kind.downloads) == (external, by_content, downloads)


def test_version_and_signature_of_an_external_folder_follow_its_content(copy):
    source = SourceConfig(kind="hoser", path=str(copy))
    assert raw_files_of(source) == hoser_files(copy)
    version, signature = raw_version(source, ["val.csv"]), raw_signature(source)
    assert raw_version(source, ["test.csv"]) != version
    digest = digest_file(copy / "val.csv")
    with (copy / "val.csv").open("a") as file:
        file.write("\n")
    assert digest_file(copy / "val.csv") != digest
    assert raw_version(source, ["val.csv"]) != version
    assert raw_signature(source) != signature
    (copy / "val.csv").unlink()
    assert raw_signature(source) is None


def test_raw_data_has_a_map_and_points_with_versions_of_their_own(tmp_path):
    for name in ("map.osm", "points.csv"):
        (tmp_path / name).write_text("1")
    source = SourceConfig(
        kind="raw",
        map={"path": str(tmp_path / "map.osm")},
        points={"path": str(tmp_path / "points.csv"), "time_zone": "UTC"},
    )
    assert [path.name for path in raw_files_of(source)] == ["map.osm", "points.csv"]
    roads, trips = ["roadmap.geo", "roadmap.rel"], ["train.csv", "val.csv", "test.csv"]
    before = raw_version(source, roads), raw_version(source, trips)
    (tmp_path / "points.csv").write_text("2")
    assert raw_version(source, roads) == before[0]
    assert raw_version(source, trips) != before[1]
    kind = kind_of(source)
    assert (kind.is_external, kind.is_raw, kind.downloads) == (True, True, False)
    with pytest.raises(DataError, match="not a folder in HOSER's format"):
        fetch(source, tmp_path / "raw")


def test_sources_load_without_heavy_libraries():
    script = (
        "import sys\n"
        "from hoser_kd.config.source import SourceConfig\n"
        "SourceConfig(kind='synthetic')\n"
        "heavy = {'torch', 'geopandas', 'pandas', 'tqdm', 'scipy', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


# a fake hub: the four requests that a snapshot needs, over HTTP

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    commit = COMMIT

    def do_GET(self):
        self._answer(send_body=True)

    def do_HEAD(self):
        self._answer(send_body=False)

    def log_message(self, *args):
        pass

    def _answer(self, *, send_body):
        path = self.path.partition("?")[0]
        if not path.startswith(("/api/datasets/people/city/", "/datasets/people/city/")):
            return self._send(404, b"{}", send_body, {"X-Error-Code": "RepoNotFound"})
        if path.endswith("/revision/main"):
            body = json.dumps(
                {
                    "id": "people/city",
                    "sha": COMMIT,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": name} for name in self.files],
                }
            )
            return self._send(200, body.encode(), send_body)
        if "/revision/" in path:
            return self._send(404, b"{}", send_body, {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in self.files.items()
            ]
            return self._send(200, json.dumps(entries).encode(), send_body)
        content = self.files[path.split(f"/resolve/{COMMIT}/")[1]]
        return self._send(200, content, send_body, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT})

    def _send(self, status, body, send_body, headers=None):
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)


def _etag(content):
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(city, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    _Hub.files = {f"Town/{path.name}": path.read_bytes() for path in city.iterdir()} | {
        "Town/big.bin": b"0" * 99,
        "README.md": b"a city",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _config(**changes):
    return SourceConfig(**{"kind": "huggingface", "repo_id": "people/city", "subfolder": "Town", **changes})


def test_only_the_files_of_the_city_are_downloaded(hub, city, tmp_path):
    reports = []
    folder = fetch(_config(), tmp_path / "raw", lambda *report: reports.append(report))
    assert folder == tmp_path / "raw" / "Town"
    assert content_digest(folder) == content_digest(city)
    assert sorted(path.name for path in folder.iterdir()) == sorted(REQUIRED_FILES)
    assert road_network.read_hoser(folder).num_roads > 100
    assert reports[-1][:3] == ("download", 5, 5)


def test_a_wrong_subfolder_is_an_error(hub, tmp_path):
    with pytest.raises(DataError, match=r"roadmap\.geo, .* missing.*source\.subfolder.*people/city"):
        fetch(_config(subfolder="Village"), tmp_path / "raw")


def test_an_unknown_repository_is_an_error(hub, tmp_path):
    with pytest.raises(DataError, match=r"people/other: no such repository.*source\.repo_id"):
        fetch(_config(repo_id="people/other"), tmp_path / "raw")
    with pytest.raises(DataError, match=r"no such repository"):
        fetch(_config(repo_id="not a repository!"), tmp_path / "raw")


def test_an_unknown_revision_is_an_error(hub, tmp_path):
    with pytest.raises(DataError, match=r"no revision v9.*source\.revision"):
        fetch(_config(revision="v9"), tmp_path / "raw")


def test_offline_mode_is_an_error(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"people/city: cannot be downloaded.*HF_HUB_OFFLINE.*kind: hoser"):
        fetch(_config(), tmp_path / "raw")


def test_an_unreachable_hub_is_an_error(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"people/city: cannot be downloaded"):
        fetch(_config(), tmp_path / "raw")
