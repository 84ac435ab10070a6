"""Object detectors of the transformers library."""
