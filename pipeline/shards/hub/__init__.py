"""The Hugging Face Hub: upload a data set with its side files and columns."""
