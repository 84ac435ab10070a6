"""Shards from shards and from published files: convert, import, export, compare."""
