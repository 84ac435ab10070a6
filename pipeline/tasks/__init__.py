"""Downstream tasks: annotation files, heads' losses, metrics, submission files."""
