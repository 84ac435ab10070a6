"""Image and text retrieval."""
