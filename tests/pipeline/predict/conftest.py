"""The tiny data sets of tasks."""

from ..tasks.conftest import small  # noqa: F401  a fixture
