"""Readers of published features: one module a format, on top of the modules that all formats share."""
