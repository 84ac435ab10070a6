"""A photograph inside an HTML page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_SIDE = 1280
"""Pixels of a photograph in a page; a larger one is reduced."""


def photograph_uri(pixels: NDArray[np.uint8], longest_side: int = LONGEST_SIDE) -> str:
    """Return RGB pixels [H, W, 3] as a data URI, reduced where a side is longer than `longest_side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_side, longest_side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
