"""Descriptions of a data set and a sample, as JSON values and as lines of text: pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.columns.describe import column_line
from vilbert.pipeline.shards.dataset import DatasetInfo, sum_records, sum_splits
from vilbert.pipeline.shards.record import ShardRecord
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.terminal import counted

LISTED_NAMES = 8
"""Maximum number of classes or attributes in the text."""
VALUE_WIDTH = 90
"""Maximum number of characters of a setting in the text."""


def describe_dataset(
    info: DatasetInfo,
    records: Mapping[int, ShardRecord],
    first_samples: Sequence[Sample],
    columns: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return a description of a data set, as JSON values; columns: the result of `describe_columns`."""
    totals = sum_records(records.values())
    first = [
        {"key": sample.key, "image_id": sample.meta["image_id"], "boxes": len(sample.regions)}
        for sample in first_samples
    ]
    return {
        "storage": info.storage,
        "complete": info.complete,
        "shards": {"done": len(records), "planned": info.shards, "rows_each": info.shard_size},
        "rows": info.rows,
        "samples": totals.samples,
        "failures": totals.failures,
        "dropped": totals.dropped,
        "splits": sum_splits(records.values()),
        "bytes": totals.bytes,
        "fields": info.fields,
        "columns": list(columns),
        "class_names": list(info.class_names),
        "attribute_names": list(info.attribute_names),
        "manifest": info.manifest,
        "manifest_hash": info.manifest_hash,
        "converted": list(info.converted),
        "fingerprint": info.fingerprint,
        "fingerprint_fields": info.fingerprint_fields,
        "software": info.software,
        "first_samples": first,
    }


def describe_sample(info: DatasetInfo, sample: Sample, max_boxes: int) -> dict[str, Any]:
    """Return a description of a sample, as JSON values, with the best objects first."""
    regions = sample.regions
    return {
        "key": sample.key,
        "width": regions.width,
        "height": regions.height,
        "meta": sample.meta,
        **({"image_bytes": len(sample.image)} if sample.image is not None else {}),
        "fields": _describe_arrays(sample),
        "objects": [_describe_object(info, regions, int(box)) for box in best_boxes(regions, max_boxes)],
    }


def _describe_arrays(sample: Sample) -> dict[str, Any]:
    """Return the arrays as they are read; for features, with the stored dtype."""
    document = {name: _describe_array(array) for name, array in sample.regions.arrays().items()}
    document["features"]["dtype"] = str(sample.arrays()["features"].dtype)
    return document


def _describe_array(array: NDArray[Any]) -> dict[str, Any]:
    document = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if not array.size:
        return document
    finite = array[np.isfinite(array)]
    bounds = {"min": finite.min().item(), "max": finite.max().item()} if finite.size else {}
    return {**document, **bounds, "not_finite": array.size - finite.size}


def _describe_object(info: DatasetInfo, regions: Regions, box: int) -> dict[str, Any]:
    document = {"box": box, "xyxy": [round(side, 1) for side in labelled_boxes(regions)[box].tolist()]}
    if regions.object_ids is not None and regions.object_scores is not None:
        document["name"] = name_of(info.class_names, int(regions.object_ids[box]))
        document["score"] = round(float(regions.object_scores[box]), 4)
    if regions.attribute_ids is not None and regions.attribute_scores is not None:
        document["attribute"] = name_of(info.attribute_names, int(regions.attribute_ids[box]))
        document["attribute_score"] = round(float(regions.attribute_scores[box]), 4)
    return document


def name_of(names: tuple[str, ...], index: int) -> str:
    """Return a class's name, or its number if it has no name."""
    return names[index] if index < len(names) else f"id {index}"


def best_boxes(regions: Regions, count: int) -> NDArray[np.intp]:
    """Return the indices of the boxes with the highest object scores, in descending order; ties in box order.

    Without objects, the first regions in the detector's order are returned.
    """
    if regions.object_scores is None:
        return np.arange(min(count, len(regions)))
    return np.argsort(-regions.object_scores, kind="stable")[:count]


def labelled_boxes(regions: Regions) -> NDArray[np.float32]:
    """Return the boxes [N, 4] to which the objects' names belong: the refined boxes if they are stored."""
    return regions.boxes if regions.object_boxes is None else regions.object_boxes


def box_labels(regions: Regions, class_names: tuple[str, ...], boxes: NDArray[np.intp]) -> list[str]:
    """Return labels for some boxes: the object and its score, or the region's number if it has no object."""
    if regions.object_ids is None or regions.object_scores is None:
        return [str(box) for box in boxes.tolist()]
    names = [name_of(class_names, int(regions.object_ids[box])) for box in boxes]
    return [f"{name} {score:.2f}" for name, score in zip(names, regions.object_scores[boxes], strict=True)]


