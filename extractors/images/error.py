"""Reason codes of images without regions, and the error that carries one.

The codes are written to `failures/NNNNNN.jsonl` and to the counts in each shard's record, so they are part of the
format: add codes, never rename one. A detail must be the same on every run and every machine, because failure files are
compared byte by byte.
"""

from __future__ import annotations

import re

REASONS = {
    # reading the bytes
    "missing_file": "no file or object at the uri of the row",
    "unreadable": "the uri exists but cannot be read: permissions, network, a damaged archive",
    "bad_url": "the uri is not a URL that can be requested",
    "unsupported_scheme": "the package for the uri's scheme is not installed, or the scheme is never opened",
    "http_404": "the status code of the server; also http_403, http_410, http_429, http_500, and every other status",
    "timeout": "no connection, no answer, or no complete answer within the time limit",
    "connection": "the connection was refused, interrupted, or closed before the announced end",
    "tls": "no secure connection: a certificate that has expired, belongs to another host, or has an unknown issuer",
    "dns": "the host does not exist",
    "dns_unavailable": "the name of the host could not be resolved at that time",
    "redirects": "too many redirects, a redirect loop, or a redirect to a URL that is not http or https",
    "private_address": "the host has a private, loopback or link-local address; see --allow-private-addresses",
    "sha256_mismatch": "the sha256 of the bytes differs from the manifest",
    # decoding
    "empty": "zero bytes",
    "too_large": "larger than --max-bytes",
    "not_an_image": "not an image: a web page, SVG, PDF, archive, video, text",
    "unsupported_format": "an image in an unsupported format or variant: AVIF, HEIF, PSD, BigTIFF, 12-bit JPEG",
    "truncated": "the bytes end before the end of the image",
    "corrupt": "the bytes contradict each other or their checksums, or the decoder fails",
    "too_many_pixels": "more pixels in the header than --max-pixels; never decoded",
    "too_large_side": "a side in the header longer than --max-side; never decoded",
    "too_small": "a side shorter than --min-side",
    "aspect": "aspect ratio above --max-aspect",
    # detection
    "bad_boxes": "given boxes that are not finite, are empty, lie outside the image, or are all within 0..1",
    "no_regions": "the detector kept no region",
    "feature_precision": "int8 or float8 cannot represent the features precisely enough; see --feature-dtype",
    "detector_error": "the detector failed on this image, processed alone",
    "out_of_memory": "not enough memory for this image, processed alone",
    # the whole process
    "crash": "the process died three times on this image: a fault in a decoder or the detector, or out of memory",
    "hang": "the process made no progress on this image three times; see --stall-seconds",
}
"""Every reason code and its meaning. `http_404` stands for all codes of the form `http_STATUS`."""

_TRANSIENT = {"unreadable", "timeout", "connection", "dns_unavailable", "out_of_memory", "detector_error"}
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530}
_STATUS = re.compile(r"http_([1-9][0-9]{2})")


def is_reason(reason: str) -> bool:
    """Return whether a code is in REASONS or has the form `http_STATUS`."""
    return reason in REASONS or _STATUS.fullmatch(reason) is not None


def is_transient(reason: str) -> bool:
    """Return whether a retry without any change may succeed, as after a timeout or from a busy server.

    An image that is missing, damaged or too large fails again.
    """
    if status := _STATUS.fullmatch(reason):
        return int(status[1]) in _TRANSIENT_STATUSES
    return reason in _TRANSIENT


class ImageError(Exception):
    """An image without regions. `reason` is a code of REASONS, `detail` one line about this image."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if not is_reason(reason):
            raise ValueError(f"reason code {reason!r} is not in REASONS")
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)  # both, so that the error can be pickled

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail or REASONS.get(self.reason, 'the server refused the request')}"

    def bare(self) -> ImageError:
        """Return this error without its traceback and causes, whose frames keep what they had read in memory."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)
