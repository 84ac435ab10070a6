import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vilbert.pipeline.errors import LockedError
from vilbert.pipeline.shards.location.lock import exclusive_writer

HOLD = """
import sys, time
from pathlib import Path
from vilbert.pipeline.shards.location.lock import exclusive_writer
with exclusive_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    refused = pytest.raises(LockedError, match=f"process {os.getpid()} on")
    with exclusive_writer(tmp_path), refused, exclusive_writer(tmp_path):
        pytest.fail("two writers")
    with exclusive_writer(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on")


def test_what_to_do_about_a_lock_of_a_dead_machine_is_said_where_it_may_be_one(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with exclusive_writer(tmp_path):
        with pytest.raises(LockedError, match=r"or use another folder$"), exclusive_writer(tmp_path):
            pytest.fail("two writers")
        lock.write_text("process 7 on a-dead-host\n")  # as a file server shows it
        remedy = rf"process 7 on a-dead-host is writing here; .* If a-dead-host crashed, .* move {lock} away$"
        with pytest.raises(LockedError, match=remedy), exclusive_writer(tmp_path):
            pytest.fail("two writers")
        lock.rename(tmp_path / "moved")
        with exclusive_writer(tmp_path):
            assert lock.read_text().startswith(f"process {os.getpid()} on")


def test_a_killed_writer_leaves_no_stale_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {holder.pid}"), exclusive_writer(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with exclusive_writer(tmp_path):
        assert time.monotonic() - started < 5


HOLD_WITH_CHILD = """
import os, sys, time
from pathlib import Path
from vilbert.pipeline.shards.location.lock import exclusive_writer
with exclusive_writer(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_writer(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_WITH_CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    try:
        with exclusive_writer(tmp_path):
            os.kill(child, 0)  # it is alive, and the folder ours
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("modified", [0, 4_102_444_800], ids=["1970", "2100"])
def test_the_lock_file_of_a_dead_host_is_nobodys_whatever_its_clock_said(tmp_path: Path, modified: int) -> None:
    (tmp_path / ".lock").write_text(f"process {os.getpid()} on a-dead-host\n")
    os.utime(tmp_path / ".lock", (modified, modified))
    with exclusive_writer(tmp_path):
        assert (tmp_path / ".lock").read_text() != f"process {os.getpid()} on a-dead-host\n"


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(LockedError, match=r"does not lock files \(No locks available\)"), exclusive_writer(tmp_path):
        pytest.fail("it is not locked")
