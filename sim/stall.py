"""Who waits for whom when a run does not go on: from counts to words.

The testbench counts how many instructions each unit has started and how often each semaphore has
been raised. Together with the program this tells, for each unit, its next instruction and the one
that it waits for: the n-th that takes from a semaphore waits for the n-th that raises it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..codegen.assembler import print_instruction
from ..codegen.isa import Instruction, Source, Unit
from ..codegen.program import Program

Pair = tuple[Source, Unit]


@dataclass(frozen=True)
class Snapshot:
    """What has happened in a run so far.

    Attributes:
        dispatched: instructions that were handed to their unit's queue.
        started: of each unit, how many left its queue.
        raised: how often each semaphore was raised.
        full: streams between kernels whose source has a word and no room for it.
        held: streams whose word its sink does not take.
    """

    dispatched: int
    started: Mapping[Unit, int]
    raised: Mapping[Pair, int]
    full: tuple[str, ...]
    held: tuple[str, ...]


def explain(program: Program, seen: Snapshot) -> str:
    """The state in words: a line for dispatch, one for each unit, one for streams that stand."""
    story = _Story(program, seen)
    lines = [story.dispatch(), *map(story.unit, Unit)]
    for what, streams in (("no room in", seen.full), ("not taken from", seen.held)):
        if streams:
            lines.append(f"{what}: {', '.join(streams)}")
    return "\n".join(f"  {line}" for line in lines)


@dataclass(frozen=True)
class _Story:
    program: Program
    seen: Snapshot

    @cached_property
    def _indices(self) -> Mapping[Unit, list[int]]:
        """Of each unit's instructions, in order."""
        indices: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        for index, instruction in enumerate(self.program.instructions):
            indices[instruction.UNIT].append(index)
        return indices

    @cached_property
    def _raisers(self) -> Mapping[Pair, list[int]]:
        """Indices of the instructions that raise each semaphore, in order."""
        raisers: dict[Pair, list[int]] = defaultdict(list)
        for index, instruction in enumerate(self.program.instructions):
            for unit in Unit:
                if instruction.signal >> unit & 1:
                    raisers[instruction.source, unit].append(index)
        return raisers

    def dispatch(self) -> str:
        count, total = self.seen.dispatched, len(self.program.instructions)
        text = f"dispatch: {count} of {total} instructions"
        if count == total:
            return text
        unit = self.program.instructions[count].UNIT
        waiting = sum(i < count for i in self._indices[unit]) - self.seen.started[unit]
        if waiting >= self.program.config.queue_depth:
            return f"{text}; the next one, {self._name(count)}, finds the queue of its unit full"
        return f"{text}; the next one, {self._name(count)}, has not come from DRAM"

    def unit(self, unit: Unit) -> str:
        indices, started = self._indices[unit], self.seen.started[unit]
        text = f"{unit.name.lower()}: {started} of {len(indices)} started"
        if started == len(indices):
            return text
        upcoming = indices[started]
        if upcoming >= self.seen.dispatched:
            return f"{text}; its queue is empty"
        missing = "; ".join(self._missing(unit, upcoming))
        if missing:
            return f"{text}; {self._name(upcoming)} waits for {missing}"
        busy = f" ({self._name(indices[started - 1])})" if started else ""
        return f"{text}; {self._name(upcoming)} has its semaphores, the unit is not free{busy}"

    def _missing(self, unit: Unit, index: int) -> Iterator[str]:
        """The instructions whose semaphores `index` has not got."""
        before = [self.program.instructions[i] for i in self._indices[unit] if i < index]
        for source in _sources(self.program.instructions[index]):
            taken = sum(source in _sources(instruction) for instruction in before)
            if self.seen.raised.get((source, unit), 0) <= taken:
                raisers = self._raisers[source, unit]
                known = self._name(raisers[taken]) if taken < len(raisers) else "nobody"
                yield f"{source.name.lower()} of {known}"

    def _name(self, index: int) -> str:
        kind = print_instruction(self.program.instructions[index]).split()[0]
        layer = self.program.labels[index]
        return f"{kind} {index}" + (f" of layer {layer}" if layer else "")


def _sources(instruction: Instruction) -> tuple[Source, ...]:
    return tuple(source for source in Source if instruction.wait >> source & 1)
