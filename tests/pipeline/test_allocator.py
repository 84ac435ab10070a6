"""Large blocks that are freed and taken again are not faulted in anew, whatever thread takes them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from vilbert.pipeline.allocator import ENVIRONMENT

PROGRAM = """
import resource, sys, threading
import numpy as np
from vilbert.pipeline.allocator import keep_freed_memory

if "tell" in sys.argv:
    keep_freed_memory()
faults = []

def work():
    for _ in range(3):
        np.full(280_000_000, 1.0)  # 2.2 GB: no threshold of an int is higher
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults[-1] - faults[0])
"""


def faults(*arguments: str, **environment: str) -> int:
    """Return the page faults of two rounds after a first."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_by_a_process_that_is_told_and_by_one_that_starts_so() -> None:
    given_back = faults()
    assert given_back > 500  # with huge pages, each 2 MB
    assert faults("tell") < given_back / 10
    assert faults(**ENVIRONMENT) < given_back / 10
