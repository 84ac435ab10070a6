"""The co-attention model: configuration, layers, heads, losses and checkpoints. Start at `vilbert.model.vilbert`."""
