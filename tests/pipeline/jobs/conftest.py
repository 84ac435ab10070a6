"""Jobs are tested by the first of them, extraction."""

from ..extract.conftest import harm, images, manifest, nursery, settings_for  # noqa: F401  fixtures
