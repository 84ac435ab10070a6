"""Manifest and detector in, shards out: plan -> worker -> run."""
