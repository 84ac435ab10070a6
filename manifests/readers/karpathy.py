"""Karpathy's splits of COCO and Flickr: `dataset_coco.json`, `dataset_flickr30k.json` (Karpathy & Fei-Fei 2015).

`restval` is kept as a split: by convention the training set is train and restval together, which the user can select.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vilbert.manifests.captions import image_captions
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.readers.fields import FieldError, id_field, list_field, text_field
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report


def caption_texts(row: dict[str, Any], where: str) -> list[str]:
    """Return the captions as written (`raw`), not the lower-cased tokens without punctuation.

    Raises:
        ManifestError: A sentence is not an object with a string. The message names the sentence.
    """
    try:
        sentences = list_field(row, "sentences")
    except FieldError as error:
        raise ManifestError(f"{where}: {error}") from None
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, dict):
            raise ManifestError(f"{where}: sentences[{i}] is {sentence!r:.80}, expected an object with the text `raw`")
        if not isinstance(raw := sentence.get("raw"), str):
            raise ManifestError(f"{where}: sentences[{i}]: 'raw' is {raw!r:.80}, expected text")
    return [sentence["raw"] for sentence in sentences]


def raw_captions(row: dict[str, Any], where: str, report: Report) -> list[object]:
    """Return the `raw` value of every sentence, of any type. Count sentences without it."""
    captions: list[object] = []
    for i, sentence in enumerate(list_field(row, "sentences")):
        if isinstance(sentence, dict) and "raw" in sentence:
            captions.append(sentence["raw"])
        elif sentence is None:
            captions.append(None)
        else:
            report.count("bad-caption", f"{where}: sentences[{i}] is {sentence!r:.80}, expected an object with `raw`")
    return captions


def read_karpathy(
    path: Path, report: Report, *, images: ImageRoot | None, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record per image. Its id is the COCO id, or the stem of the file name if it has no COCO id (Flickr)."""
    if images is None:
        raise ManifestError(f"{path}: Karpathy files hold no URLs; give --images, the folder of the image files")
    for i, row in enumerate(read_document(path, ["images"])["images"]):
        where = f"{path}: images[{i}]"
        try:
            name = text_field(row, "filename")
            folder = text_field(row, "filepath") if row.get("filepath") else ""
            image_id = id_field(row, "cocoid") if row.get("cocoid") is not None else id_field(_named(name), "filename")
            part = text_field(row, "split") if split is None else split
            texts = raw_captions(row, where, report)
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        yield ImageRecord(
            image_id=image_id,
            uri=images.find(name, folder=folder, where=where, report=report),
            captions=image_captions(texts, f"{where}: {name}", report),
            split=part,
        )


def _named(name: str) -> dict[str, str]:
    return {"filename": PurePosixPath(name).stem}
