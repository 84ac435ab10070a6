"""The stages, in the order in which data flows: shapes, extract, shards."""

from vilbert.pipeline.openmp import set_wait_policy

__version__ = "0.1.0"

set_wait_policy()  # before any module of ours loads PyTorch
