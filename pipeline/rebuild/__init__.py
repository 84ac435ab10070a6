"""Data sets from other data sets and from published files: convert, import, export, compare."""
