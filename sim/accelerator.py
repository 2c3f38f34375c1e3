"""Runs programs on the RTL of the whole accelerator, driven through its registers as a host does.

`simulate` is what callers use, and `simulate_all` for many programs in one simulation; the cocotb
side is accelerator_bench.py.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..codegen.config import HardwareConfig
from ..codegen.errors import HostBufferError, SimulationError
from ..codegen.isa import Source, Unit
from ..codegen.program import Program, check_input
from ..codegen.schedule.timing import estimate
from ..codegen.scratch import ScratchFolder
from ..codegen.toplevel import Rtl, links
from ..host.limits import allowed_cycles
from . import verilator
from .dram import PAGE_BYTES, Dram, dram_sources
from .stall import Snapshot, explain
from .trace import Trace, read_trace

Progress = Callable[[int], None]
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class DramTiming:
    """How fast the simulated DRAM is; the defaults are a Zynq's, idle.

    Attributes:
        read_latency, write_latency: cycles.
        beats_per_16: bus beats in 16 cycles, both directions together; 32 is no limit.
        stalls_per_256: cycles of 256 in which a channel of the bus does not move, at random.
        seed: of that randomness.
    """

    read_latency: int = 24
    write_latency: int = 12
    beats_per_16: int = 32
    stalls_per_256: int = 0
    seed: int = 1

    @property
    def plusargs(self) -> tuple[str, ...]:
        """The simulator's arguments, for a bench that does not set the DRAM's signals itself."""
        return tuple(f"+dram_{name}={value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Work:
    """A program and what it is run on.

    Attributes:
        program: its configuration must be the RTL's.
        inputs: content of the input buffer, run by run (program.pack_input).
        timing: of the DRAM.
        timeout_cycles: of one run; None for many times what is predicted.
    """

    program: Program
    inputs: Sequence[bytes]
    timing: DramTiming = DramTiming()
    timeout_cycles: int | None = None


@dataclass(frozen=True)
class Job:
    """A `Work` as the bench knows it.

    Attributes:
        arguments: register name → value, written before the first run.
        inputs: content of the input buffer, run by run.
        input_address, output_address: DRAM addresses.
        output_bytes: size of the output buffer.
        timing: of the DRAM.
        timeout_cycles: of one run.
    """

    arguments: Mapping[str, int]
    inputs: Sequence[bytes]
    input_address: int
    output_address: int
    output_bytes: int
    timing: DramTiming
    timeout_cycles: int


@dataclass(frozen=True)
class Task:
    """What the bench is to do; crosses to the simulator as a pickle.

    Attributes:
        jobs: one after the other.
        dram: (file, base address, size) of the memory.
    """

    jobs: Sequence[Job]
    dram: tuple[str, int, int]


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
class Failure:
    """A run that did not end as it should.

    Attributes:
        reason: one sentence without its full stop.
        state: who waits for whom, a line each; empty where that says nothing.
    """

    reason: str
    state: str = ""


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
    bench = resources.files("vitessera.sim").joinpath("testbench.sv").read_text(encoding="utf-8")
    streams = links(config)
    return verilator.Design(
        top="testbench",
        sources={
            **rtl,
            **dram_sources(),
            "streams.sv": _streams_module(config),
            "testbench.sv": bench,
        },
        options=(
            f"-GBUS_BITS={config.bus_bits}",
            f"-GSTREAMS={len(streams)}",
            *("-CFLAGS", "-O1"),
        ),
        waves=waves,
    )


def _streams_module(config: HardwareConfig) -> str:
    """Module `streams`: whether each stream between kernels has no room, or is not taken."""
    lines = []
    for index, link in enumerate(links(config)):
        for pin, end in (("full", link.source), ("held", link.sink)):
            wire = f"testbench.accelerator.core.{end.replace('.', '__')}"
            lines.append(f"  assign {pin}[{index}] = {wire}_vld & ~{wire}_rdy;")
    ports = f"output wire [{len(links(config)) - 1}:0] full, held"
    return "\n".join([f"module streams({ports});", *lines, "endmodule", ""])


def simulate(
    program: Program,
    rtl: Rtl,
    inputs: Sequence[bytes],
    *,
    timing: DramTiming | None = None,
    progress: Progress | None = None,
    waves: Path | None = None,
    trace: bool = False,
    timeout_cycles: int | None = None,
) -> Simulation:
    """Runs `program` once for each input.

    Args:
        program: what to run; its configuration must be the RTL's.
        rtl: the generated hardware.
        inputs: content of the input buffer, run by run (program.pack_input).
        timing: of the DRAM.
        progress: called with the number of finished runs, from time to time.
        waves: file for a waveform (VCD) of the whole simulation, also of one that fails.
        trace: record what happened when in the first run.
        timeout_cycles: of one run; by default many times what is predicted. A run in which nothing
            moves any more ends at once.

    Raises:
        HostBufferError: there is no input, or one of another size than the program reads.
        SimulationError: the hardware reported an error, did not finish, touched memory that it
            was not given, or broke a bus rule.
        ToolError: the simulator cannot be built.
    """
    work = Work(program, inputs, timing or DramTiming(), timeout_cycles)
    with _simulation((work,), rtl, progress, waves, trace) as folder:
        (results,) = _read_results(folder, (work,))
        runs = tuple(_checked(result, waves) for result in results)
        return Simulation(
            runs=runs,
            trace=read_trace(folder / TRACE, program) if trace else None,
            seconds=float((folder / SECONDS).read_text(encoding="utf-8")),
        )


def simulate_all(works: Sequence[Work], rtl: Rtl) -> list[list[Run | Failure]]:
    """Runs every program on its inputs, all in one simulation; a failure ends only its own run.

    Args:
        works: what to run; all programs are for the configuration of `rtl`.
        rtl: the generated hardware.

    Raises:
        HostBufferError, ToolError: as `simulate`.
        SimulationError: the simulator itself failed.
    """
    with _simulation(works, rtl) as folder:
        return _read_results(folder, works)


BROKE_A_RULE = "The accelerator broke a bus rule"
TASK, RESULTS, TRACE, SECONDS = "task.pickle", "results.jsonl", "trace", "seconds"


@contextmanager
def _simulation(
    works: Sequence[Work],
    rtl: Rtl,
    progress: Progress | None = None,
    waves: Path | None = None,
    trace: bool = False,
) -> Iterator[Path]:
    """Simulates; the folder with what came of it, for as long as it is looked at."""
    for work in works:
        _check_inputs(work.program, work.inputs)
    design = testbench_design(works[0].program.config, rtl.files, waves is not None)
    verilator.build(design)
    with ScratchFolder() as folder:
        dram, task = _prepare(works, folder / "dram")
        (folder / TASK).write_bytes(pickle.dumps(task))
        plusargs = (*dram.plusargs, *((f"+trace={folder / TRACE}",) if trace else ()))
        started = time.monotonic()
        try:
            with _watch(folder / RESULTS, progress):
                verilator.run(
                    design,
                    "vitessera.sim.accelerator_bench",
                    folder / "run",
                    {"VITESSERA_TASK": str(folder / TASK)},
                    plusargs,
                )
        finally:
            dump = folder / "run" / "dump.vcd"
            if waves is not None and dump.is_file():
                shutil.move(dump, waves)
        (folder / SECONDS).write_text(str(time.monotonic() - started), encoding="utf-8")
        yield folder


def _check_inputs(program: Program, inputs: Sequence[bytes]) -> None:
    if not inputs:
        raise HostBufferError("There is no input to simulate.", "Give at least one input buffer.")
    for buffer in inputs:
        check_input(program, buffer)


def _pages(size: int) -> int:
    """Bytes of the pages that `size` bytes take; none take one, too."""
    return max(1, -(-size // PAGE_BYTES)) * PAGE_BYTES


def _prepare(works: Sequence[Work], path: Path) -> tuple[Dram, Task]:
    """DRAM with programs and weights in place, and what the bench must know."""
    codes = [work.program.encode() for work in works]
    sizes = [
        (len(code), len(work.program.weights), work.program.input.size, work.program.output_size)
        for work, code in zip(works, codes, strict=True)
    ]
    dram = Dram(path, sum(_pages(size) for buffers in sizes for size in buffers))
    jobs = [_job(work, code, dram) for work, code in zip(works, codes, strict=True)]
    return dram, Task(jobs, (str(path), dram.base, len(dram.content)))


def _job(work: Work, code: bytes, dram: Dram) -> Job:
    program = work.program
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
    return Job(
        arguments=arguments,
        inputs=work.inputs,
        input_address=addresses["INPUT"],
        output_address=addresses["OUTPUT"],
        output_bytes=program.output_size,
        timing=work.timing,
        timeout_cycles=work.timeout_cycles or allowed_cycles(estimate(program).cycles),
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


def _read_results(folder: Path, works: Sequence[Work]) -> list[list[Run | Failure]]:
    """What the bench wrote, run by run of each work."""
    entries = iter(map(json.loads, (folder / RESULTS).read_text(encoding="utf-8").splitlines()))
    return [[_result(next(entries), work, folder) for _ in work.inputs] for work in works]


def _result(entry: Mapping[str, Any], work: Work, folder: Path) -> Run | Failure:
    if "output" in entry:
        return Run(bytes.fromhex(entry["output"]), entry["counters"])
    reason, state = entry["reason"], entry.get("state")
    if reason == BROKE_A_RULE:
        return Failure(reason, _broken_rules(folder))
    return Failure(reason, explain(work.program, _snapshot(work, state)) if state else "")


def _broken_rules(folder: Path) -> str:
    """What the DRAM said about them."""
    log = (folder / "run" / verilator.LOG).read_text(encoding="utf-8").splitlines()
    return "\n".join(f"  {line}" for line in log if line.startswith("dram: "))


def _snapshot(work: Work, state: Mapping[str, Any]) -> Snapshot:
    streams = [f"{link.source} → {link.sink}" for link in links(work.program.config)]
    pairs = [(source, unit) for source in Source for unit in Unit]
    return Snapshot(
        dispatched=state["dispatched"],
        started=dict(zip(Unit, state["started"], strict=True)),
        raised=dict(zip(pairs, state["raises"], strict=True)),
        full=tuple(streams[index] for index in state["full"]),
        held=tuple(streams[index] for index in state["held"]),
    )


def _checked(result: Run | Failure, waves: Path | None) -> Run:
    """The run, unless it failed."""
    if isinstance(result, Run):
        return result
    look = (
        "The waveform shows how it came to that."
        if waves
        else "Simulate again with --waves FILE to see how it came to that."
    )
    state = f":\n{result.state}" if result.state else "."
    raise SimulationError(
        f"{result.reason}{state}",
        f"{look} A build directory that 'vitessera compile' wrote never does this; please report "
        "it.",
    )
