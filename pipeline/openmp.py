"""Set the wait policy of OpenMP and OpenBLAS: waiting threads sleep instead of spinning.

On a CPU, OpenMP runs PyTorch's operators and OpenBLAS runs NumPy's matrix products. A thread that has finished its part
waits for the others and by default spins meanwhile: up to 3 ms in GNU's libgomp, which the PyTorch wheels for Linux
contain, 200 ms in LLVM's and Intel's libraries, and 2**26 cycles in OpenBLAS, which starts its threads when NumPy is
imported. If another process uses a core, these threads spin while the threads they wait for have no core, and training
becomes many times slower. With this policy threads spin for about 10 microseconds and then sleep. Waking up costs more
than a small operator takes, so small models train faster in one thread (`--num-threads`).

The libraries read these variables when they are loaded. They are set when `pipeline` is imported, before PyTorch and
NumPy, and child processes inherit them. Variables that the user has set are not changed. Sources: libgomp's manual,
"Environment
Variables"; LLVM's OpenMP reference, `KMP_BLOCKTIME`; OpenBLAS's documentation, "Runtime variables".
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""Units: spins of libgomp (about 100 per microsecond), milliseconds of LLVM and Intel, log2 of cycles of OpenBLAS."""
USERS_OWN = ("OMP_WAIT_POLICY", *ENVIRONMENT)
"""If the user has set any of these variables, none is changed."""


def set_wait_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how long threads spin, unless the user has set it; has no effect once PyTorch is loaded."""
    if not any(name in environment for name in USERS_OWN):
        environment.update(ENVIRONMENT)


def wait_policy() -> dict[str, str]:
    """Return the wait-policy variables of this process, for workers of a Ray cluster, which do not inherit them."""
    return {name: os.environ[name] for name in USERS_OWN if name in os.environ}
