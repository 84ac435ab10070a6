"""`vilbert browse`: index data sets, then serve pages about them on a loopback address."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError
from vilbert.settings import NonNegativeInt, validated

HOST = "127.0.0.1"


@validated
class BrowseSettings:
    """Look at data sets in a web page: photographs with boxes, filters, statistics, failures, similar regions.

    The first call writes an index into DIR/.browse (or into the user's cache folder where DIR is read-only). Stop the
    server with Ctrl-C.
    """

    directories: Positional[tuple[Path, ...]]
    """Folders of data sets."""
    selection: tuple[Path, ...] = ()
    """Files of `vilbert select`, at most one for each data set: show only these samples of it."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 0
    """Port on 127.0.0.1; 0: any free port."""
    checkpoint: Path | None = None
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/, to ask about the photographs."""
    task: str | None = None
    """Task to ask, if the model was trained on several."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model."""
    num_workers: NonNegativeInt = 0
    """Processes that read shards for the index; 0: one per core, none for a small data set."""
    allow_private_addresses: bool = False
    """Fetch photographs from hosts with private, loopback or link-local addresses too."""

    def __post_init__(self) -> None:
        if not self.directories:
            raise ValueError("DIR: give the folder of at least one data set")
        if self.task is not None and self.checkpoint is None:
            raise ValueError("--task: needs --checkpoint, the model to ask")


def browse(settings: BrowseSettings) -> int:
    """Build what is missing of the indexes, print the address and serve until interrupted."""
    try:
        import uvicorn
        from starlette.applications import Starlette  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            f"vilbert browse needs {error.name}, which is not installed: pip install 'vilbert-pipeline[browse]'"
        ) from error
    from vilbert.pipeline.browse.server import make_app
    from vilbert.pipeline.browse.site import Site

    with listen(settings.port) as listener, Site.open(settings) as site:
        print(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C stops the server)", flush=True)
        config = uvicorn.Config(
            make_app(site), log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off"
        )
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of the loopback address; RefusedError if the port is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise RefusedError(f"--port {port}: cannot listen on {HOST} ({error.strerror}); choose another port") from error
    return listener
