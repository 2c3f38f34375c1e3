"""Runs a program on the RTL of the whole accelerator, driven through its registers as a host does.

`simulate` is what callers use; the cocotb side is accelerator_bench.py.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ..codegen.config import HardwareConfig
from ..codegen.errors import HostBufferError, SimulationError
from ..codegen.program import Program, check_input
from ..codegen.scratch import ScratchFolder
from ..codegen.toplevel import Rtl
from . import verilator
from .dram import PAGE_BYTES, Dram, dram_sources
from .trace import Trace, read_trace

Progress = Callable[[int], None]
POLL_SECONDS = 0.2
DEFAULT_TIMEOUT_CYCLES = 200_000_000


@dataclass(frozen=True)
class DramTiming:
    """How fast the simulated DRAM is; the defaults are a Zynq's, idle.

    Attributes:
        read_latency, write_latency: cycles.
        beats_per_16: bus beats in 16 cycles, both directions together; 32 is no limit.
    """

    read_latency: int = 24
    write_latency: int = 12
    beats_per_16: int = 32

    @property
    def plusargs(self) -> tuple[str, ...]:
        """The simulator's arguments."""
        return (
            f"+dram_read_latency={self.read_latency}",
            f"+dram_write_latency={self.write_latency}",
            f"+dram_beats_per_16={self.beats_per_16}",
        )


@dataclass(frozen=True)
class Task:
    """What the bench is to do; crosses to the simulator as a pickle.

    Attributes:
        arguments: register name → value, written before the first start.
        inputs: content of the input buffer, run by run.
        input_address, output_address: DRAM addresses.
        output_bytes: size of the output buffer.
        dram: (file, base address, size) of the memory.
        timeout_cycles: of one run.
    """

    arguments: Mapping[str, int]
    inputs: Sequence[bytes]
    input_address: int
    output_address: int
    output_bytes: int
    dram: tuple[str, int, int]
    timeout_cycles: int


@dataclass(frozen=True)
class Run:
    """One run as the hardware reports it.

    Attributes:
        output: content of the output buffer.
        counters: performance counters by name.
    """

    output: bytes
    counters: Mapping[str, int]


@dataclass(frozen=True)
class Simulation:
    """All runs of one simulation.

    Attributes:
        runs: in order of the inputs.
        trace: events of the first run; None unless traced.
        seconds: time the simulator took, build excluded.
    """

    runs: tuple[Run, ...]
    trace: Trace | None = field(repr=False)
    seconds: float


def testbench_design(
    config: HardwareConfig, rtl: Mapping[str, str], waves: bool = False
) -> verilator.Design:
    """The accelerator in its testbench.

    Args:
        config: what the accelerator was generated for.
        rtl: its Verilog, file name → text.
        waves: build for recording waveforms.
    """
    bench = resources.files("vitessera.sim").joinpath("testbench.sv").read_text()
    return verilator.Design(
        top="testbench",
        sources={**rtl, **dram_sources(), "testbench.sv": bench},
        options=(f"-GBUS_BITS={config.bus_bits}", "-CFLAGS", "-O1"),
        waves=waves,
    )


def simulate(
    program: Program,
    rtl: Rtl,
    inputs: Sequence[bytes],
    *,
    timing: DramTiming | None = None,
    progress: Progress | None = None,
    waves: Path | None = None,
    trace: bool = False,
    timeout_cycles: int = DEFAULT_TIMEOUT_CYCLES,
) -> Simulation:
    """Runs `program` once for each input.

    Args:
        program: what to run; its configuration must be the RTL's.
        rtl: the generated hardware.
        inputs: content of the input buffer, run by run (program.pack_input).
        timing: of the DRAM.
        progress: called with the number of finished runs, from time to time.
        waves: file for a waveform (VCD) of the whole simulation.
        trace: record what happened when in the first run.
        timeout_cycles: of one run; then the simulation fails with the registers' state.

    Raises:
        HostBufferError: there is no input, or one of another size than the program reads.
        SimulationError: the hardware reported an error, did not finish, touched memory that it
            was not given, or broke a bus rule.
        ToolError: the simulator cannot be built.
    """
    _check_inputs(program, inputs)
    design = testbench_design(program.config, rtl.files, waves is not None)
    verilator.build(design)
    with ScratchFolder() as folder:
        dram, task = _prepare(program, inputs, folder / "dram", timeout_cycles)
        (folder / "task.pickle").write_bytes(pickle.dumps(task))
        plusargs = (*dram.plusargs, *(timing or DramTiming()).plusargs)
        if trace:
            plusargs += (f"+trace={folder / 'trace'}",)
        started = time.monotonic()
        with _watch(folder / "results.jsonl", progress):
            verilator.run(
                design,
                "vitessera.sim.accelerator_bench",
                folder / "run",
                {"VITESSERA_TASK": str(folder / "task.pickle")},
                plusargs,
            )
        seconds = time.monotonic() - started
        if waves is not None:
            shutil.move(folder / "run" / "dump.vcd", waves)
        return Simulation(
            runs=_read_runs(folder / "results.jsonl", len(inputs)),
            trace=read_trace(folder / "trace", program) if trace else None,
            seconds=seconds,
        )


def _check_inputs(program: Program, inputs: Sequence[bytes]) -> None:
    if not inputs:
        raise HostBufferError("There is no input to simulate.", "Give at least one input buffer.")
    for buffer in inputs:
        check_input(program, buffer)


def _prepare(
    program: Program, inputs: Sequence[bytes], path: Path, timeout_cycles: int
) -> tuple[Dram, Task]:
    """DRAM with program and weights in place, and what the bench must know."""
    code = program.encode()
    sizes = (len(code), len(program.weights), program.input.size, program.output_size)
    dram = Dram(path, sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes) + PAGE_BYTES)
    addresses = {
        "PROGRAM": dram.allocate(len(code), "program"),
        "WEIGHTS": dram.allocate(max(1, len(program.weights)), "weights"),
        "INPUT": dram.allocate(program.input.size, "input"),
        "OUTPUT": dram.allocate(program.output_size, "output", writable=True),
    }
    dram.view(addresses["PROGRAM"], len(code))[:] = memoryview(code)
    dram.view(addresses["WEIGHTS"], len(program.weights))[:] = memoryview(program.weights)
    arguments = {"COUNT": len(program.instructions)}
    for name, address in addresses.items():
        arguments |= {f"{name}_LOW": address & 0xFFFFFFFF, f"{name}_HIGH": address >> 32}
    return dram, Task(
        arguments=arguments,
        inputs=inputs,
        input_address=addresses["INPUT"],
        output_address=addresses["OUTPUT"],
        output_bytes=program.output_size,
        dram=(str(path), dram.base, len(dram.content)),
        timeout_cycles=timeout_cycles,
    )


class _watch:  # noqa: N801 (used as a statement)
    """Reports how many lines the bench has written while the simulator runs."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self._path = path
        self._progress = progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        if self._progress is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._progress is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._progress is not None
        last = False
        while not last:
            last = self._done.wait(POLL_SECONDS)
            if self._path.is_file():
                self._progress(self._path.read_bytes().count(b"\n"))


def _read_runs(path: Path, expected: int) -> tuple[Run, ...]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    if len(entries) != expected:
        raise SimulationError(
            f"The simulation ended after {len(entries)} of {expected} runs.",
            "Run again with --waves to see where it stopped.",
        )
    return tuple(Run(bytes.fromhex(e["output"]), e["counters"]) for e in entries)
