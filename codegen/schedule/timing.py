"""An estimate of a program's cycles, without the RTL.

Units run concurrently and in order, semaphores hold them back as in the accelerator; what an
instruction takes is its number of words, tiles or beats plus a fixed latency. It tells whether a
schedule overlaps what it should; the RTL tells the truth.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

from .. import isa
from ..assembler import print_instruction
from ..config import (
    INSTRUCTION_BITS,
    MAX_BURST,
    OUTSTANDING_BURSTS,
    HardwareConfig,
    Memory,
)
from ..errors import ProgramError, missing_case
from ..program import Program

ISSUE_CYCLES = 4  # from semaphores taken to the first word
LANDING_CYCLES = 24  # pipeline behind the last word, and the semaphore's way
DRAM_CYCLES = 60  # from a request to the first beat of its answer, in the memory and our pipeline
START_CYCLES = 75  # from start to the first instruction


@dataclass(frozen=True)
class Timing:
    """Cycles of the whole program, the engine's busy cycles, and where it waited.

    Attributes:
        cycles: until END.
        engine_cycles: in which the engine multiplies.
        idle: layer → cycles that the engine waited before or within its instructions.
    """

    cycles: int
    engine_cycles: int
    idle: dict[str, int]

    @property
    def utilisation(self) -> float:
        """Share of cycles in which the engine multiplies, padding included."""
        return self.engine_cycles / self.cycles


def estimate(program: Program) -> Timing:
    """Times every instruction of `program`.

    Raises:
        ProgramError: an instruction needs what nothing before it gives.
    """
    clock = _Clock(program.config)
    for instruction, label in zip(program.instructions, program.labels, strict=True):
        clock.run(instruction, label)
    return Timing(clock.end, clock.engine, dict(clock.idle))


@dataclass
class _Raise:
    """A semaphore that is raised in that cycle."""

    cycle: int


class _Clock:
    """When units are free and semaphores raised."""

    def __init__(self, config: HardwareConfig) -> None:
        self.end = 0
        self.engine = 0
        self.idle: dict[str, int] = defaultdict(int)
        self._config = config
        self._free = dict.fromkeys(isa.Unit, 0)
        self._dispatched = START_CYCLES
        self._bus = START_CYCLES  # when the answers to all requests so far are in
        self._queues: dict[isa.Unit, deque[int]] = {
            unit: deque([0] * config.queue_depth, config.queue_depth) for unit in isa.Unit
        }
        self._raised: dict[tuple[isa.Source, isa.Unit], deque[_Raise]] = defaultdict(deque)
        self._norm_start = 0
        self._norm: list[_Raise] = []  # what the last NORM raises
        # COMPUTEs whose EPILOGUE is still to come.
        self._pending: deque[tuple[isa.Compute, str, int]] = deque()

    def run(self, instruction: isa.Instruction, label: str) -> None:
        """Takes the next instruction in program order."""
        start = self._start(instruction)
        match instruction:
            case isa.Compute():
                self._pending.append((instruction, label, start))
            case isa.Epilogue():
                self._tiles(instruction, start)
            case isa.Load():
                memory = Memory[isa.LoadTarget(instruction.target).name]
                self._load(instruction, start, instruction.words * self._beats(memory))
            case isa.Store():
                cycles = instruction.words * self._beats(Memory.RESIDUAL)
                self._finish(instruction, start + cycles, DRAM_CYCLES)
            case isa.Norm():
                # A beat a cycle; results follow a row tile behind, once its statistics are there.
                self._norm_start = start
                row_tile = instruction.inner * self._config.beats_per_tile
                free = start + instruction.outer * row_tile
                self._norm = self._finish(instruction, free, row_tile + LANDING_CYCLES)
            case isa.Gather():
                self._norm_start = start
                free = start + _gather_words(instruction, self._config)
                self._norm = self._finish(instruction, free, LANDING_CYCLES)
            case isa.End():
                self.end = start
            case _:
                raise missing_case(instruction, "The estimate of cycles")

    def _beats(self, memory: Memory) -> int:
        return self._config.beats_per_word(memory)

    def _load(self, load: isa.Load, start: int, beats: int) -> None:
        """Requests run ahead, as many as the bus has outstanding; answers come in order, a beat a
        cycle, fetched instructions among them.
        """
        self._bus = max(self._bus, start + DRAM_CYCLES) + beats
        free = max(start + ISSUE_CYCLES, self._bus - OUTSTANDING_BURSTS * MAX_BURST)
        self._finish(load, free, self._bus - free)

    def _start(self, instruction: isa.Instruction) -> int:
        taken = [
            self._take(source, instruction)
            for source in isa.Source
            if instruction.wait >> source & 1
        ]
        queue = self._queues[instruction.UNIT]
        beats = INSTRUCTION_BITS // self._config.bus_bits
        fetched = self._dispatched + beats
        self._bus += beats
        self._dispatched = max(fetched, queue[0])
        free = max(self._free[instruction.UNIT], self._dispatched)
        start = max([free, *taken]) + ISSUE_CYCLES * bool(taken)
        queue.append(start)
        return start

    def _take(self, source: isa.Source, instruction: isa.Instruction) -> int:
        """The cycle in which the semaphore that `instruction` takes was raised."""
        raised = self._raised[source, instruction.UNIT]
        if not raised:
            raise _unordered(instruction, f"takes a semaphore of {source.name.lower()}")
        return raised.popleft().cycle

    def _finish(self, instruction: isa.Instruction, free: int, latency: int) -> list[_Raise]:
        self._free[instruction.UNIT] = free
        raised = []
        for unit in isa.Unit:
            if instruction.signal >> unit & 1:
                raised.append(_Raise(free + latency))
                self._raised[instruction.source, unit].append(raised[-1])
        return raised

    def _hold_norm(self, first: int, last: int) -> None:
        """An epilogue that adds residual words goes before a NORM that reads some."""
        first = max(first, self._norm_start)
        if first < min(last, self._free[isa.Unit.NORM]):
            self._free[isa.Unit.NORM] += last - first
            for raised in self._norm:
                raised.cycle += last - first

    def _tiles(self, epilogue: isa.Epilogue, ready: int) -> None:
        """A COMPUTE and its EPILOGUE, which drains one tile while the next is computed."""
        if not self._pending:
            raise _unordered(epilogue, "takes the tiles of a compute")
        compute, label, start = self._pending.popleft()
        tiles, drain = compute.outer * compute.inner, self._config.beats_per_tile
        first = max(ready, start + compute.depth)
        pace = max(compute.depth, drain)
        busy = tiles * compute.depth
        stop = max(start + busy, first + (tiles - 1) * pace - drain)
        self.engine += busy
        self.idle[label] += stop - self._free[isa.Unit.COMPUTE] - busy
        self._finish(compute, stop, ISSUE_CYCLES)
        last = max(stop + drain, first + tiles * drain)
        self._finish(epilogue, last, LANDING_CYCLES)
        if epilogue.accumulate:
            self._hold_norm(last - tiles * drain, last)


def _unordered(instruction: isa.Instruction, what: str) -> ProgramError:
    """The error for an instruction that needs what nothing before it gives."""
    return ProgramError(
        f"An instruction {what} that no instruction before it gives: "
        f"{print_instruction(instruction)}.",
        "The program is damaged; compile the model again.",
    )


def _gather_words(gather: isa.Gather, config: HardwareConfig) -> int:
    """Words that norm_walk reads, a cycle each: the sums' pass over the map, then the results'."""
    row_tile = gather.inner * config.beats_per_tile
    kernel = gather.kernel_height * gather.kernel_width
    results = gather.outer * row_tile * kernel
    if not gather.statistics:
        return results
    visits = max(1, config.lanes >> gather.group)  # of a word, one for each group it holds
    row_tiles = -(-gather.width * gather.height // config.tile)
    return results + row_tiles * row_tile * visits
