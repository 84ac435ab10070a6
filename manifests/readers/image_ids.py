"""Image ids from file names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from vilbert.manifests.readers.images import is_image


def image_names(names: Sequence[str]) -> dict[str, str]:
    """Return ids by file name for the images of one folder: the stem, or the whole name if the stem is not unique.

    `a.jpg` and `a.png` have the ids `a.jpg` and `a.png`; next to them, `a.jpg.png` keeps its whole name too.
    """
    images = [name for name in names if is_image(name)]
    stems = Counter(os.path.splitext(name)[0] for name in images)
    stems.update(images)
    return {name: stem if stems[stem := os.path.splitext(name)[0]] == 1 else name for name in images}
