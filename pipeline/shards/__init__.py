"""The data set on disk; FORMAT.md beside this file documents it."""
