"""Fixtures shared by all tests: outputs of the published code, the real city, and a small city built in code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import FLAGS, find_chromium
from guarded_process import GuardedProcess
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from hoser_cities import City
    from playwright.sync_api import Browser

    from hoser_kd.hoser import HOSER

# A busy machine makes a property slow, not wrong: no deadline for one example.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


LONGEST = ("dev", "engines")
"""Groups of tests that run for minutes, and must not be the last ones that a worker begins."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of this suite, and accept Ctrl-C and SIGTERM.

    A shell starts background jobs with SIGINT ignored. Dagster then ignores SIGTERM too, processes that tests start
    inherit that, and tests that end a process by SIGTERM would wait for it forever.
    """
    # the suite itself runs on all cores
    os.environ.setdefault("HOSER_KD_JOBS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "last: run after the other tests of its group")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Import the tests, and the libraries that they use, without garbage collections."""
    from hoser_kd.common.forked_imports import imports_before_fork

    with imports_before_fork():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest groups. Under xdist, keep the tests of a file on one worker, unless they name a group."""
    groups = {}
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is None and hasattr(config, "workerinput"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        groups[item] = mark.args[0] if mark else item.path.stem
    rank = {group: number for number, group in enumerate(LONGEST)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        number = rank.get(groups[item], len(LONGEST))
        return number, number < len(LONGEST) and item.get_closest_marker("last") is not None

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: object, ids: list[str]) -> None:
    """Stop where the installed pytest-xdist does not group tests: every worker would start the servers of a group."""
    loose = [name for name in ids if "@" not in name.rpartition("::")[2].rpartition("]")[2]]
    if loose and node.config.getoption("dist") == "loadgroup":
        pytest.exit(f"this pytest ignores the groups of pytest-xdist ({loose[0]}): install the pinned versions.", 4)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs of the published code; tests/golden/README.md lists them."""
    return Path(__file__).with_name("golden")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Faulty inputs of kinds that users have reported; each has a README."""
    return Path(__file__).with_name("cases")


@pytest.fixture(scope="session")
def porto() -> Path:
    """Porto in HOSER's format: 22,843 roads, 1,865 trips. It is too large for the repository."""
    folder = Path(os.environ.get("HOSER_KD_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data" / "porto"
    if not folder.is_dir():
        pytest.skip("Porto's data are absent: set HOSER_KD_SHARED to the folder that holds data/porto")
    return folder


@pytest.fixture(scope="session")
def golden_city(golden: Path) -> City:
    """The published code's synthetic city: network, zones, zone transitions and trips."""
    import numpy as np
    from hoser_cities import City

    from hoser_kd.network.road_network import read_hoser
    from hoser_kd.network.trajectories import read_hoser as read_trips

    folder = golden / "hoser_city"
    network = read_hoser(folder)
    return City(
        network,
        np.loadtxt(folder / "road_network_partition", dtype=np.int64),
        np.load(folder / "zone_trans_mat.npy"),
        {split: read_trips(folder / f"{split}.csv", network) for split in ("train", "val", "test")},
    )


@pytest.fixture(scope="session")
def golden_io(golden: Path) -> dict[str, np.ndarray]:
    """Inputs and outputs of the published HOSER, array by array."""
    import numpy as np

    with np.load(golden / "hoser_io.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def small_city() -> City:
    """A small city of streets, built in code."""
    from hoser_cities import city_of_streets

    return city_of_streets()


@pytest.fixture
def small_model(small_city: City) -> HOSER:
    """A tiny HOSER of the small city with fixed random weights."""
    import torch
    from hoser_cities import TINY

    from hoser_kd.hoser import HOSER

    torch.manual_seed(3)
    return HOSER.build(
        TINY, small_city.network, small_city.zones, small_city.transitions, log1p_mean=3.0, log1p_std=0.5, max_len=16
    )


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the system's chromium once per worker; tests that use it share a worker (group `dev`)."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    profile = tmp_path_factory.mktemp("chromium")
    command = [path, "--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}", *FLAGS, "about:blank"]
    with GuardedProcess(command, cwd=profile, environment=os.environ, log=profile / "log"):
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port.is_file() and "\n" in port.read_text()):
            assert time.monotonic() < deadline, (profile / "log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"


@pytest.fixture(scope="module")
def chromium(chromium_address: str) -> Iterator[Browser]:
    """The browser, for the tests of a file: Playwright's event loop must not run under tests of Dagster in process."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.connect_over_cdp(chromium_address)
