"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg)."""
