"""A data set and its samples as text and pictures."""
