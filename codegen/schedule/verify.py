"""A proof that a finished program cannot race, deadlock or overflow a semaphore.

It knows nothing of how the program was made. It replays the semaphores on unordered units and
derives what must have happened before what:

- a unit issues its instructions in order, a source completes its own in order;
- an instruction completes after it was issued;
- the k-th semaphore that a source raises for a unit is the k-th that the unit takes.

Then each pair of conflicting accesses must be ordered: a writer done before a later reader issues,
and the other way round. That compute and epilogue stream into each other, and that queues are
finite, is used only to look for deadlocks, where it makes things harder, not to order accesses.

It takes for granted that kernels go on as long as their streams do; which streams count on room,
and why there is some, is in docs/architecture.md, "What a step promises".
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import isa
from ..assembler import print_instruction
from ..config import SOFTMAX_BLOCKS, HardwareConfig, Memory
from ..errors import ProgramError
from .accesses import Access, accesses

UNITS = len(isa.Unit)
# A clock counts issued instructions of each unit, then completed ones of each source.
Clock = npt.NDArray[np.int64]
Pair = tuple[isa.Source, isa.Unit]
COUNTER_MAX = (1 << isa.SEMAPHORE_BITS) - 1


@dataclass(frozen=True)
class _Events:
    """What is known when each instruction is issued, and when it is done."""

    issued: list[Clock]
    done: list[Clock]


def verify(instructions: Sequence[isa.Instruction], config: HardwareConfig) -> None:
    """ProgramError unless the program is safe under every timing."""
    isa.check_end(instructions)
    _check_pairs(instructions)
    _check_softmax_blocks(instructions)
    _check_row_buffer(instructions, config)
    _check_balance(instructions)
    events = _Replay(instructions, config.queue_depth).run()
    _check_counters(instructions, events)
    _check_conflicts(instructions, config, events)
    _check_traffic(instructions, events)


def _error(index: int, instruction: isa.Instruction, reason: str) -> ProgramError:
    return ProgramError(
        f"Instruction {index} {reason}: {print_instruction(instruction)}.",
        "The program is damaged or the scheduler is wrong; please report it.",
    )


def _tile_streams(
    instructions: Sequence[isa.Instruction],
) -> tuple[list[int], list[int]]:
    """Indices of the computes, and of the epilogues."""
    computes = [i for i, entry in enumerate(instructions) if isinstance(entry, isa.Compute)]
    epilogues = [i for i, entry in enumerate(instructions) if isinstance(entry, isa.Epilogue)]
    return computes, epilogues


def _tile_pairs(
    instructions: Sequence[isa.Instruction],
) -> Iterator[tuple[int, isa.Compute, int, isa.Epilogue]]:
    """Each compute and the epilogue that takes its tiles, with their indices."""
    for first, second in zip(*_tile_streams(instructions), strict=True):
        compute, epilogue = instructions[first], instructions[second]
        assert isinstance(compute, isa.Compute)
        assert isinstance(epilogue, isa.Epilogue)
        yield first, compute, second, epilogue


def _check_pairs(instructions: Sequence[isa.Instruction]) -> None:
    computes, epilogues = _tile_streams(instructions)
    if len(computes) != len(epilogues):
        raise ProgramError(
            f"The program has {len(computes)} computes and {len(epilogues)} epilogues.",
            "Every compute needs one epilogue; compile the model again.",
        )
    for first, compute, second, epilogue in _tile_pairs(instructions):
        if (epilogue.outer, epilogue.inner) != (compute.outer, compute.inner):
            raise _error(second, epilogue, f"has other loop counts than compute {first}")


def _check_softmax_blocks(instructions: Sequence[isa.Instruction]) -> None:
    """Softmax never waits for room for a block, and no unit for a block that never comes.

    Softmax sends each block's maxima to the COMPUTE that reads its probabilities, its sums to an
    EPILOGUE with row_scale, through two queues. A full one would hold up softmax, with it the
    epilogue unit, and so those who could empty it.

    What the queues hold is bounded by program order, whatever the timing: an EPILOGUE ends only
    after its COMPUTE gave the last tile, hence took its blocks, and EPILOGUEs run in order. So
    when an EPILOGUE sends scores, all pairs before it have taken theirs. Pairs behind may have
    done so too, which only makes room; and they can only take what pairs before them sent.
    """
    held = dict.fromkeys((isa.Unit.COMPUTE, isa.Unit.EPILOGUE), 0)
    for first, compute, second, epilogue in _tile_pairs(instructions):
        settles = compute.left_source == isa.LeftSource.PROBABILITY
        takes = {first: compute.outer * settles, second: epilogue.outer * epilogue.row_scale}
        sends = epilogue.outer * (epilogue.target == isa.EpilogueTarget.SOFTMAX)
        for index, count in takes.items():
            unit = instructions[index].UNIT
            if count > held[unit]:
                reason = f"takes {count} softmax blocks, there are {held[unit]}"
                raise _error(index, instructions[index], reason)
            if sends and held[unit] + sends > SOFTMAX_BLOCKS:
                reason = f"can leave more than {SOFTMAX_BLOCKS} softmax blocks untaken"
                raise _error(second, epilogue, reason)
            held[unit] += sends - count
    for unit, count in held.items():
        if count:
            raise ProgramError(
                f"The program leaves {count} softmax blocks that {unit.name.lower()} must take.",
                "Compile the model again.",
            )


def _check_row_buffer(instructions: Sequence[isa.Instruction], config: HardwareConfig) -> None:
    """Statistics come after a row tile's last word: until then all of its words must have room."""
    for index, instruction in enumerate(instructions):
        if isinstance(instruction, isa.Norm):
            words = instruction.inner * config.beats_per_tile
            if words > config.norm_buffer_words:
                room = f"{config.norm_buffer_words} words of row buffer"
                raise _error(index, instruction, f"needs {words} of {room}")


