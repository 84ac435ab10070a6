"""Manifests: lists of the images to process, and readers for the published formats they are built from."""
