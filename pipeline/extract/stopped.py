"""How work that was told to stop leaves."""

from __future__ import annotations


class StoppedError(Exception):
    """The worker was told to stop; its unfinished shards leave nothing behind."""
