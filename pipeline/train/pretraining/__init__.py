"""`vilbert pretrain`: pre-train a model on shards of region features."""
