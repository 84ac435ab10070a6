"""Draw regions on a photograph: boxes in distinct colours with legible labels.

Legend: N boxes, H and W the picture's height and width in pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

SMALL_SIDE = 640
"""Pictures whose longer side has fewer pixels are enlarged; otherwise labels would cover them."""

GOLDEN_RATIO = 0.6180339887498949
"""Step of the hue (golden ratio) that gives distinct colours for any number of boxes."""


def colour(index: int) -> Colour:
    """Return a saturated RGB colour that differs from those of the previous indices."""
    lightness = (0.5, 0.65, 0.4)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(index * GOLDEN_RATIO % 1, lightness, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink(background: Colour) -> Colour:
    """Return black or white, whichever contrasts more with the background (relative luminance, gamma 2.2)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)


def overlap(first: Rectangle, second: Rectangle) -> float:
    """Return the area of the intersection of two xyxy rectangles."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def label_places(box: Rectangle, size: tuple[float, float], line: int) -> Iterator[Rectangle]:
    """Yield positions for a label of `size` (width, height) at a box, the best first."""
    x1, y1, x2, y2 = box
    width, height = size
    for left in (x1, x2 - width):
        for top in (y1 - height, y1 + line, y2 - line - height, y2):
            yield left, top, left + width, top + height


def place_label(
    box: Rectangle, size: tuple[float, float], line: int, taken: Sequence[Rectangle], canvas: tuple[int, int]
) -> Rectangle | None:
    """Return a rectangle for a label inside the (W, H) canvas without overlap; None if no position is free."""
    for place in label_places(box, size, line):
        left = min(max(place[0], 0.0), max(canvas[0] - size[0], 0.0))
        top = min(max(place[1], 0.0), max(canvas[1] - size[1], 0.0))
        fitted = (left, top, left + size[0], top + size[1])
        if not any(overlap(fitted, other) for other in taken):
            return fitted
    return None


def draw_regions(pixels: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], labels: Sequence[str]) -> Image.Image:
    """Return the photograph with its boxes and labels.

    pixels: RGB [H, W, 3]. boxes_xyxy: [N, 4] in its pixels. labels: N, the most important first. A label without a free
    position at its box is omitted; the box is still drawn.
    """
    image = Image.fromarray(pixels)
    scale = max(1, -(-SMALL_SIDE // max(image.size)))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    line = max(2, round(max(image.size) / 320))
    font = ImageFont.load_default(size=max(11, round(max(image.size) / 50)))
    canvas = ImageDraw.Draw(image)
    boxes: list[Rectangle] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes_xyxy * scale).tolist()]
    # The least important first, so that the most important are drawn over the others.
    for index, box in reversed(list(enumerate(boxes))):
        canvas.rectangle(box, outline=colour(index), width=line)
    taken: list[Rectangle] = []
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        left, top, right, bottom = canvas.textbbox((0, 0), label, font=font)
        place = place_label(box, (right - left + 2 * line, bottom - top + 2 * line), line, taken, image.size)
        if place is None:
            continue
        taken.append(place)
        canvas.rectangle(place, fill=colour(index))
        canvas.text((place[0] + line - left, place[1] + line - top), label, font=font, fill=ink(colour(index)))
    return image