def _pairs_of_waits(instruction: isa.Instruction) -> list[Pair]:
    return [(source, instruction.UNIT) for source in isa.Source if instruction.wait >> source & 1]


def _pairs_of_signals(instruction: isa.Instruction) -> list[Pair]:
    return [(instruction.source, unit) for unit in isa.Unit if instruction.signal >> unit & 1]


def _check_balance(instructions: Sequence[isa.Instruction]) -> None:
    counts: dict[Pair, int] = defaultdict(int)
    for instruction in instructions:
        for pair in _pairs_of_waits(instruction):
            counts[pair] -= 1
        for pair in _pairs_of_signals(instruction):
            counts[pair] += 1
    for (source, unit), count in counts.items():
        if count:
            raise ProgramError(
                f"Semaphore {source.name.lower()} → {unit.name.lower()} is raised {count} times "
                "more than it is taken.",
                "The program is damaged or the scheduler is wrong; please report it.",
            )


class _Replay:
    """Issues and completes instructions as soon as their semaphores allow, collecting clocks.

    Dispatch is in program order and stops at a full queue. An instruction is held to stay in its
    queue until it is done, longer than it really does.
    """

    def __init__(self, instructions: Sequence[isa.Instruction], queue_depth: int) -> None:
        self._instructions = instructions
        self._queue_depth = queue_depth
        empty = np.zeros(UNITS + len(isa.Source), np.int64)
        self._events = _Events([empty] * len(instructions), [empty] * len(instructions))
        self._issued = [False] * len(instructions)
        self._dispatched = 0
        self._queues: dict[isa.Unit, deque[int]] = {unit: deque() for unit in isa.Unit}
        self._unfinished = dict.fromkeys(isa.Unit, 0)
        self._raised: dict[Pair, list[Clock]] = defaultdict(list)
        self._taken: dict[Pair, int] = defaultdict(int)
        self._unit_clock = dict.fromkeys(isa.Unit, empty)
        self._source_clock = dict.fromkeys(isa.Source, empty)
        computes, epilogues = _tile_streams(instructions)
        # Neither can finish without the other: tiles stream from one into the other.
        self._partner = dict(zip(computes, epilogues, strict=True))
        self._partner |= dict(zip(epilogues, computes, strict=True))

    def run(self) -> _Events:
        """The events; ProgramError when units block each other for ever."""
        to_complete = self._by_source()
        moved = True
        while moved:
            moved = self._dispatch()
            for queue in self._queues.values():
                while queue and self._issue(queue[0]):
                    queue.popleft()
                    moved = True
            for queue in to_complete.values():
                while queue and self._complete(queue[0]):
                    queue.popleft()
                    moved = True
        stuck = [queue[0] for queue in (*self._queues.values(), *to_complete.values()) if queue]
        if stuck:
            index = min(stuck)
            raise _error(index, self._instructions[index], "can never finish: a deadlock")
        return self._events

    def _by_source(self) -> dict[isa.Source, deque[int]]:
        """Indices of each source's instructions."""
        sources: dict[isa.Source, deque[int]] = {source: deque() for source in isa.Source}
        for index, instruction in enumerate(self._instructions):
            if not isinstance(instruction, isa.End):
                sources[instruction.source].append(index)
        return sources

    def _dispatch(self) -> bool:
        """Moves instructions into their units' queues; whether there was room for any."""
        first = self._dispatched
        for index in range(first, len(self._instructions)):
            unit = self._instructions[index].UNIT
            if self._unfinished[unit] == self._queue_depth:
                break
            self._queues[unit].append(index)
            self._unfinished[unit] += 1
            self._dispatched += 1
        return self._dispatched > first

    def _issue(self, index: int) -> bool:
        instruction = self._instructions[index]
        pairs = _pairs_of_waits(instruction)
        if any(len(self._raised[pair]) <= self._taken[pair] for pair in pairs):
            return False
        clock = self._unit_clock[instruction.UNIT].copy()
        for pair in pairs:
            clock = np.maximum(clock, self._raised[pair][self._taken[pair]])
            self._taken[pair] += 1
        self._events.issued[index] = clock
        after = clock.copy()
        after[instruction.UNIT] += 1
        self._unit_clock[instruction.UNIT] = after
        self._issued[index] = True
        return True

    def _complete(self, index: int) -> bool:
        partner = self._partner.get(index, index)
        if not (self._issued[index] and self._issued[partner]):
            return False
        instruction = self._instructions[index]
        clock = np.maximum(self._events.issued[index], self._source_clock[instruction.source])
        clock[instruction.UNIT] = max(
            clock[instruction.UNIT], self._events.issued[index][instruction.UNIT] + 1
        )
        clock[UNITS + instruction.source] += 1
        self._source_clock[instruction.source] = clock
        self._unfinished[instruction.UNIT] -= 1
        self._events.done[index] = clock
        for pair in _pairs_of_signals(instruction):
            self._raised[pair].append(clock)
        return True


