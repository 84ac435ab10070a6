"""Samples to training examples: tokens, image regions, masks, batches."""
