"""A Parquet file of samples."""

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="pandas, Polars, DuckDB, Hugging Face Datasets: one Parquet file",
    exporter="vilbert.pipeline.rebuild.formats.exporters.parquet:exporter",
    lost=(),
)
