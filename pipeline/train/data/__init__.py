"""The samples of a run: data sets, order, held-out samples, loading."""
