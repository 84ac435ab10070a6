"""`vilbert report`: one page about a fine-tuned model."""
