"""The start of a private Ray: its environment, its time limits, and what is left when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.ray_session import START_SECONDS, RayStartError, ray_session, start_limits

ray = pytest.importorskip("ray")
NAMES = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_prestart_worker_first_driver", "RAY_enable_metrics_collection")
LIMIT = "RAY_raylet_start_wait_time_s"
SLOW = Exception("The current node timed out during startup. The GCS has become overloaded.")
Calls = list[tuple[object, dict[str, str]]]


@pytest.fixture
def start_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Make each start of Ray raise the next of these errors; return the address and environment of each call."""
    calls: Calls = []

    def fail(*errors: Exception) -> Calls:
        def init(*, address: str, **_: object) -> None:
            calls.append((address, dict(os.environ)))
            raise errors[len(calls) - 1]

        monkeypatch.setattr(ray, "init", init)
        return calls

    for name in NAMES:
        monkeypatch.setenv(name, "before")
    monkeypatch.delenv(LIMIT, raising=False)
    monkeypatch.setattr("vilbert.pipeline.ray_session.find_spec", lambda name: object())
    return fail


@pytest.mark.parametrize(("dashboard", "metrics"), [(False, "0"), (True, "1")])
def test_a_private_ray_is_closed_to_others_and_starts_nothing_idle(
    start_fails: Callable[..., Calls], dashboard: bool, metrics: str
) -> None:
    calls = start_fails(ConnectionError("not here"))
    with pytest.raises(RefusedError, match="Ray does not start"), ray_session(None, instead="do", dashboard=dashboard):
        pass
    [(address, environment)] = calls
    assert address == "local"
    assert [environment[name] for name in NAMES] == ["0", "0", metrics]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_worker_niceness"] == "0"


def test_a_cluster_that_is_joined_keeps_its_environment(start_fails: Callable[..., Calls]) -> None:
    calls = start_fails(Exception("Head node temp_dir not found in NodeInfo"))
    with pytest.raises(RayStartError, match="--ray-address"), ray_session("head:6379", instead="do without"):
        pass
    [(address, environment)] = calls
    assert address == "head:6379"
    assert [environment[name] for name in NAMES] == ["before"] * 3
    assert LIMIT not in environment


@pytest.mark.parametrize(
    "error",
    [SLOW, RuntimeError("Failed to connect to GCS."), TimeoutError("no port"), ray.exceptions.RayError("no node")],
    ids=lambda error: type(error).__name__,
)
def test_a_slow_start_is_tried_again_with_longer_limits_then_refused(
    start_fails: Callable[..., Calls], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls = start_fails(error, error)
    with pytest.raises(RayStartError, match="use --backend local"), ray_session(None, instead="use --backend local"):
        pass
    limits = [int(environment[LIMIT]) for _, environment in calls]
    assert limits == list(START_SECONDS)
    assert limits[0] < limits[1]
    assert "trying again" in caplog.text
    assert LIMIT not in os.environ
    assert [os.environ[name] for name in NAMES] == ["before"] * 3


def test_time_limits_of_the_user_are_kept(start_fails: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "7")
    calls = start_fails(SLOW, SLOW)
    with pytest.raises(RayStartError), ray_session(None, instead="do"):
        pass
    assert [environment[LIMIT] for _, environment in calls] == ["7", "7"]
    assert [environment["RAY_agent_register_timeout_ms"] for _, environment in calls] == [
        start_limits(seconds)["RAY_agent_register_timeout_ms"] for seconds in START_SECONDS
    ]


def test_extract_says_how_to_do_without_ray(
    start_fails: Callable[..., Calls], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vilbert.pipeline.cli import main

    start_fails(SLOW, SLOW)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"url":"http://example.invalid/a.jpg"}\n')
    assert main(["manifest", str(rows), "--output", str(tmp_path / "m.parquet")]) == 0
    arguments = ["extract", str(tmp_path / "m.parquet"), "--output", str(tmp_path / "out"), "--detector", "shapes"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "timed out during startup" in said
    assert "--backend local" in said


SLOW_FIRST_START = """
import os, time
import ray, psutil
from ray._private import services
from vilbert.pipeline import ray_session

ray_session.START_SECONDS = (1, 120)
get_node, calls = services.get_node, []

def never_there(address, node):
    calls.append(node)
    if calls[0] == node:  # of the first start
        time.sleep(31)
        raise RuntimeError("it is not there")
    return get_node(address, node)

services.get_node = never_there
with ray_session.ray_session(None, instead="do without") as resources:
    assert resources["CPU"] >= 1
    gcs = [p for p in psutil.Process().children() if p.name() == "gcs_server"]
    print("GCS", len(gcs), "starts", len(set(calls)))
print("left", len(psutil.Process().children(recursive=True)))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_second_start_succeeds_and_nothing_is_left_of_the_first() -> None:
    child = subprocess.run(
        [sys.executable, "-c", SLOW_FIRST_START], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr
    assert "GCS 1 starts 2" in child.stdout
    assert "left 0" in child.stdout


def post_job(port: int, headers: dict[str, str]) -> int:
    """Ask a job agent to run a command and return the HTTP status."""
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/job_agent/jobs/",
        data=body,
        headers={"Content-Type": "application/json"} | headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.ray
@pytest.mark.slow
def test_a_private_ray_refuses_jobs_without_its_token_and_runs_workers_at_its_own_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("aiohttp_cors", reason="without ray[default] there is no job agent")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # of the user's cluster, say
    with ray_session(None, instead="do without"):
        token = os.environ["RAY_AUTH_TOKEN"]
        port = ray._private.worker._global_node.dashboard_agent_listen_port
        assert [post_job(port, {}), post_job(port, {"Authorization": "Bearer wrong"})] == [401, 403]
        assert post_job(port, {"Authorization": f"Bearer {token}"}) == 200
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
