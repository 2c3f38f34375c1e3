"""Semaphores: the fewest that keep every pair of conflicting accesses in order.

An instruction may start once every earlier one that it conflicts with is done: that wrote what it
reads (RAW), or read or wrote what it writes (WAR, WAW). Of each source only the latest such
instruction counts, since a source completes in order. What an instruction knows to be done is a
vector clock: what its unit's previous instruction knew, and, with each semaphore that it takes,
what the raiser knew. It waits only for what it does not know yet; so the instructions waited for
ascend within each (source, unit) pair, which is what makes a counter enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import isa
from ..config import HardwareConfig, Memory
from .accesses import Access, accesses

Clock = npt.NDArray[np.int64]  # for each source, how many of its instructions are done


class LastAccesses:
    """For every word, the latest reader and writer of each source, counted from 1."""

    def __init__(self, config: HardwareConfig) -> None:
        shapes = {memory: (len(isa.Source), config.words(memory)) for memory in Memory}
        self._reads = {memory: np.zeros(shape, np.int64) for memory, shape in shapes.items()}
        self._writes = {memory: np.zeros(shape, np.int64) for memory, shape in shapes.items()}

    def conflicts(self, instruction: isa.Instruction, touched: tuple[Access, ...]) -> Clock:
        """How far each source must have come before `instruction` may start."""
        needed = np.zeros(len(isa.Source), np.int64)
        for access in touched:
            before = self._writes[access.memory][:, access.words].max(axis=1)
            if access.write:
                readers = self._reads[access.memory][:, access.words].max(axis=1)
                before = np.maximum(before, readers)
                before[instruction.source] = 0  # one source's accesses keep their order
            needed = np.maximum(needed, before)
        return needed

    def note(
        self, instruction: isa.Instruction, touched: tuple[Access, ...], position: int
    ) -> None:
        """Records what `instruction`, its source's `position`-th, touches."""
        for access in touched:
            table = self._writes if access.write else self._reads
            table[access.memory][instruction.source, access.words] = position


def synchronize(
    instructions: Sequence[isa.Instruction], config: HardwareConfig
) -> tuple[isa.Instruction, ...]:
    """`instructions` in program order with waits and signals; an END is appended."""
    last = LastAccesses(config)
    plan = _Plan()
    for instruction in instructions:
        touched = accesses(instruction, config)
        plan.add(instruction, last.conflicts(instruction, touched))
        last.note(instruction, touched, plan.done[instruction.source])
    # After END nothing may be under way on the bus, not even what nobody reads.
    traffic = np.zeros(len(isa.Source), np.int64)
    for source in (isa.Source.LOAD, isa.Source.STORE):
        traffic[source] = plan.done[source]
    plan.add(isa.End(), traffic)
    return plan.instructions()


class _Plan:
    """Instructions with their semaphores, as far as they are known."""

    def __init__(self) -> None:
        self.done = [0] * len(isa.Source)
        self._instructions: list[isa.Instruction] = []
        self._waits: list[int] = []
        self._signals: list[int] = []
        self._positions: dict[tuple[isa.Source, int], int] = {}  # source, count from 1 → index
        self._known = {unit: np.zeros(len(isa.Source), np.int64) for unit in isa.Unit}
        self._clocks: list[Clock] = []  # what each instruction's completion tells

    def add(self, instruction: isa.Instruction, needed: Clock) -> None:
        """Appends an instruction that may start when each source has come as far as `needed`."""
        known = self._known[instruction.UNIT]
        producers = self._producers(needed, known)
        for source, index in producers.items():
            self._signals[index] |= 1 << instruction.UNIT
            known = np.maximum(known, self._clocks[index])
            assert known[source] >= needed[source]
        self._known[instruction.UNIT] = known
        self._waits.append(sum(1 << source for source in producers))
        self._signals.append(0)
        self._instructions.append(instruction)
        self._complete(instruction, known)

    def _complete(self, instruction: isa.Instruction, known: Clock) -> None:
        if isinstance(instruction, isa.End):
            return
        source = instruction.source
        self.done[source] += 1
        self._positions[source, self.done[source]] = len(self._instructions) - 1
        clock = known.copy()
        clock[source] = self.done[source]
        self._clocks.append(clock)

    def _producers(self, needed: Clock, known: Clock) -> dict[isa.Source, int]:
        """The instructions to wait for: of each source the latest, unless another tells."""
        producers = {
            source: self._positions[source, int(needed[source])]
            for source in isa.Source
            if needed[source] > known[source]
        }
        for source in list(producers):
            others = [self._clocks[index] for s, index in producers.items() if s is not source]
            if any(clock[source] >= needed[source] for clock in others):
                del producers[source]
        return producers

    def instructions(self) -> tuple[isa.Instruction, ...]:
        """The finished program."""
        return tuple(
            dataclasses.replace(instruction, wait=wait, signal=signal)
            for instruction, wait, signal in zip(
                self._instructions, self._waits, self._signals, strict=True
            )
        )
