"""The wait policy of OpenMP and OpenBLAS: threads that wait sleep instead of spinning.

OpenMP runs PyTorch's operators on a CPU, and OpenBLAS NumPy's matrix products. A thread that has done its part waits
for the others. By default it spins meanwhile: up to 3 ms in GNU's libgomp, which the PyTorch wheels for Linux contain,
200 ms in LLVM's and Intel's libraries, and 2**26 cycles in OpenBLAS, which starts its threads when NumPy is imported.
When another process uses a core, these threads spin while the threads they wait for have no core, and training becomes
many times slower. So threads spin for about 10 microseconds and then sleep. Waking up costs more than a small operator
is worth: small models train faster in one thread (`--num-threads`), where nothing waits.

The libraries read these variables when they are loaded. They are set when `pipeline` is imported, before PyTorch and
NumPy, and child processes inherit them. What the user has set is left alone. Sources: libgomp's manual, "Environment
Variables"; LLVM's OpenMP reference, `KMP_BLOCKTIME`; OpenBLAS's documentation, "Runtime variables".
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""In spins of libgomp (about 100 per microsecond), milliseconds of LLVM and Intel, and log2 of cycles of OpenBLAS."""
USERS_OWN = ("OMP_WAIT_POLICY", *ENVIRONMENT)
"""Variables by which the user decides: with any of them set, none is changed."""


def set_wait_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how long threads spin, unless the user has; without effect where PyTorch is loaded already."""
    if not any(name in environment for name in USERS_OWN):
        environment.update(ENVIRONMENT)


def wait_policy() -> dict[str, str]:
    """Return the variables that this process has, for processes that do not inherit them: those of a Ray cluster."""
    return {name: os.environ[name] for name in USERS_OWN if name in os.environ}
