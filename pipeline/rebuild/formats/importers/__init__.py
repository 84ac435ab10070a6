"""Readers of published features: one module per format, and modules that all formats share."""
