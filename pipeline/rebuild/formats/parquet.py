"""Parquet; docs/formats.md describes it."""

from __future__ import annotations

from vilbert.pipeline.rebuild.formats.registry import FormatSpec

SPEC = FormatSpec(
    summary="One Parquet file, for pandas, Polars, DuckDB and Hugging Face Datasets.",
    exporter="vilbert.pipeline.rebuild.formats.exporters.parquet:exporter",
    lost=(),
)
