"""Karpathy's splits of COCO and Flickr: `dataset_coco.json`, `dataset_flickr30k.json` (Karpathy & Fei-Fei 2015).

`restval` stays `restval`: by convention the training set is train and restval together, which is the user's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from manifests.captions import clean_captions
from manifests.document import need, read_document
from manifests.images import ImageRoot
from manifests.record import ImageRecord, ManifestError
from manifests.report import Report


def caption_texts(row: dict[str, Any], where: str) -> list[str]:
    """Return the captions as written (`raw`), not the lower-cased tokens without punctuation."""
    sentences = need(row, "sentences", list, where)
    return [need(sentence, "raw", str, f"{where}: sentences[{i}]") for i, sentence in enumerate(sentences)]


def read_karpathy(
    path: Path, report: Report, *, images: ImageRoot | None, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record an image; its id is the COCO id, or the file name's stem where there is none (Flickr)."""
    if images is None:
        raise ManifestError(f"{path}: Karpathy files hold no URLs; give --images, the folder of the image files")
    for i, row in enumerate(read_document(path, ["images"])["images"]):
        where = f"{path}: images[{i}]"
        name = need(row, "filename", str, where)
        texts = caption_texts(row, where)
        if not texts:
            report.count("no-caption", f"{where}: {name}")
        yield ImageRecord(
            image_id=str(need(row, "cocoid", int, where)) if "cocoid" in row else PurePosixPath(name).stem,
            uri=images.find(name, folder=str(row.get("filepath", "")), where=where, report=report),
            captions=clean_captions(texts, where, report),
            split=need(row, "split", str, where) if split is None else split,
        )
