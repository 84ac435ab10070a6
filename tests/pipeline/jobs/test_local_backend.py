"""The worker in the command's own process keeps the memory that its detector frees."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, re, sys
from pathlib import Path
from vilbert.pipeline.cli import main

status = main(sys.argv[2:])
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(status, len(re.findall("<heap ", Path(sys.argv[1]).read_text())))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_no_thread_of_the_run_has_memory_of_its_own_which_malloc_gives_back_whatever_it_is_told(
    manifest: Path, tmp_path: Path
) -> None:
    """Many begin before the worker does: for the lock, the account, the lease."""
    words = ["extract", str(manifest), "--output", str(tmp_path / "features"), "--detector", "shapes"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "malloc.xml"), *words, "--backend", "local"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "1"]
