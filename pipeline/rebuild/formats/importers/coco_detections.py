"""COCO detection results, such as detectron2's `coco_instances_results.json`: boxes, classes and scores, no features.

A data set has a feature for each region, so nothing can be imported. To extract features at these boxes, use
`vilbert manifest --given-boxes`, which reads such a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.registry import ImportOptions

_HEAD = 1 << 16


class Importer:
    """Recognises COCO detection results and explains how to use them."""

    def detect(self, path: Path) -> bool:
        """Return whether a file begins with a JSON list of mappings with `image_id` and `bbox`."""
        try:
            if not path.is_file():
                return False
            with open(path, "rb", opener=open_regular) as file:
                head = file.read(_HEAD)
        except OSError:
            return False
        first = re.match(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{[^{}]*", head)
        return first is not None and b'"image_id"' in first[0] and b'"bbox"' in first[0]

    def open(self, path: Path, _options: ImportOptions) -> NoReturn:
        """Refuse the file.

        Raises:
            ShardError: Always; the message says how to use the boxes.
        """
        raise ShardError(
            f"{path}: COCO detections are boxes without features. To compute features of these boxes: "
            f"vilbert manifest IMAGES --given-boxes {path} --output boxes.parquet, then "
            "vilbert extract boxes.parquet --output features"
        )
