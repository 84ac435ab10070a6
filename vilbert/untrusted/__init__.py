"""Readers for content that came from outside: bounded, and running nothing.

Every package may import from here; nothing here imports from another package of this repository.
"""
