"""Columns: additional values for the samples of a data set in separate files; the data set itself does not change."""
