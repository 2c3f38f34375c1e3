"""Faults during a run: each is reported, and the next run is right.

The faults themselves are in fault_bench.py, all in one simulation. An access outside the granted
buffers is different: on a board it would be silent damage, so in the simulation it is fatal.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
from fault_bench import DRAM_BYTES
from vitessera.codegen import isa
from vitessera.codegen.errors import SimulationError
from vitessera.sim import accelerator, verilator
from vitessera.sim.dram import Dram
from whole import SMALL, TIMEOUT_CYCLES, TINY, generated, transformer

pytestmark = pytest.mark.accelerator


def test_every_fault_is_reported_and_survived(tmp_path: Path) -> None:
    workload = tmp_path / "workload.pickle"
    workload.write_bytes(pickle.dumps(transformer(TINY, SMALL, seed=2, count=3)))
    dram = Dram(tmp_path / "dram", DRAM_BYTES)
    verilator.run(
        accelerator.testbench_design(SMALL, generated(SMALL).files),
        "fault_bench",
        tmp_path,
        {"FAULT_WORKLOAD": str(workload), "FAULT_DRAM": str(dram.path)},
        plusargs=dram.plusargs,
    )


def test_access_outside_the_buffers_fails_the_simulation() -> None:
    work = transformer(TINY, SMALL, seed=2)
    code = list(work.program.instructions)
    index = next(
        i for i, x in enumerate(code) if isinstance(x, isa.Load) and x.region == isa.Region.WEIGHTS
    )
    beyond = 1 << 20
    code[index] = dataclasses.replace(code[index], offset=beyond)
    program = dataclasses.replace(work.program, instructions=tuple(code))
    # The weights follow the program, which takes whole pages of 4 KB from 0x1000_0000 on.
    weights = 0x1000_0000 + -(-len(program.encode()) // 4096) * 4096
    message = f"read outside the granted buffers at address 0x{weights + beyond:016x}"
    with pytest.raises(SimulationError, match=message):
        accelerator.simulate(program, generated(SMALL), work.inputs, timeout_cycles=TIMEOUT_CYCLES)
