"""Statements about two photographs (NLVR2)."""
