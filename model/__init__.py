"""The co-attention model: its configuration, layers, heads, losses and checkpoints. `model.vilbert` is the way in."""
