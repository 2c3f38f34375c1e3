"""The cocotb side of kernel.py: drives the inputs, compares the outputs."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.handle import LogicArrayObject, LogicObject
from cocotb.triggers import RisingEdge

from .kernel_task import KernelRun, Order

RESET_CYCLES = 4
PATIENCE_CYCLES = 2000  # without any transfer
DRAIN_CYCLES = 40  # after the last expected word, in which nothing more may come


class Stream:
    """One stream of the kernel: its signals, its words and how far it is."""

    def __init__(self, dut: Any, kernel: str, channel: str, words: Sequence[int]) -> None:  # noqa: ANN401
        self.channel = channel
        self.words = words
        self.position = 0
        name = f"{kernel}__{channel}"
        self.valid: LogicObject = getattr(dut, f"{name}_vld")
        self.ready: LogicObject = getattr(dut, f"{name}_rdy")
        self.data: LogicArrayObject | None = getattr(dut, f"{name}_data", None)

    @property
    def done(self) -> bool:
        """Every word has passed."""
        return self.position == len(self.words)

    def transfers(self) -> bool:
        """A word passes at this clock edge."""
        return bool(self.valid.value == 1 and self.ready.value == 1)


class Input(Stream):
    """A stream that the bench sends."""

    offered = False

    def after_edge(self, stall: bool) -> bool:
        """Moves on when a word was taken; offers the next. A word once offered stays."""
        moved = self.transfers()
        if moved:
            self.position += 1
            self.offered = False
        if not self.offered:
            self.offered = not self.done and not stall
            if self.offered and self.data is not None:
                self.data.value = self.words[self.position]
            self.valid.value = int(self.offered)
        return moved


class Output(Stream):
    """A stream that the bench receives and compares."""

    def after_edge(self, stall: bool) -> bool:
        """Compares the word that passed, if any."""
        moved = self.transfers()
        if moved:
            got = int(self.data.value) if self.data is not None else 0
            assert not self.done, f"{self.channel}: word {self.position} is one too many: 0x{got:x}"
            want = self.words[self.position]
            assert got == want, (
                f"{self.channel}: word {self.position} is\n  0x{got:x}, expected\n  0x{want:x}"
            )
            self.position += 1
        self.ready.value = int(not stall)
        return moved


@cocotb.test()
async def compare(dut: Any) -> None:  # noqa: ANN401
    """Runs the task and writes the cycles it took."""
    path = Path(os.environ["VITESSERA_KERNEL_TASK"])
    task: KernelRun = pickle.loads(path.read_bytes())
    inputs = [Input(dut, task.kernel, name, words) for name, words in task.inputs.items()]
    outputs = [Output(dut, task.kernel, name, words) for name, words in task.outputs.items()]
    await _reset(dut, inputs, outputs)
    cycles = await _run(dut, inputs, outputs, task)
    Path(f"{path}.cycles").write_text(str(cycles), encoding="utf-8")


async def _reset(dut: Any, inputs: list[Input], outputs: list[Output]) -> None:  # noqa: ANN401
    for stream in inputs:
        stream.valid.value = 0
    for sink in outputs:
        sink.ready.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(RESET_CYCLES):
        await RisingEdge(dut.clk)
    dut.rst.value = 0


def _check_orders(streams: Sequence[Stream], orders: Sequence[Order]) -> None:
    passed = {stream.channel: stream.position for stream in streams}
    for order in orders:
        later, earlier = passed[order.later], passed[order.earlier]
        assert later * order.words <= earlier, (
            f"{order.later}: word {later - 1} passed after {earlier} words of {order.earlier}, "
            f"{later * order.words} must come first"
        )


async def _run(dut: Any, inputs: list[Input], outputs: list[Output], task: KernelRun) -> int:  # noqa: ANN401
    source = random.Random(task.seed)
    streams: list[Input | Output] = [*inputs, *outputs]
    cycle = idle = 0
    first: int | None = None
    last = 0
    while idle < (DRAIN_CYCLES if all(s.done for s in streams) else PATIENCE_CYCLES):
        await RisingEdge(dut.clk)
        cycle += 1
        moved = [stream.after_edge(source.random() < task.stall) for stream in streams]
        _check_orders(streams, task.orders)
        idle = 0 if any(moved) else idle + 1
        if any(moved):
            first = cycle if first is None else first
            last = cycle
    stuck = [s for s in streams if not s.done]
    assert not stuck, "no transfer any more; " + ", ".join(
        f"{s.channel} at word {s.position} of {len(s.words)}" for s in stuck
    )
    return last - (first or 0) + 1
