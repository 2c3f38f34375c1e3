"""The process in which a simulated board's simulator runs; see board.py.

python -m vitessera.sim.board_process FOLDER RUN
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from . import verilator
from .accelerator import testbench_design

JOB = "job.pickle"


def main(folder: Path, run: Path) -> None:
    """Runs the simulator until the other side closes its connection.

    Args:
        folder: holds job.pickle, a board.Job.
        run: working folder.
    """
    job = pickle.loads((folder / JOB).read_bytes())
    verilator.run(
        testbench_design(job.config, job.rtl),
        "vitessera.sim.board_bench",
        run,
        {"VITESSERA_JOB": str(folder / JOB)},
        job.plusargs,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
