"""What a program takes: memories, instructions, MACs; as text and as JSON.

Two counts of MACs: true ones, of matrix elements that exist, and padded ones, of whole tiles. The
padded ones divided by the engine's MACs a cycle are the cycles that it must be busy for.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import isa
from .config import Memory
from .program import Allocation, Program
from .tables import Column, text_table

TOP_ALLOCATIONS = 5


@dataclass(frozen=True)
class MemoryReport:
    """How full one on-chip memory gets.

    Attributes:
        memory: its name.
        depth: words there are.
        used: most words that are taken at once.
        largest: (name, words) of the largest allocations.
    """

    memory: str
    depth: int
    used: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        name, kind: of the QuantNode.
        instructions: how many belong to it.
        macs: true ones.
        padded_macs: of whole tiles.
        ideal_cycles: true MACs at the engine's peak.
        cycles: measured in simulation, when known.
    """

    name: str
    kind: str
    instructions: int
    macs: int
    padded_macs: int
    ideal_cycles: float
    cycles: int | None


@dataclass(frozen=True)
class ProgramReport:
    """See the module's text."""

    config: dict[str, int | str]
    macs_per_cycle: int
    on_chip_bytes: int
    weight_bytes: int
    memories: tuple[MemoryReport, ...]
    instructions: dict[str, int]
    layers: tuple[LayerReport, ...]
    macs: int
    padded_macs: int
    ideal_cycles: float
    cycles: int | None

    def to_json(self) -> str:
        """As a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def to_text(self, width: int | None = None) -> str:
        """As text for people; tables are folded to `width` characters a line, if that is given."""
        return "\n".join(
            (
                *self._configuration_text(),
                "",
                self._memory_text(width),
                "",
                self._layer_text(width),
                "",
                *self._total_text(),
            )
        )

    def _configuration_text(self) -> list[str]:
        config = self.config
        return [
            f"Accelerator   tile {config['tile']}, depth {config['depth']}, lanes "
            f"{config['lanes']}: {self.macs_per_cycle} MACs a cycle at {config['clock_mhz']} MHz,",
            f"              {config['bus_bits']}-bit bus, board {config['board']}",
            f"Memory        {self.on_chip_bytes / 1024:.0f} KiB on chip, "
            f"{self.weight_bytes / 1024:.0f} KiB of weights in DRAM",
            "Instructions  "
            + ", ".join(f"{count:,} {unit}" for unit, count in self.instructions.items()),
        ]

    def _memory_text(self, width: int | None) -> str:
        columns = (
            Column("memory", words=True),
            *map(Column, ("words used", "words", "used %")),
            Column("largest", words=True),
        )
        return text_table(columns, [_memory_row(memory) for memory in self.memories], width)

    def _layer_text(self, width: int | None) -> str:
        heads = ("instructions", "MACs", "true MACs %", "ideal cycles", "cycles")
        columns = (Column("layer", words=True), Column("kind", words=True), *map(Column, heads))
        return text_table(columns, [_layer_row(layer) for layer in self.layers], width)

    def _total_text(self) -> list[str]:
        true = self.macs / self.padded_macs if self.padded_macs else 1.0
        lines = [
            f"MACs          {self.macs:,} true, {self.padded_macs:,} in whole tiles "
            f"({true:.1%} true)",
            f"Ideal cycles  {self.ideal_cycles:,.0f}",
        ]
        if self.cycles:
            share = self.ideal_cycles / self.cycles
            lines.append(f"Cycles        {self.cycles:,} measured, {share:.1%} of the MACs busy")
        return lines


def _memory_row(memory: MemoryReport) -> tuple[str, ...]:
    largest = ", ".join(f"{name} {words:,}" for name, words in memory.largest)
    share = f"{100 * memory.used / memory.depth:.0f}"
    return memory.memory, f"{memory.used:,}", f"{memory.depth:,}", share, largest


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        f"{layer.instructions:,}",
        f"{layer.macs:,}",
        f"{100 * layer.macs / layer.padded_macs:.0f}" if layer.padded_macs else "",
        f"{layer.ideal_cycles:,.0f}",
        "" if layer.cycles is None else f"{layer.cycles:,}",
    )


def report(program: Program, cycles: Mapping[str, int] | None = None) -> ProgramReport:
    """The report of `program`.

    Args:
        program: see Program.
        cycles: measured cycles by layer; together they are the whole run.
    """
    layers = _layers(program, cycles or {})
    macs = sum(layer.macs for layer in layers)
    return ProgramReport(
        config=dataclasses.asdict(program.config),
        macs_per_cycle=program.config.macs,
        on_chip_bytes=program.config.on_chip_bytes,
        weight_bytes=len(program.weights),
        memories=tuple(_memory(program, memory) for memory in Memory),
        instructions=dict(Counter(entry.UNIT.name.lower() for entry in program.instructions)),
        layers=layers,
        macs=macs,
        padded_macs=sum(layer.padded_macs for layer in layers),
        ideal_cycles=macs / program.config.macs,
        cycles=sum(cycles.values()) if cycles else None,
    )


def _layers(program: Program, cycles: Mapping[str, int]) -> tuple[LayerReport, ...]:
    instructions = Counter(program.labels)
    padded: dict[str, int] = defaultdict(int)
    for instruction, label in zip(program.instructions, program.labels, strict=True):
        if isinstance(instruction, isa.Compute):
            steps = instruction.outer * instruction.inner * instruction.depth
            padded[label] += steps * program.config.macs
    return tuple(
        LayerReport(
            name=layer.name,
            kind=layer.kind,
            instructions=instructions[layer.name],
            macs=layer.macs,
            padded_macs=padded[layer.name],
            ideal_cycles=layer.macs / program.config.macs,
            cycles=cycles.get(layer.name),
        )
        for layer in program.layers
    )


def _memory(program: Program, memory: Memory) -> MemoryReport:
    entries = [entry for entry in program.allocations if entry.memory is memory]
    largest = sorted(entries, key=lambda entry: -entry.words)[:TOP_ALLOCATIONS]
    return MemoryReport(
        memory=memory.value,
        depth=program.config.words(memory),
        used=most_alive(entries),
        largest=tuple((entry.name, entry.words) for entry in largest),
    )


def most_alive(entries: Sequence[Allocation]) -> int:
    """The most words that are taken at once."""
    return max((_alive(entries, entry.first) for entry in entries), default=0)


def _alive(entries: Sequence[Allocation], instruction: int) -> int:
    """Words of the allocations that are alive at `instruction`."""
    return sum(entry.words for entry in entries if entry.first <= instruction <= entry.last)
