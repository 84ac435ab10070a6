"""Who gets a signal, during a block and after it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vilbert.pipeline.signals import keeping_handlers, terminate_like_interrupt


def exits(number: int, frame: object) -> None:
    sys.exit(number)


def test_a_handler_that_a_block_installs_goes_with_it() -> None:
    """As Ray does when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    with terminate_like_interrupt():
        with keeping_handlers():
            signal.signal(signal.SIGTERM, exits)
        with pytest.raises(KeyboardInterrupt):
            send_and_wait()
    assert signal.getsignal(signal.SIGTERM) is before


def test_within_the_block_too_sigterm_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        install_and_send()
    assert signal.getsignal(signal.SIGTERM) is before


@keeping_handlers()
def install_and_send() -> None:
    signal.signal(signal.SIGTERM, exits)
    send_and_wait()


def send_and_wait() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


ABANDONED = """
import signal, sys, threading, time
from vilbert.pipeline.signals import abandon

def work():
    time.sleep(float(sys.argv[1]))
    ended.set()

ended = threading.Event()
thread = threading.Thread(target=work, daemon=True)
thread.start()
signal.setitimer(signal.ITIMER_REAL, 0.2)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    thread.join()
    time.sleep(1)
except KeyboardInterrupt:
    pass
abandon(ended)
print("the end", flush=False)
sys.exit(3)
"""


@pytest.mark.parametrize(("seconds", "status"), [("60", 130), ("0", 3)])
def test_a_process_ends_with_an_abandoned_thread_and_keeps_its_status_without(seconds: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED, seconds], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (status, "the end\n", "")