def dataset_lines(directory: str, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of `describe_dataset`."""
    shards, failures = document["shards"], document["failures"]
    state = "complete" if document["complete"] else "incomplete, run the command that wrote it again"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in failures.items())
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in document["dropped"].items())
    rows = {
        "samples": f"{document['samples']:,} of {document['rows']:,} rows",
        "failures": f"{sum(failures.values()):,}" + (f" ({reasons})" if reasons else ""),
        **({"dropped": left_out} if left_out else {}),
        "shards": f"{shards['done']:,} of {shards['planned']:,}, {counted(shards['rows_each'], 'row')} each",
        "splits": ", ".join(f"{name or '(none)'} {count:,}" for name, count in document["splits"].items()),
        "size": f"{document['bytes']:,} bytes",
        **_origin(document),
        "classes": _some(document["class_names"]),
        "attributes": _some(document["attribute_names"]),
        "software": ", ".join(f"{name} {version}" for name, version in document["software"].items()),
    }
    yield f"{directory}: {document['storage']} data set, {state}"
    yield from _aligned(rows)
    yield "fields of a sample, N regions"
    yield from _aligned(
        {name: f"{field['dtype']:<8} {_shape(field['shape'])}" for name, field in document["fields"].items()}
    )
    if document["columns"]:
        yield "columns"
        yield from (f"  {column_line(column)}" for column in document["columns"])
    yield f"settings, fingerprint {document['fingerprint'][:16]}…"
    yield from _aligned(dict(_flat(document["fingerprint_fields"])))
    yield "first samples"
    for number, sample in enumerate(document["first_samples"]):
        boxes = counted(sample["boxes"], "box", "boxes")
        yield f"  :{number}  #{sample['key']}  {boxes}, image id {sample['image_id']}"


def _origin(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the origin of a data set: its manifest, or the sources and operations of `vilbert convert`."""
    if not document["converted"]:
        return {"manifest": f"{document['manifest']} ({document['manifest_hash'][:16]}…)"}
    lines = {}
    for number, step in enumerate(document["converted"], start=1):
        sources = [f"{source['name']} ({source['format']}, {source['rows']:,} rows)" for source in step["sources"]]
        done = ", ".join(f"{name} {value}" for name, value in step["operations"].items())
        lines[f"convert {number}"] = f"{_some(sources)}{f': {done}' if done else ''}"
    return lines


def sample_lines(directory: str, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of `describe_sample` with the sample's `number`, `shard` and `sample`."""
    meta = document["meta"]
    place = f"shard {document['shard']}, sample {document['sample']}"
    yield f"{directory}:{document['number']}  #{document['key']}  ({place})"
    rows = {name: str(value) for name, value in meta.items() if name != "captions"}
    image = {"image": f"{document['image_bytes']:,} bytes, kept"} if "image_bytes" in document else {}
    yield from _aligned({**rows, **image, "size": f"{document['width']}x{document['height']} pixels"})
    captions = meta.get("captions", [])
    captions = captions if isinstance(captions, list) else [captions]
    yield f"captions: {len(captions) or 'none'}"
    yield from (f"  {caption}" for caption in captions)
    yield "fields"
    fields = {}
    for name, field in document["fields"].items():
        bounds = f"{field['min']:.6g} to {field['max']:.6g}" if "min" in field else ""
        odd = f"  {field['not_finite']} NaN or infinite" if field.get("not_finite") else ""
        fields[name] = f"{field['dtype']:<8} {_shape(field['shape']):<12} {bounds}{odd}".rstrip()
    yield from _aligned(fields)
    if document.get("columns"):
        yield "columns"
        yield from _aligned({name: _text(value) for name, value in document["columns"].items()})
    objects = document["objects"]
    named = any("name" in thing for thing in objects)
    yield f"objects: the {len(objects)} with the highest scores" if named else f"regions: the first {len(objects)}"
    names = [" ".join(thing[part] for part in ("attribute", "name") if part in thing) for thing in objects]
    width = max(map(len, names), default=0)
    for name, thing in zip(names, objects, strict=True):
        score = f"{thing['score']:.3f}" if named else f"{thing['box']:5}"
        yield f"  {score}  {name:<{width}}  {' '.join(f'{side:7.1f}' for side in thing['xyxy'])}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"


def _aligned(rows: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    yield from (f"  {name:<{width}}  {value}" for name, value in rows.items())


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED_NAMES])
    return f"{len(names):,}: {shown}{', …' if len(names) > LISTED_NAMES else ''}" if names else "none"


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = str(value)
            yield prefix + name, text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"
