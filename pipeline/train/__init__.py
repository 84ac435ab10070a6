"""Pre-training: shards in, a trained model out."""
