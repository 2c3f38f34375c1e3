"""FPGA resources: what a part has, what a netlist's cells take of it, and what to expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from . import isa
from .boards import Board, ProcessorKind, Resources
from .config import ADDRESS_BITS, INSTRUCTION_BITS, HardwareConfig, Memory
from .errors import ToolError
from .toplevel import MEMORIES, READ_AHEAD, MemoryPorts, links


def total(parts: Iterable[Resources]) -> Resources:
    """All of them together."""
    return sum(parts, Resources())


_LUT, _FF = Resources(luts=1), Resources(flip_flops=1)
# LUTs that a cell of distributed memory stands for.
_LUT_MEMORY = {
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "RAM32X1S": 1,
    "RAM64X1S": 1,
    "RAM128X1S": 2,
    "RAM256X1S": 4,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
}
# What one cell of a Xilinx netlist takes. Carry chains and wide multiplexers come with the LUTs.
CELLS: dict[str, Resources] = {
    **{f"LUT{inputs}": _LUT for inputs in range(1, 7)},
    **dict.fromkeys(("INV", "SRL16E", "SRLC32E"), _LUT),
    **{name: _LUT.times(count) for name, count in _LUT_MEMORY.items()},
    **dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE"), _FF),
    **dict.fromkeys(("RAMB36E1", "RAMB36E2"), Resources(bram36=1)),
    **dict.fromkeys(("RAMB18E1", "RAMB18E2"), Resources(bram36=0.5)),
    "URAM288": Resources(uram=1),
    **dict.fromkeys(("DSP48E1", "DSP48E2"), Resources(dsp=1)),
    **dict.fromkeys(("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9"), Resources()),
}


def of_cells(counts: Mapping[str, int], module: str) -> Resources:
    """The resources of a netlist with so many cells of each type.

    Args:
        counts: cell type → number.
        module: names the netlist in messages.

    Raises:
        ToolError: a cell type that is not known here.
    """
    for cell in counts:
        if cell not in CELLS:
            raise ToolError(
                f"The netlist of {module} holds cells of an unknown type, {cell}.",
                "Please report it; CELLS in codegen/resources.py lists the known ones.",
            )
    return total(CELLS[cell].times(count) for cell, count in counts.items())


# --- The model -----------------------------------------------------------------------------------
#
# Logic is linear in what the configuration multiplies; the factors are fitted to the counts that
# Yosys 0.70 gives for each kernel at tile 4, 8 and 16. Memories are mapped as Yosys maps them: to
# the shape that costs least.


def estimate_resources(config: HardwareConfig, board: Board) -> Resources:
    """What Yosys will count for an accelerator, within 15 %, without generating it.

    Args:
        config: the accelerator.
        board: names the family of FPGAs, and whether there is UltraRAM.
    """
    family = FAMILIES[board.processor]
    if not board.resources.uram:
        family = replace(family, shapes=tuple(s for s in family.shapes if s is not _ULTRA))
    memories = (
        _memory(config.word_bits(memory), config.words(memory), MEMORIES[memory], family)
        for memory in Memory
    )
    return total((_logic(config, family), _streams(config, family), *memories))


@dataclass(frozen=True)
class Shape:
    """How one primitive stores words.

    Attributes:
        words, bits: it holds.
        takes: the primitive.
        cost: what Yosys weighs it with.
    """

    words: int
    bits: int
    takes: Resources
    cost: int

    def count(self, words: int, bits: int) -> int:
        """Primitives for a memory."""
        return -(-words // self.words) * -(-bits // self.bits)


def _block_shapes(kibibits: int, widest: int, takes: Resources, cost: int) -> tuple[Shape, ...]:
    """Block RAM of so many Kib (parity bits excluded) in all its widths."""
    return tuple(
        Shape((kibibits << 10) // width, width + width // 8, takes, cost)
        for width in (1, 2, 4, 8, 16, 32, 64)
        if width <= widest
    )


_BLOCK_SHAPES = (
    *_block_shapes(32, 64, Resources(bram36=1), 257),
    *_block_shapes(16, 32, Resources(bram36=0.5), 129),
)


_ULTRA = Shape(4096, 72, Resources(uram=1), 1024)


@dataclass(frozen=True)
class Family:
    """What the model must know of a family of FPGAs.

    Attributes:
        shapes: of memory.
        luts, flip_flops: of the logic, by what they multiply; see `_factors`.
    """

    shapes: tuple[Shape, ...]
    luts: Mapping[str, float]
    flip_flops: Mapping[str, float]


def _factors(config: HardwareConfig) -> dict[str, int]:
    return {
        "one": 1,
        "macs": config.macs,
        "accumulators": config.tile * config.tile,
        "operands": config.tile * config.depth,
        "rows": config.tile,
        "lanes": config.lanes,
        "bus bits": config.bus_bits,
        "maps": int(config.maps),
        "lanes of maps": config.maps * config.lanes,
    }


_LUTS = {
    "one": 9944,
    "macs": 9.0,
    "accumulators": 79.4,
    "operands": 31.2,
    "rows": 80,
    "lanes": 2429,
    "bus bits": 5.3,
    "maps": 1026,
    "lanes of maps": 87,
}
_FLIP_FLOPS = {
    "one": 5886,
    "macs": 1.25,
    "accumulators": 133.5,
    "operands": 12.3,
    "rows": 195,
    "lanes": 980,
    "bus bits": 4.5,
    "maps": 400,
}
FAMILIES: dict[ProcessorKind, Family] = {
    ProcessorKind.ZYNQ_7000: Family(
        shapes=(
            Shape(32, 6, Resources(luts=4), 8),
            Shape(64, 3, Resources(luts=4), 8),
            *_BLOCK_SHAPES,
        ),
        luts=_LUTS,
        flip_flops=_FLIP_FLOPS,
    ),
    # Its adders behind multipliers stay outside the DSP.
    ProcessorKind.ZYNQ_ULTRASCALE: Family(
        shapes=(
            Shape(32, 14, Resources(luts=8), 16),
            Shape(64, 7, Resources(luts=8), 16),
            *_BLOCK_SHAPES,
            _ULTRA,
        ),
        luts={**_LUTS, "macs": 17.25, "accumulators": 79.3},
        flip_flops={**_FLIP_FLOPS, "macs": 16.25, "accumulators": 107.5, "lanes": 1049},
    ),
}
DSPS_PER_LANE = 3  # two in the epilogue, one in LayerNorm


def _logic(config: HardwareConfig, family: Family) -> Resources:
    factors = _factors(config)
    return Resources(
        luts=round(sum(count * factors[name] for name, count in family.luts.items())),
        flip_flops=round(sum(count * factors[name] for name, count in family.flip_flops.items())),
        # Two products share a multiplier.
        dsp=config.macs // 2 + DSPS_PER_LANE * config.lanes,
    )


def _ram(bits: int, words: int, family: Family) -> Resources:
    """A memory with one port for each direction."""
    best = min(family.shapes, key=lambda shape: shape.cost * shape.count(words, bits))
    banks = -(-words // best.words)
    # A LUT chooses between four banks.
    choice = Resources(luts=bits * -(-(banks - 1) // 3))
    return best.takes.times(best.count(words, bits)) + choice


QUEUE_CONTROL = Resources(luts=10, flip_flops=16)
WRITE_PORT_BITS = ADDRESS_BITS + isa.SIGNAL_BITS  # beside the word


def _queue(bits: int, words: int, family: Family) -> Resources:
    return _ram(bits, words, family) + QUEUE_CONTROL


def _memory(bits: int, words: int, ports: MemoryPorts, family: Family) -> Resources:
    """One of the on-chip memories, with what leads to its ports."""
    choice = Resources(luts=(bits + WRITE_PORT_BITS) * (len(ports.writers) > 1))
    readers = _queue(bits, READ_AHEAD, family).times(len(ports.readers))
    return total((_ram(bits, words, family), choice, readers))


def _streams(config: HardwareConfig, family: Family) -> Resources:
    """The queues between kernels: short ones, and the few that are not."""
    lanes, rows, operands = config.lanes, config.tile, config.tile * config.depth
    bits = 1000 + 95 * lanes + 29 * rows + 8 * operands + 3 * config.bus_bits
    fetched = config.fetch_depth * INSTRUCTION_BITS // config.bus_bits
    row_bits = config.word_bits(Memory.RESIDUAL)
    return total(
        (
            _ram(bits, READ_AHEAD, family),
            QUEUE_CONTROL.times(len(links(config))),
            _ram(config.bus_bits, fetched, family),
            _ram(row_bits, config.norm_buffer_words, family),
            _queue(row_bits, READ_AHEAD, family),
            Resources(flip_flops=32 * config.tile * config.tile),  # the tile that drains
        )
    )
