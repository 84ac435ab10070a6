"""The co-attention model: its configuration, layers, heads, losses and checkpoints. `vilbert.model.vilbert` is the way
in."""
