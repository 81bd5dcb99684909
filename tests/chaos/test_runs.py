"""Whole runs of the real command, disturbed: killed drivers, two at once, a server that goes, a network that fails."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.invariants import all_hold, write_ids
from chaos.site import Site
from faults import INJECTED, at_rate
from faulty_proxy import FaultyProxy
from pipeline.progress import EVENTS
from pipeline.store import Store, open_store
from s3_server import BUCKET, S3Server


@contextmanager
def running(file: Path, url: str, env: Mapping[str, str], count: int = 1) -> Iterator[list["subprocess.Popen[str]"]]:
    """Drivers of the same run, each with a Ray of its own; what is left of them is killed."""
    command = [Path(sys.executable).with_name("brewline"), "run", file, "--store", url]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(command, env=env, start_new_session=True, **pipes) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ended_well(process: "subprocess.Popen[str]", seconds: float = 400) -> str:
    out = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, out
    return str(out)


def until_committed(store: Store, stages: int, process: "subprocess.Popen[str]") -> dict[tuple[str, str], str]:
    """Wait for so many committed steps, and give them all."""
    while len(found := write_ids(store)) < stages:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return found


@pytest.fixture
def env(environment: dict[str, str], s3_environment: dict[str, str]) -> dict[str, str]:
    return environment | s3_environment


@pytest.fixture(params=[pytest.param("folder", marks=pytest.mark.chaos), "s3"])
def url(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path) -> str:
    return s3_server.url() if request.param == "s3" else str(tmp_path / "store")


def starts(store: Store, run: str) -> Counter[str]:
    """How often each step was begun, by its label."""
    events = [json.loads(line) for line in (store.read_run(run, EVENTS) or b"").splitlines()]
    return Counter(event["what"] for event in events if event["event"] == "running")


@pytest.mark.chaos
def test_two_drivers_at_once_do_each_step_once(url: str, env: dict[str, str], tiny_file: Path, finished: Any) -> None:
    with running(tiny_file, url, env, count=2) as drivers:
        for driver in drivers:
            ended_well(driver)
    store = open_store(url)
    all_hold(store, open_store(finished.store))
    begun = starts(store, finished.result["run"])
    assert set(begun.values()) == {1}, begun


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.chaos)])
def test_a_driver_that_is_killed_loses_nothing(
    kills: int, url: str, env: dict[str, str], tiny_file: Path, finished: Any
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, store, earlier = random.Random(seed), open_store(url), {}
    total = finished.result["steps"]["total"]
    for target in sorted(rng.choices(range(total - 1), k=kills)):
        with running(tiny_file, url, env) as (driver,):
            earlier |= until_committed(store, target, driver)
            time.sleep(rng.uniform(0, 0.5))
            driver.kill()
            INJECTED["a driver killed"] += 1
        earlier |= write_ids(store)
    with running(tiny_file, url, env) as (driver,):
        ended_well(driver)
    all_hold(store, open_store(finished.store), earlier=earlier)


@pytest.mark.chaos
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_run_gets_through_a_network_that_fails(
    rate: float, env: dict[str, str], tiny_file: Path, finished: Any, s3_server: S3Server
) -> None:
    with FaultyProxy(s3_server.endpoint) as proxy:
        site = Site(proxy, s3_server.endpoint)
        site.connect().probe()  # a run probes too, and gives up soon where nobody answers
        with running(tiny_file, site.url, env) as (driver,):
            until_committed(site.direct, 1, driver)
            proxy.choose = at_rate(rate)
            ended_well(driver)
        assert proxy.injected.total() > 10
    all_hold(site.direct, open_store(finished.store))


@pytest.mark.chaos
def test_a_run_waits_for_a_server_that_is_killed_and_comes_back(
    env: dict[str, str], tiny_file: Path, finished: Any, own_server: S3Server
) -> None:
    env = env | own_server.owner.environment
    url = f"s3://{BUCKET}/run?endpoint={own_server.endpoint}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own_server.owner.environment.items():
            patch.setenv(name, value)
        store = open_store(url)
        with running(tiny_file, url, env) as (driver,):
            for target in (2, 5, 8):
                until_committed(store, target, driver)
                own_server.kill()
                INJECTED["a server killed"] += 1
                time.sleep(3)
                own_server.start()
            ended_well(driver)
        all_hold(store, open_store(finished.store))
