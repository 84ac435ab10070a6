"""Ray for the length of a `with` block: a cluster that is joined, or a Ray of this machine alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from pipeline.shards.errors import RefusedError
from pipeline.signals import keeping_handlers

logger = logging.getLogger(__name__)


def _own_settings(*, dashboard: bool) -> dict[str, str]:
    """Return what the environment tells a Ray for this machine alone; it is read at import and at the start."""
    return {
        # Its processes may not be reached from other machines.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Processes that nobody asked for, and figures that nobody reads, take a twentieth of a core from the detector.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_metrics_collection": str(int(dashboard)),
    }


@contextmanager
def ray_session(address: str | None, *, instead: str, dashboard: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster at `address`, or start Ray on this machine on loopback, and yield its resources.

    instead: how to do without Ray, for the message of the RefusedError that is raised where Ray does not start.
    """
    if dashboard and find_spec("aiohttp_cors") is None:
        raise RefusedError("--dashboard needs more of Ray than is installed: pip install 'ray[default]'")
    if address is None:
        os.environ.update(_own_settings(dashboard=dashboard))
    import ray

    try:
        with keeping_handlers():
            session = ray.init(
                address=address or "local",
                include_dashboard=dashboard if address is None else None,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RefusedError(f"Ray does not start: {error}; check --ray-address, or {instead}") from error
    if dashboard:
        logger.info("Ray's dashboard: http://%s", session.dashboard_url)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
