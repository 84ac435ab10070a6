"""`vilbert score`: columns of scores to select samples by."""
