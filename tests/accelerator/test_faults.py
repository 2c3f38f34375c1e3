"""Faults during a run: each is reported, and the next run is right.

The faults themselves are in fault_bench.py, all in one simulation. An access outside the granted
buffers is different: on a board it would be silent damage, so in the simulation it is fatal.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import pytest
from fault_bench import DRAM_BYTES
from vitessera.codegen import isa
from vitessera.codegen.errors import SimulationError
from vitessera.codegen.program import Program
from vitessera.sim import accelerator, verilator
from vitessera.sim.accelerator import Failure, Run
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


def without_signal(program: Program, source: isa.Source) -> Program:
    """`program` with the first signal of `source` to COMPUTE gone."""
    code = list(program.instructions)
    index = next(
        i
        for i, entry in enumerate(code)
        if not isinstance(entry, isa.End)
        and entry.source is source
        and entry.signal >> isa.Unit.COMPUTE & 1
    )
    signal = code[index].signal ^ 1 << isa.Unit.COMPUTE
    code[index] = dataclasses.replace(code[index], signal=signal)
    return dataclasses.replace(program, instructions=tuple(code))


def test_a_run_that_stands_still_says_who_waits_for_whom() -> None:
    """Soon after the last movement, and the next job of the same simulation is right."""
    work = transformer(TINY, SMALL, seed=2)
    stands = without_signal(work.program, isa.Source.NORM)
    works = [
        accelerator.Work(program, work.inputs, timeout_cycles=TIMEOUT_CYCLES)
        for program in (stands, work.program)
    ]
    hangs, goes_on = accelerator.simulate_all(works, generated(SMALL))
    for failure in hangs:
        assert isinstance(failure, Failure)
        assert "and nothing moves any more" in failure.reason
        assert re.search(
            r"compute: \d+ of \d+ started; compute \d+ of layer \w+ waits for norm of "
            r"(nobody|norm \d+ of layer \w+)",
            failure.state,
        ), failure.state
        assert re.search(r"epilogue: \d+ of \d+ started", failure.state)
    assert [run.output for run in goes_on if isinstance(run, Run)] == list(work.outputs)


def test_waveforms_survive_a_failed_run(tmp_path: Path) -> None:
    program = without_signal(transformer(TINY, SMALL, seed=2).program, isa.Source.LOAD)
    waves = tmp_path / "run.vcd"
    work = transformer(TINY, SMALL, seed=2)
    with pytest.raises(SimulationError, match="The waveform shows how it came to that"):
        accelerator.simulate(
            program, generated(SMALL), work.inputs[:1], waves=waves, timeout_cycles=TIMEOUT_CYCLES
        )
    assert waves.read_text().count("$var") > 100


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
