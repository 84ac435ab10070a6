"""A selection: some samples of a data set, named in a small file, so that no shard is written anew."""
