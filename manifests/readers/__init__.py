"""Readers of published lists of images: one module for each format, and shared modules."""
