"""The simulator's side of a simulated board (board.py): registers, interrupt, free-running time.

Time goes on while a run is under way, whatever the host does; it stands still when the accelerator
is idle and nothing is asked, so that an idle board costs nothing.
"""

from __future__ import annotations

import os
import pickle
import socket
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from ..codegen import registers
from ..codegen.registers import State
from .accelerator_bench import RESET_CYCLES, Registers
from .board_link import Job, Reply, Request

CLOCK_NS = 10
SLICE_CYCLES = 2000  # between two looks at the connections while a run is under way
UIO_BYTES = 4


class InterruptController:
    """Xilinx's axi_intc with one level-sensitive input, as far as PYNQ uses it (PG099).

    ISR takes the level, and takes it again after an acknowledge while the level lasts.
    """

    STATUS, PENDING, ENABLE, ACKNOWLEDGE, SET, CLEAR, VECTOR, MASTER = range(0, 0x20, 4)

    def __init__(self) -> None:
        self.status = self.enable = self.master = 0

    def sample(self, level: int) -> bool:
        """Takes the input's level; whether the output is high."""
        self.status |= level
        return bool(self.status & self.enable) and self.master & 3 == 3

    def read(self, offset: int) -> int:
        """A register."""
        values = {
            self.STATUS: self.status,
            self.PENDING: self.status & self.enable,
            self.ENABLE: self.enable,
            self.VECTOR: 0 if self.status & self.enable else 0xFFFFFFFF,
            self.MASTER: self.master,
        }
        return values[offset]

    def write(self, offset: int, value: int) -> None:
        """A register."""
        if offset == self.ENABLE:
            self.enable = value
        elif offset == self.ACKNOWLEDGE:
            self.status &= ~value
        elif offset == self.SET:
            self.enable |= value
        elif offset == self.CLEAR:
            self.enable &= ~value
        elif offset == self.MASTER:
            self.master = value
        else:
            raise KeyError(offset)


class Board:
    """Answers requests and carries interrupts."""

    def __init__(self, dut: Any, requests: Connection, uio: socket.socket) -> None:  # noqa: ANN401
        self.dut = dut
        self.registers = Registers(dut)
        self.controller = InterruptController()
        self._requests = requests
        self._uio = uio
        self._wire = 1  # whether the interrupt line is connected
        self._unmasked = False  # Linux masks a UIO interrupt until the program asks for the next
        self._count = 0

    async def reset(self) -> None:
        """Clock on, reset for some cycles."""
        self.dut.aresetn.value = 0
        Clock(self.dut.aclk, CLOCK_NS, unit="ns").start()
        await ClockCycles(self.dut.aclk, RESET_CYCLES)
        self.dut.aresetn.value = 1
        await RisingEdge(self.dut.aclk)

    async def serve(self) -> None:
        """Until the host closes the connection."""
        running = False
        while True:
            self._interrupt()
            ready = wait([self._requests, self._uio], 0 if running else None)
            try:
                if self._uio in ready:
                    self._unmask()
                if self._requests in ready:
                    self._requests.send(await self._answer(self._requests.recv()))
            except (EOFError, OSError):
                return
            if running and not ready:
                # With the interrupt raised and not yet taken, time goes on as well.
                slices = Timer(SLICE_CYCLES * CLOCK_NS, unit="ns")
                await First(RisingEdge(self.dut.interrupt), slices)
            running = await self._running()

    def _unmask(self) -> None:
        if not self._uio.recv(UIO_BYTES):
            raise EOFError
        self._unmasked = True

    def _interrupt(self) -> None:
        level = int(self.dut.interrupt.value) & self._wire
        if self.controller.sample(level) and self._unmasked:
            self._unmasked = False
            self._count += 1
            self._uio.send(self._count.to_bytes(UIO_BYTES, "little"))

    async def _running(self) -> bool:
        status = await self.registers.read("STATUS")
        return registers.register("STATUS").field("STATE").extract(status) != State.IDLE

    async def _answer(self, request: Request) -> Reply:
        value = 0
        names = {entry.offset: entry.name for entry in registers.REGISTERS}
        if request.kind == "read":
            value = await self.registers.read(names[request.offset])
        elif request.kind == "write":
            await self.registers.write(names[request.offset], request.value)
        elif request.kind == "read_controller":
            value = self.controller.read(request.offset)
        elif request.kind == "write_controller":
            self.controller.write(request.offset, request.value)
        elif request.kind == "latency":
            self.dut.dram.read_latency.value = request.value
        elif request.kind == "wire":
            self._wire = request.value
        else:
            raise ValueError(request)
        return Reply(value, violated=bool(self.dut.violation.value))


@cocotb.test()
async def serve(dut: Any) -> None:  # noqa: ANN401
    """The board, for as long as the host is connected."""
    job: Job = pickle.loads(Path(os.environ["VITESSERA_JOB"]).read_bytes())
    with Client(job.requests) as requests, socket.socket(socket.AF_UNIX) as uio:
        uio.connect(job.interrupts)
        board = Board(dut, requests, uio)
        await board.reset()
        await board.serve()
