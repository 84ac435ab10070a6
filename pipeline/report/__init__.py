"""`vilbert report`: an HTML page about a fine-tuned model."""
