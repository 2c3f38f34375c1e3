"""The cocotb side of accelerator.py: a host that knows registers, DRAM and the interrupt."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge

from ..codegen import registers
from ..codegen.registers import HardwareError
from .accelerator import BROKE_A_RULE, RESULTS, Job, Task

RESET_CYCLES = 8


class Registers:
    """Reads and writes registers by name over AXI4-Lite.

    Written by hand since a library's bus master runs Python every clock cycle, in which the
    simulation of a whole image would spend most of its time.
    """

    def __init__(self, dut: Any) -> None:  # noqa: ANN401 (cocotb's handles are untyped)
        self.dut = dut
        for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
            self._pin(name).value = 0

    def _pin(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.dut, f"s_axi_{name}")

    async def write(self, name: str, value: int) -> None:
        """Writes register `name`."""
        pending = {"aw": "awaddr", "w": "wdata"}
        self._pin("awaddr").value = registers.register(name).offset
        self._pin("wdata").value = value
        for channel in pending:
            self._pin(f"{channel}valid").value = 1
        self._pin("bready").value = 1
        while pending:
            await RisingEdge(self.dut.aclk)
            for channel in [c for c in pending if self._pin(f"{c}ready").value == 1]:
                self._pin(f"{channel}valid").value = 0
                del pending[channel]
        while self._pin("bvalid").value != 1:
            await RisingEdge(self.dut.aclk)
        self._pin("bready").value = 0
        assert self._pin("bresp").value == 0, f"write of {name} was refused"

    async def read(self, name: str) -> int:
        """Reads register `name`."""
        self._pin("araddr").value = registers.register(name).offset
        self._pin("arvalid").value = 1
        self._pin("rready").value = 1
        await RisingEdge(self.dut.aclk)
        while self._pin("arready").value != 1:
            await RisingEdge(self.dut.aclk)
        self._pin("arvalid").value = 0
        while self._pin("rvalid").value != 1:
            await RisingEdge(self.dut.aclk)
        value = int(self._pin("rdata").value)
        self._pin("rready").value = 0
        assert self._pin("rresp").value == 0, f"read of {name} was refused"
        return value


class RunFailed(Exception):  # noqa: N818 (it is written down, and the next run goes on)
    """A run that did not end as it should.

    Attributes:
        entry: as it is written down: `reason`, and `state` if it shows what holds the run up.
    """

    def __init__(self, reason: str, state: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.entry: dict[str, Any] = {"reason": reason} | ({"state": state} if state else {})


class Host:
    """Starts runs and waits for them."""

    def __init__(self, dut: Any, dram: tuple[str, int, int]) -> None:  # noqa: ANN401
        """For a DRAM as in `Task`."""
        self.dut = dut
        self.registers = Registers(dut)
        path, self.base, size = dram
        self.dram: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r+", shape=(size,))

    async def reset(self) -> None:
        """Clock on, reset for some cycles, interrupt enabled."""
        self.dut.aresetn.value = 0
        Clock(self.dut.aclk, 10, unit="ns").start()
        await ClockCycles(self.dut.aclk, RESET_CYCLES)
        self.dut.aresetn.value = 1
        await RisingEdge(self.dut.aclk)
        await self.registers.write("GIER", 1)
        await self.registers.write("IER", 1)

    async def prepare(self, job: Job) -> None:
        """Arguments and DRAM as `job` wants them."""
        dram = self.dut.dram
        dram.read_latency.value = job.timing.read_latency
        dram.write_latency.value = job.timing.write_latency
        dram.beats_per_16.value = job.timing.beats_per_16
        dram.stalls_per_256.value = job.timing.stalls_per_256
        dram.random.value = job.timing.seed
        for name, value in job.arguments.items():
            await self.registers.write(name, value)

    async def run(self, job: Job, content: bytes) -> bytes:
        """One run; the output buffer's content."""
        start = job.input_address - self.base
        self.dram[start : start + len(content)] = memoryview(content)
        await self.registers.write("CTRL", 1)
        await self.interrupt(job.timeout_cycles)
        await self.registers.write("ISR", 1)
        self._check_bus()
        status = await self.registers.read("STATUS")
        error = HardwareError(registers.register("STATUS").field("ERROR").extract(status))
        if error is not HardwareError.NONE:
            raise RunFailed(
                f"The accelerator reports {error.name}: {registers.ERROR_MEANING[error]}"
            )
        first = job.output_address - self.base
        return self.dram[first : first + job.output_bytes].tobytes()

    def _check_bus(self) -> None:
        if self.dut.violation.value:
            self.dut.dram.violations.value = 0
            raise RunFailed(BROKE_A_RULE)

    async def interrupt(self, limit_cycles: int) -> None:
        """Waits for it; RunFailed when nothing moves any more, or it takes longer than allowed."""
        interrupt, still = RisingEdge(self.dut.interrupt), RisingEdge(self.dut.still)
        reached = await First(interrupt, still, ClockCycles(self.dut.aclk, limit_cycles))
        if reached is interrupt:
            return
        cycles = await self.registers.read("CYCLES")
        stands = "and nothing moves any more" if reached is still else "more than it is allowed"
        raise RunFailed(
            f"The run has not ended after {cycles:,} cycles, {stands}", await self._state()
        )

    async def _state(self) -> dict[str, Any]:
        """What stall.py explains."""
        full, held = (_bits(getattr(self.dut, name)) for name in ("full", "held"))
        return {
            "dispatched": await self.registers.read("INSTRUCTIONS"),
            "started": _counts(self.dut.started),
            "raises": _counts(self.dut.raises),
            "full": full,
            "held": held,
        }

    async def recover(self) -> None:
        """Ends whatever is under way, so that the next run can start."""
        await self.registers.write("SOFT_RESET", 1)
        while await self.registers.read("SOFT_RESET"):
            await ClockCycles(self.dut.aclk, RESET_CYCLES)
        await self.registers.write("ISR", await self.registers.read("ISR"))

    async def counters(self) -> dict[str, int]:
        """The performance counters of the last run."""
        return {
            counter.name: await self.registers.read(counter.name) for counter in registers.COUNTERS
        }


def _counts(signal: Any) -> list[int]:  # noqa: ANN401
    """The 32-bit counts side by side in a packed array, the first in its lowest bits."""
    value = int(signal.value)
    return [value >> low & 0xFFFFFFFF for low in range(0, len(signal), 32)]


def _bits(signal: Any) -> list[int]:  # noqa: ANN401
    """Numbers of the bits that are set."""
    value = int(signal.value)
    return [bit for bit in range(len(signal)) if value >> bit & 1]


@cocotb.test()
async def run_all(dut: Any) -> None:  # noqa: ANN401
    """Runs every input of every job and appends a line of results for each."""
    path = Path(os.environ["VITESSERA_TASK"])
    task: Task = pickle.loads(path.read_bytes())
    host = Host(dut, task.dram)
    await host.reset()
    with path.with_name(RESULTS).open("w", encoding="utf-8") as results:
        for job in task.jobs:
            await host.prepare(job)
            for content in job.inputs:
                results.write(json.dumps(await _one_run(host, job, content)) + "\n")
                results.flush()


async def _one_run(host: Host, job: Job, content: bytes) -> dict[str, Any]:
    try:
        output = await host.run(job, content)
        return {"output": output.hex(), "counters": await host.counters()}
    except RunFailed as failure:
        await host.recover()
        return failure.entry
