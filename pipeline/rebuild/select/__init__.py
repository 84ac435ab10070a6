"""`vilbert select`: list samples of a data set in a file, by an expression and by overlap with other data sets."""
