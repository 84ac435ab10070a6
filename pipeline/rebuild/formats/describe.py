"""The description of a file of published features, as JSON values and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, find_format, open_published
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.terminal import counted

_ROWS = 3
_LABEL = 12


def describe_published(path: Path) -> dict[str, Any] | None:
    """Return a description of a file or folder of published features, as JSON values; None if its format is unknown.

    If it cannot be imported with these options, the description has `problem` and nothing else except the format.
    """
    name = detect_format(path)
    if name is None:
        return None
    document: dict[str, Any] = {"format": name, "summary": find_format(name).summary}
    try:
        with open_published(path, name) as source:
            description = source.description
            rows = [_describe_row(row) for row in source.read(0, min(_ROWS, source.rows))]
            return {
                **document,
                "rows": source.rows,
                "fields": description.fields,
                "class_names": list(description.class_names),
                "attribute_names": list(description.attribute_names),
                "missing": list(description.missing),
                "first_rows": rows,
            }
    except ShardError as error:
        return {**document, "problem": str(error)}


def _describe_row(row: Any) -> dict[str, Any]:
    if isinstance(row, FailureRow):
        return {"image_id": row.image_id, "reason": row.reason, "detail": row.detail}
    size = {"width": row.regions.width, "height": row.regions.height}
    return {"image_id": row.meta["image_id"], "boxes": len(row.regions), **size}


def published_lines(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of `describe_published`."""
    yield f"{path}: {document['format']}"
    yield f"  {document['summary']}"
    if "problem" in document:
        yield f"  cannot be imported as it is: {document['problem']}"
        return
    facts = {
        "rows": f"{document['rows']:,}",
        "classes": f"{len(document['class_names']):,}" if document["class_names"] else "",
        "attributes": f"{len(document['attribute_names']):,}" if document["attribute_names"] else "",
        "lacks": ", ".join(document["missing"]),
    }
    yield from (f"  {name:<{_LABEL}}  {value}" for name, value in facts.items() if value)
    yield "fields of a sample, N regions"
    width = max(_LABEL, *map(len, document["fields"]))
    for name, field in document["fields"].items():
        yield f"  {name:<{width}}  {field['dtype']:<8} [{', '.join(map(str, field['shape']))}]"
    yield "first rows"
    for number, row in enumerate(document["first_rows"]):
        if "reason" in row:
            yield f"  {number}  {row['image_id']}: {row['reason']}, {row['detail']}"
        else:
            boxes = counted(row["boxes"], "box", "boxes")
            yield f"  {number}  {row['image_id']}: {boxes}, {row['width']} x {row['height']} pixels"
