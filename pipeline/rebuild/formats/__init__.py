"""The formats of published features, one module each."""
