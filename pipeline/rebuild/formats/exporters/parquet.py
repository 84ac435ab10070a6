"""One Parquet file with one image per row, for pandas, Polars, DuckDB, Spark and Hugging Face Datasets.

Columns: image_id, width, height, num_boxes, captions (list of strings), split, uri, sha256; each array of the sample
under its own name and dtype, as a list or a list of fixed-size lists; and `metadata`, a JSON object of all other
metadata of the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample, captions_of

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 32 << 20
_TEXTS = ("image_id", "split", "uri", "sha256")


def parquet_schema(description: SourceDescription) -> pa.Schema:
    """Return the columns of a data set."""
    import pyarrow as pa

    columns: dict[str, pa.DataType] = {
        "image_id": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "num_boxes": pa.int32(),
        "captions": pa.list_(pa.string()),
        "split": pa.string(),
        "uri": pa.string(),
        "sha256": pa.string(),
    }
    for name, field in description.fields.items():
        value = pa.from_numpy_dtype(np.dtype(field["dtype"]))
        columns[name] = pa.list_(value if len(field["shape"]) == 1 else pa.list_(value, field["shape"][1]))
    names = {"class_names": description.class_names, "attribute_names": description.attribute_names}
    return pa.schema(
        {**columns, "metadata": pa.string()}, metadata={key: json.dumps(value) for key, value in names.items()}
    )


def rows_table(samples: Sequence[Sample], schema: pa.Schema) -> pa.Table:
    """Return samples as a table."""
    import pyarrow as pa

    columns: dict[str, Any] = {name: [_text(sample, name) for sample in samples] for name in _TEXTS}
    columns["width"] = [sample.regions.width for sample in samples]
    columns["height"] = [sample.regions.height for sample in samples]
    columns["num_boxes"] = [len(sample.regions) for sample in samples]
    columns["captions"] = [captions_of(sample, Path(sample.key)) for sample in samples]
    columns["metadata"] = [
        json.dumps(
            {
                key: value
                for key, value in sample.meta.items()
                if key not in columns or (key in _TEXTS and not isinstance(value, str))
            },
            sort_keys=True,
        )
        for sample in samples
    ]
    ends = pa.array(np.cumsum([0, *columns["num_boxes"]]), pa.int32())
    for field in schema:
        if field.name in columns:
            continue
        values = np.concatenate([sample.regions.arrays()[field.name] for sample in samples])
        rows = pa.array(values.reshape(-1))
        if values.ndim > 1:
            rows = pa.FixedSizeListArray.from_arrays(rows, values.shape[1])
        columns[field.name] = pa.ListArray.from_arrays(ends, rows)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _text(sample: Sample, name: str) -> str | None:
    value = sample.meta.get(name)
    return value if isinstance(value, str) else None


def write_parquet(path: Path, description: SourceDescription) -> Rows:
    """Write the file in row groups of tens of megabytes."""
    import pyarrow.parquet as pq

    schema = parquet_schema(description)
    plain = [name for name, field in description.fields.items() if field["dtype"].startswith("float")]
    texts = [name for name in schema.names if name not in plain]
    with (
        path.open("wb") as opened,  # pyarrow opens no path that is not UTF-8
        pq.ParquetWriter(opened, schema, compression="zstd", use_dictionary=texts) as file,
    ):
        group: list[Sample] = []
        size = 0
        while (sample := (yield)) is not None:
            group.append(sample)
            size += sum(array.nbytes for array in sample.regions.arrays().values())
            if size >= _GROUP_BYTES:
                file.write_table(rows_table(group, schema))
                group, size = [], 0
        if group:
            file.write_table(rows_table(group, schema))


def exporter() -> StreamExporter:
    """Return the exporter."""
    return StreamExporter(write=write_parquet)
