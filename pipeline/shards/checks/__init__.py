"""Checks of `vilbert verify`: of a data set, a shard and a sample."""
