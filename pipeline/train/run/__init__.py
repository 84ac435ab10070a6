"""The folder and life of a run: settings, checkpoints, sessions, export, restarts."""
