"""Columns: further values for the samples of a data set, in files of their own; no byte of the data set changes."""
