"""Fetch images from URLs."""
