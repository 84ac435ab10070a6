"""Visual question answering (GQA)."""
