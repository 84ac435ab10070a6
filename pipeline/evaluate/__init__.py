"""`vilbert evaluate TASK`: metrics and submission files."""
