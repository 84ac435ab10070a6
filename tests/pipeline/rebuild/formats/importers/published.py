"""Region features as the published tools write them, made byte by byte: the writers of no format are ours."""

from __future__ import annotations

import base64
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

CLASSES = 12
"""The background included."""
ATTRIBUTES = 5
DIM = 8
WIDTH, HEIGHT = 64, 48


class Picture:
    """What a detector found in an image."""

    def __init__(self, number: int, regions: int = 3) -> None:
        draw = np.random.default_rng(number)
        self.image_id = f"COCO_train2014_{number:012d}"
        self.features = draw.normal(size=(regions, DIM)).astype(np.float32)
        corners = draw.uniform(0, 20, size=(regions, 2))
        sides = draw.uniform(1, 20, size=(regions, 2))
        self.boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        logits = draw.normal(size=(regions, CLASSES)) * 3
        probs = np.exp(logits)
        self.probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
        """[N, CLASSES], the background first."""
        self.objects = self.probs[:, 1:].argmax(axis=1)
        """[N] of the foreground alone, from 0, as most tools count."""
        self.scores = self.probs[:, 1:].max(axis=1)
        self.attributes = draw.integers(0, ATTRIBUTES, size=regions)
        self.attribute_scores = draw.uniform(size=regions).astype(np.float32)

    @property
    def regions(self) -> int:
        return len(self.features)

    @property
    def shares(self) -> NDArray[np.float32]:
        """The boxes as shares of the sides, and their widths and heights."""
        x1, y1, x2, y2 = (self.boxes / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])).T
        return np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], axis=1).astype(np.float32)


def pictures(count: int = 4) -> list[Picture]:
    return [Picture(number, regions=2 + number) for number in range(1, count + 1)]


def b64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def tsv_columns(picture: Picture, columns: int) -> list[str]:
    """Return the columns of Bottom-Up Attention's TSV in the variant of so many columns."""
    sizes = [str(WIDTH), str(HEIGHT)]
    arrays = [str(picture.regions), b64(picture.boxes), b64(picture.features)]
    if columns in (6, 7):
        return [picture.image_id, *sizes, *arrays, b64(picture.probs)][:columns]
    found = [b64(picture.objects.astype("<i8")), b64(picture.scores)]
    found += [b64(picture.attributes.astype("<i8")), b64(picture.attribute_scores)]
    return [picture.image_id, *sizes[::-1], *found, *arrays, b64(picture.probs), b64(picture.probs), "x"][:columns]


def tsv(pictures: list[Picture], columns: int, *, end: str = "\r\n", literal: bool = False) -> bytes:
    """Return a TSV; `literal`: arrays as Python 3 prints bytes."""
    lines = []
    for picture in pictures:
        fields = tsv_columns(picture, columns)
        lines.append(
            "\t".join(f"b'{field}'" if literal and len(field) > 20 and "_" not in field else field for field in fields)
        )
    return (end.join(lines) + end).encode()


def write_lmdb(path: Path, values: dict[bytes, bytes], *, subdir: bool = True) -> Path:
    """Write an environment in one transaction, as the published scripts do."""
    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as environment, environment.begin(write=True) as writer:
        for key, value in values.items():
            writer.put(key, value)
    return path


def vilbert_lmdb_values(found: list[Picture], kind: str) -> dict[bytes, bytes]:
    """Return the values of ViLBERT's task LMDB, of texts or of arrays."""
    values = {}
    for picture in found:
        if kind == "texts":
            names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
            item: dict[str, Any] = dict(zip(names, tsv_columns(picture, 7), strict=True))
        else:
            item = {
                "image_id": picture.image_id,
                "image_h": HEIGHT,
                "image_w": WIDTH,
                "num_boxes": picture.regions,
                "boxes": picture.boxes,
                "features": picture.features,
            }
        values[picture.image_id.encode()] = pickle.dumps(item, protocol=3)
    values[b"keys"] = pickle.dumps([picture.image_id.encode() for picture in found], protocol=3)
    return values


def pack_text(text: str) -> bytes:
    """Return a text in MessagePack."""
    data = text.encode()
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])) + data


def pack_bytes(data: bytes) -> bytes:
    """Return bytes in MessagePack."""
    return b"\xc6" + struct.pack(">I", len(data)) + data


def pack_array(array: NDArray[Any]) -> bytes:
    """Return an array as msgpack_numpy packs it: a map of nd, type, kind, shape and data, whose keys are bytes."""
    assert array.ndim < 16
    shape = bytes([0x90 | array.ndim]) + b"".join(b"\xce" + struct.pack(">I", side) for side in array.shape)
    fields = [
        (b"nd", b"\xc3"),
        (b"type", pack_text(array.dtype.str)),
        (b"kind", pack_bytes(b"")),
        (b"shape", shape),
        (b"data", pack_bytes(np.ascontiguousarray(array).tobytes())),
    ]
    return b"\x85" + b"".join(pack_bytes(name) + value for name, value in fields)


def pretraining_lmdb_values(found: list[Picture]) -> dict[bytes, bytes]:
    """Return the values of tensorpack's LMDB as ViLBERT's preprocessing writes it, with a caption per image."""
    keys = [f"{number:08d}".encode() for number in range(len(found))]
    values = {}
    for key, picture in zip(keys, found, strict=True):
        arrays = [pack_array(part) for part in (picture.features, picture.probs, picture.boxes)]
        texts = (str(picture.regions), str(HEIGHT), str(WIDTH), picture.image_id, f"a caption of {picture.image_id}")
        values[key] = b"\x98" + b"".join([*arrays, *map(pack_text, texts)])
    values[b"__keys__"] = bytes([0x90 | len(keys)]) + b"".join(map(pack_bytes, keys))
    return values


def uniter_value(picture: Picture, *, compressed: bool) -> bytes:
    """Return a value of UNITER's LMDB; the compressed one has the array that UNITER's script stores by mistake."""
    arrays = {
        "norm_bb": picture.shares.astype(np.float16),
        "features": picture.features.astype(np.float16),
        "conf": picture.scores[:, None].astype(np.float16),
        "soft_labels": picture.probs.astype(np.float16),
    }
    if not compressed:
        packed = b"".join(pack_text(name) + pack_array(array) for name, array in arrays.items())
        return bytes([0x80 | len(arrays)]) + packed
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, allow_pickle=np.array(True))  # type: ignore[arg-type]
    return file.getvalue()


def npy_of_object(value: object) -> bytes:
    """Return a .npy file with a pickled object, as `np.save` writes a mapping."""
    file = io.BytesIO()
    np.save(file, np.array(value, dtype=object), allow_pickle=True)
    return file.getvalue()


class Hostile:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)
