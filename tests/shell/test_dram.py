from __future__ import annotations

from pathlib import Path

import pytest
from dram_bench import SIZE
from vitessera.sim import verilator
from vitessera.sim.dram import Dram, dram_sources


@pytest.mark.kernel
def test_dram(tmp_path: Path) -> None:
    dram = Dram(tmp_path / "dram", SIZE)
    design = verilator.Design(top="dram", sources=dram_sources(), options=("-CFLAGS", "-O1"))
    verilator.run(
        design, "dram_bench", tmp_path, {"DRAM_FILE": str(dram.path)}, plusargs=dram.plusargs
    )
