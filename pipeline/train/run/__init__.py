"""Runs: folder, settings, checkpoints, sessions, export and restarts."""
