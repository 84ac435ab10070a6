"""Readers for untrusted content. They bound time and memory, and run no code from a file.

Every package may import from here. This package imports from no other package of the repository.
"""
