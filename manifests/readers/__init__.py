"""Readers of published lists of images: one module per format, and modules that they share."""
