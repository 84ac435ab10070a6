"""`vilbert convert`: shards from other data sets and from published features."""
