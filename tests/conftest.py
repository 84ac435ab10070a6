"""What all tests share."""

import os

# Tiny models run several times faster in one thread, above all while other processes use the same cores. It is read
# when torch is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
