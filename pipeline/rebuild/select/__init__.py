"""`vilbert select`: name samples of a data set in a file, by an expression and by what another data set holds."""
