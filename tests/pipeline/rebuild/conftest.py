"""Data sets to rebuild."""

from ..shards.conftest import _without_fsync, dataset, make_dataset  # noqa: F401  fixtures