def _check_counters(instructions: Sequence[isa.Instruction], events: _Events) -> None:
    """At no time may a counter stand above its width."""
    taken: dict[Pair, list[int]] = {(s, u): [0] for s in isa.Source for u in isa.Unit}
    for instruction in instructions:
        for source in isa.Source:
            counts = taken[source, instruction.UNIT]
            counts.append(counts[-1] + (instruction.wait >> source & 1))
    raised: dict[Pair, int] = defaultdict(int)
    for index, instruction in enumerate(instructions):
        for pair in _pairs_of_signals(instruction):
            raised[pair] += 1
            certainly_issued = int(events.done[index][pair[1]])
            outstanding = raised[pair] - taken[pair][certainly_issued]
            if outstanding > COUNTER_MAX:
                raise _error(index, instruction, f"can raise a semaphore to {outstanding}")


def _check_conflicts(
    instructions: Sequence[isa.Instruction], config: HardwareConfig, events: _Events
) -> None:
    shape = {memory: (len(isa.Source), config.words(memory)) for memory in Memory}
    reads = {memory: np.zeros(shape[memory], np.int64) for memory in Memory}
    writes = {memory: np.zeros(shape[memory], np.int64) for memory in Memory}
    for index, instruction in enumerate(instructions[:-1]):
        known = events.issued[index][UNITS:, None]
        own = np.arange(len(isa.Source)) == instruction.source
        touched = accesses(instruction, config)
        for access in touched:
            if access.stop > config.words(access.memory):
                raise _error(index, instruction, f"leaves the {access.memory.value} memory")
            unsafe = writes[access.memory][:, access.words] > known
            if access.write:
                unsafe |= reads[access.memory][:, access.words] > known
                unsafe[own] = False  # one source's accesses keep their order
            if unsafe.any():
                raise _race(index, instruction, access, unsafe)
        position = int(events.done[index][UNITS + instruction.source])
        for access in touched:
            table = writes if access.write else reads
            table[access.memory][instruction.source, access.words] = position


def _race(
    index: int, instruction: isa.Instruction, access: Access, unsafe: npt.NDArray[np.bool_]
) -> ProgramError:
    source, nth = (int(axis[0]) for axis in np.nonzero(unsafe))
    word = np.arange(access.stop)[access.words][nth]
    return _error(
        index,
        instruction,
        f"races with {isa.Source(source).name.lower()} for {access.memory.value} word {word}",
    )


def _check_traffic(instructions: Sequence[isa.Instruction], events: _Events) -> None:
    """END comes after all traffic on the bus; the hardware reports UNFINISHED otherwise."""
    for kind in (isa.Load, isa.Store):
        count = sum(isinstance(instruction, kind) for instruction in instructions)
        if events.issued[-1][UNITS + isa.Source[kind.UNIT.name]] < count:
            raise ProgramError(
                f"END does not wait for the last {kind.__name__.lower()}.",
                "The program is damaged or the scheduler is wrong; please report it.",
            )
