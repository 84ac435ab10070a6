"""The stages, in the order in which data flows: shapes, extract, shards."""

__version__ = "0.1.0"
