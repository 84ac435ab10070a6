"""The stages of the pipeline, in the order of the data flow: shapes, extract, shards, train, tasks."""

from vilbert.pipeline.openmp import set_wait_policy

__version__ = "0.1.0"

set_wait_policy()  # before any module of this package loads PyTorch
