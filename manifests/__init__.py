"""The manifest of images to process, and readers of the published file formats."""
