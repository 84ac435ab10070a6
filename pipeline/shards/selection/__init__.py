"""A selection: a small file that lists samples of a data set, so that no shard is rewritten."""
