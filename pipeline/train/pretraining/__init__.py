"""`vilbert pretrain`: from shards to a pre-trained model."""
