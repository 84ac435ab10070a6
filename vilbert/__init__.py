"""ViLBERT end to end: region features from images, verified shards, and the model trained from them."""
