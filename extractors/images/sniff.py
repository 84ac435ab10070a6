"""What a file is, by its first bytes. Names and content types lie too often to be asked."""

from __future__ import annotations

from typing import NamedTuple

_HEAD = 1024

# (offset, magic, name)
_DECODABLE = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBPVP8", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)  # "BM" alone also begins many a text
_OTHER_IMAGES = (
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphe", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
)
_NOT_IMAGES = (
    (0, b"%PDF", "pdf"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"Rar!", "rar"),
    (0, b"BZh", "bzip2"),
    (0, b"7z\xbc\xaf", "7-zip"),
    (4, b"ftyp", "video"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (8, b"AVI ", "video"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (8, b"WAVE", "wav"),
    (0, b"FWS", "flash"),
    (0, b"CWS", "flash"),
    (0, b"version https://git-lfs", "a git-lfs pointer: fetch the file itself"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta", b"<title")


class Sniffed(NamedTuple):
    """A file's type, and what can be done with it."""

    name: str
    image: bool
    decodable: bool


def sniff(data: bytes) -> Sniffed:
    """Return what the first bytes say; of text, whether it is HTML, SVG, XML or JSON."""
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return Sniffed("BMP", True, True)
    for table, image, decodable in (
        (_DECODABLE, True, True),
        (_OTHER_IMAGES, True, False),
        (_NOT_IMAGES, False, False),
    ):
        for offset, magic, name in table:
            if data.startswith(magic, offset):
                return Sniffed(name, image, decodable)
    return Sniffed(_text(data[:_HEAD]) or f"unknown, first bytes {data[:8].hex()}", False, False)


def _text(head: bytes) -> str | None:
    """Return which kind of text this is; None where it is not text."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<"):
        if b"<svg" in start:
            return "svg"
        if any(tag in start for tag in _HTML):
            return "html"
        return "xml" if start.startswith(b"<?xml") else "markup"
    if start.startswith((b"{", b"[")):
        return "json"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the cut at the end may fall within a character
            return None
        text = head[: error.start].decode()
    return "text" if all(character.isprintable() or character.isspace() for character in text) else None
