"""What all tests share."""

import os
import signal

import hypothesis
import pytest

from .installation import Installation, install

# Tiny models run several times faster in one thread, above all while other processes use the same cores. It is read
# when torch is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts a job in the background has it ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Few examples of each property in CI; `make test-slow` tests the properties again, with the profile "thorough".
# No deadlines: a loaded machine is slow.
for profile, examples in (("quick", 25), ("thorough", 400)):
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return the software as `pip install` puts it on a machine."""
    return install(tmp_path_factory.mktemp("installation"))
