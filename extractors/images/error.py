"""Why an image gave no regions: the one table of reason codes, and the error that carries one.

The codes stand in `failures/NNNNNN.jsonl` and in the counts of each shard's record, so they are part of the format:
add to them, never rename one. A detail is the same on every run and every machine, for the failure files are compared
byte by byte.
"""

from __future__ import annotations

REASONS = {
    # finding the bytes
    "missing_file": "no file or object at the record's uri",
    "unreadable": "the uri is there but cannot be read: permissions, network, a damaged archive",
    "sha256_mismatch": "the bytes are not those whose sha256 the manifest gives",
    # bytes to pixels
    "empty": "no bytes at all",
    "too_many_bytes": "larger than --max-bytes",
    "not_an_image": "something else under an image's name: a web page, SVG, PDF, archive, video, text",
    "unsupported_format": "an image, in a format or variant that is not decoded: AVIF, HEIF, PSD, BigTIFF, 12-bit JPEG",
    "truncated": "the bytes end before the image does",
    "corrupt": "the bytes contradict themselves or their checksums, or the decoder cannot follow them",
    "too_many_pixels": "more pixels than --max-pixels, by its header; never decoded",
    "too_large_side": "a side longer than --max-side, by its header; never decoded",
    "too_small": "a side shorter than --min-side",
    "aspect": "more elongated than --max-aspect",
    # pixels to regions
    "bad_boxes": "given boxes that are not finite, are empty, or lie outside the image",
    "no_regions": "the detector kept no region",
    "detector_error": "the detector failed on this image alone",
    "out_of_memory": "not enough memory for this image alone",
}
"""Every reason code, and what it means."""


class ImageError(Exception):
    """One image that gave no regions; `reason` is a key of REASONS, `detail` one line on this image."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"reason code {reason!r} is not in REASONS")
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)  # both, so that the error survives a trip between processes

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail or REASONS[self.reason]}"
