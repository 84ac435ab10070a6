"""What is left of a job that is killed and started again: this pipeline beside Ray Data, Daft and NeMo Curator.

`__main__.py` has the measure, `frameworks.py` the job as each framework's documentation recommends it, `job.py` what
is the same for all, `kills.py` starts and kills, `content.py` compares what is on the disk.
"""
