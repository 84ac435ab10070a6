"""Columns: additional values for the samples of a data set, in separate files; no byte of the data set changes."""
