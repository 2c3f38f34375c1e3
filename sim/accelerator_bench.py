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
from .accelerator import Task

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


class Host:
    """Starts runs and waits for them."""

    def __init__(self, dut: Any, task: Task) -> None:  # noqa: ANN401
        self.dut = dut
        self.task = task
        self.registers = Registers(dut)
        path, self.base, size = task.dram
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
        for name, value in self.task.arguments.items():
            await self.registers.write(name, value)

    async def run(self, content: bytes) -> bytes:
        """One run; the output buffer's content."""
        start = self.task.input_address - self.base
        self.dram[start : start + len(content)] = memoryview(content)
        await self.registers.write("CTRL", 1)
        await self._interrupt()
        await self.registers.write("ISR", 1)
        status = await self.registers.read("STATUS")
        error = HardwareError(registers.register("STATUS").field("ERROR").extract(status))
        assert error is HardwareError.NONE, (
            f"the accelerator reports {error.name}: {registers.ERROR_MEANING[error]}"
        )
        assert self.dut.violation.value == 0, "the accelerator broke a bus rule; see above"
        first = self.task.output_address - self.base
        return self.dram[first : first + self.task.output_bytes].tobytes()

    async def _interrupt(self) -> None:
        timeout = ClockCycles(self.dut.aclk, self.task.timeout_cycles)
        reached = await First(RisingEdge(self.dut.interrupt), timeout)
        if isinstance(reached, RisingEdge):
            return
        state = [f"{name} {await self.registers.read(name)}" for name in _STATE_REGISTERS]
        raise AssertionError(
            f"no interrupt within {self.task.timeout_cycles} cycles; {', '.join(state)}"
        )

    async def counters(self) -> dict[str, int]:
        """The performance counters of the last run."""
        return {
            counter.name: await self.registers.read(counter.name) for counter in registers.COUNTERS
        }


_STATE_REGISTERS = ("STATUS", *(counter.name for counter in registers.COUNTERS))


@cocotb.test()
async def run_all(dut: Any) -> None:  # noqa: ANN401
    """Runs every input and appends a line of results for each."""
    path = Path(os.environ["VITESSERA_TASK"])
    task: Task = pickle.loads(path.read_bytes())
    host = Host(dut, task)
    await host.reset()
    with path.with_name("results.jsonl").open("w") as results:
        for content in task.inputs:
            output = await host.run(content)
            entry = {"output": output.hex(), "counters": await host.counters()}
            results.write(json.dumps(entry) + "\n")
            results.flush()
