"""Visual commonsense reasoning (VCR)."""
