"""Downstream tasks: annotation files, losses of task heads, metrics and submission files."""
