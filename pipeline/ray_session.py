"""Use Ray inside a `with` block: join a cluster, or start a private Ray on this machine."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

import vilbert
from vilbert.pipeline.errors import RefusedError, first_line
from vilbert.pipeline.signals import keeping_handlers
from vilbert.pipeline.socket_folder import ray_folder

logger = logging.getLogger(__name__)

START_SECONDS = (60, 120)
"""Time limits of the first and second attempt to start a private Ray; a normal start takes a few seconds."""


class RayStartError(RefusedError):
    """Ray did not start, or the cluster cannot be joined; the message names the alternative without Ray."""


@contextmanager
def ray_session(address: str | None, *, instead: str, dashboard: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster at `address`, or start a private Ray on loopback, and yield its resources.

    Args:
        address: `auto` or HOST:PORT of a cluster; None starts Ray on this machine.
        instead: What to do without Ray, for the error message.
        dashboard: Start Ray's dashboard with a private Ray.

    Raises:
        RayStartError: Ray does not start, after a second attempt with longer time limits, or cannot be joined.
        RefusedError: Ray's workers would import a different package `vilbert`.
    """
    require_own_package(instead)
    if dashboard and find_spec("aiohttp_cors") is None:
        raise RefusedError("--dashboard needs parts of Ray that are not installed: pip install 'ray[default]'")
    with ExitStack() as stack:
        if address is None:
            stack.enter_context(_environment(_private_settings(dashboard=dashboard)))
            session = _start(dashboard, instead, stack.enter_context(ray_folder(_default_folder())))
        else:
            session = _join(address, instead)
        if dashboard:
            logger.info("Ray's dashboard: http://%s (its token: ray get-auth-token)", session.dashboard_url)
        import ray

        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()


def require_own_package(instead: str) -> None:
    """Raise RefusedError if the current directory has another package or module `vilbert`.

    Ray puts the current directory of this process first on the module search path of its workers.
    """
    spec = PathFinder.find_spec("vilbert", [str(Path.cwd())])
    own = Path(vilbert.__file__).resolve()
    if spec is None or spec.origin is None or Path(spec.origin).resolve() == own:
        return
    raise RefusedError(
        f"{spec.origin}: Ray's workers would import this file in place of {own}; run the command from another folder, "
        f"or {instead}"
    )


def _private_settings(*, dashboard: bool) -> dict[str, str]:
    """Return the environment variables of a private Ray, which reads them at import and at start."""
    settings = {
        # Do not make its processes reachable from other machines.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Its job agent runs arbitrary commands: accept only clients that have the token of this session.
        "RAY_AUTH_MODE": "token",
        # Idle worker processes and unused metrics would take about 5% of a core from the detector.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_metrics_collection": str(int(dashboard)),
        # With Ray's default, 15, workers get about 3% of a core that another process uses too.
        "RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "0"),  # noqa: SIM112  Ray's spelling
        # Read at import, so both attempts use the same value.
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": os.environ.get("RAY_DASHBOARD_STARTUP_TIMEOUT_S", str(START_SECONDS[-1])),
    }
    if not dashboard:  # users open the dashboard with the token in ~/.ray/auth_token
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return settings


def start_limits(seconds: int) -> dict[str, str]:
    """Return Ray's time limits for the start of its processes, as environment variables.

    Args:
        seconds: The limit of the node. A worker process gets at least Ray's own limit of 60 seconds.
    """
    return {
        "RAY_gcs_server_port_wait_time_s": str(seconds),
        "RAY_raylet_start_wait_time_s": str(seconds),
        "RAY_agent_register_timeout_ms": str(seconds * 1000),
        "RAY_worker_register_timeout_seconds": str(max(seconds, 60)),
    }


def _join(address: str, instead: str) -> Any:
    import ray

    try:
        with keeping_handlers():
            return ray.init(address=address, logging_level=logging.ERROR)
    except Exception as error:  # ray.init raises bare Exception where the head's node has not started
        raise RayStartError(
            f"Ray cannot be joined at {address}: {first_line(error)}; check --ray-address, or {instead}"
        ) from error


def _default_folder() -> str:
    """Return the folder in which Ray creates its sessions by default."""
    return str(Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")), "ray"))  # noqa: S108


def _start(dashboard: bool, instead: str, folder: str | None) -> Any:
    """Start a private Ray in `folder`, with longer time limits in a second attempt."""
    import ray

    set_by_user = {name for name in start_limits(0) if name in os.environ}
    time_limits = iter(START_SECONDS)

    def start() -> Any:
        seconds = next(time_limits)
        limits = {name: value for name, value in start_limits(seconds).items() if name not in set_by_user}
        with _environment(limits), _ending_half_started(), keeping_handlers():
            _read_environment_again()
            return ray.init(address="local", include_dashboard=dashboard, logging_level=logging.ERROR, _temp_dir=folder)

    def warn(state: RetryCallState) -> None:
        problem = state.outcome and state.outcome.exception()
        logger.warning(
            "Ray does not start (%s); trying again with time limits of %d s",
            first_line(problem) if problem else "",
            START_SECONDS[-1],
        )

    # ray.init raises bare Exception where its node is slow to start, and many other types for other causes.
    tries = Retrying(
        retry=retry_if_exception(_may_be_slow),
        stop=stop_after_attempt(len(START_SECONDS)),
        before_sleep=warn,
        reraise=True,
    )
    try:
        return tries(start)
    except Exception as error:
        raise RayStartError(f"Ray does not start on this machine: {first_line(error)}; {instead}") from error


def _may_be_slow(error: BaseException) -> bool:
    """Return whether a start that failed with this error may succeed with longer time limits."""
    return isinstance(error, TimeoutError) or (
        isinstance(error, Exception) and not isinstance(error, OSError | ValueError | TypeError)
    )


def _read_environment_again() -> None:
    """Make Ray's C++ code read the environment again; it caches the first values of this process."""
    with suppress(ImportError, AttributeError):  # Ray has no public function for it
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _ending_half_started() -> Iterator[None]:
    """Kill the processes of a Ray that fails to start inside the block; `ray.shutdown` does not know them yet."""
    import ray

    before = _ray_processes()
    try:
        yield
    except BaseException:
        ray.shutdown()
        for process in _ray_processes() - before:
            for one in (*_descendants(process), process):
                with suppress(_psutil().Error):
                    one.kill()
            with suppress(_psutil().Error):
                process.wait(5)
        raise


def _ray_processes() -> set[Any]:
    """Return the child processes of this process that are Ray programs."""
    import ray

    programs = str(Path(ray.__file__).parent)
    found = set()
    for process in _psutil().Process().children():
        with suppress(_psutil().Error):
            if any(argument.startswith(programs) for argument in process.cmdline()):
                found.add(process)
    return found


def _descendants(process: Any) -> list[Any]:
    """Return all descendants of a process."""
    with suppress(_psutil().Error):
        return list(process.children(recursive=True))
    return []


def _psutil() -> Any:
    """Return psutil, which is bundled with Ray and importable once Ray is imported."""
    importlib.import_module("ray")
    return importlib.import_module("psutil")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
