"""Visual question answering (VQA v2)."""
