"""One thread for each test process.

pytest-xdist starts a worker for each core; with threads of their own besides, OpenBLAS and OpenMP
take turns waiting for each other, and the tests take several times as long. Must be set before
numpy is imported.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
