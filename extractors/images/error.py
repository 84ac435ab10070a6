"""Why an image gave no regions: the one table of reason codes, and the error that carries one.

The codes stand in `failures/NNNNNN.jsonl` and in the counts of each shard's record, so they are part of the format:
add to them, never rename one. A detail is the same on every run and every machine, for the failure files are compared
byte by byte.
"""

from __future__ import annotations

import re

REASONS = {
    # finding the bytes
    "missing_file": "no file or object at the record's uri",
    "unreadable": "the uri is there but cannot be read: permissions, network, a damaged archive",
    "bad_url": "the uri is not a URL that can be asked for",
    "unsupported_scheme": "no package for the uri's scheme is installed, or it is one that is never opened",
    "http_404": "the server's answer; so too http_403, http_410, http_429, http_500, and every other status",
    "timeout": "no connection, no answer, or not the whole of it in the time allowed",
    "connection": "the connection was refused, broken off, or ended before the announced end",
    "tls": "no secure connection: a certificate that has expired, belongs to another host, or has an unknown issuer",
    "dns": "there is no host of that name",
    "dns_unavailable": "the name of the host could not be looked up just then",
    "redirects": "too many redirects, a circle of them, or one to a URL that is not http or https",
    "private_address": "the host has a private, loopback or link-local address; see --allow-private-addresses",
    "sha256_mismatch": "the bytes are not those whose sha256 the manifest gives",
    # bytes to pixels
    "empty": "no bytes at all",
    "too_large": "larger than --max-bytes",
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
    "feature_precision": "int8 or float8 does not hold the features precisely; see --feature-dtype",
    "detector_error": "the detector failed on this image alone",
    "out_of_memory": "not enough memory for this image alone",
    # the whole process
    "crash": "the process died over it, three times: a fault in a decoder or the detector, or the memory ran out",
    "hang": "the process made no progress on it, three times; see --stall-seconds",
}
"""Every reason code, and what it means. `http_404` stands for all of the form `http_STATUS`."""

_TRANSIENT = {"unreadable", "timeout", "connection", "dns_unavailable", "out_of_memory", "detector_error"}
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530}
_STATUS = re.compile(r"http_([1-9][0-9]{2})")


def is_reason(reason: str) -> bool:
    """Return whether a code is one of REASONS, or an http status."""
    return reason in REASONS or _STATUS.fullmatch(reason) is not None


def is_transient(reason: str) -> bool:
    """Return whether another try may succeed although nothing was changed: a busy server, a broken line.

    An image that is missing, is not an image, or is too large stays so.
    """
    if status := _STATUS.fullmatch(reason):
        return int(status[1]) in _TRANSIENT_STATUSES
    return reason in _TRANSIENT


class ImageError(Exception):
    """One image that gave no regions; `reason` is a code of REASONS, `detail` one line on this image."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if not is_reason(reason):
            raise ValueError(f"reason code {reason!r} is not in REASONS")
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)  # both, so that the error survives a trip between processes

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail or REASONS.get(self.reason, 'the server refused')}"

    def bare(self) -> ImageError:
        """Return this error without its traceback and causes, whose frames keep what they had read in memory."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)
