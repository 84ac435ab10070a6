"""Writers of the formats of published features, one module each."""
