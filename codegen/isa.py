"""The instruction set: the one place where the encoding is written.

Documentation (docs/isa.md), the DSLX decoders (isa.x) and the assembler text are generated from
the tables here.

An instruction is 256 bits, little-endian. Bits 0-3 hold the opcode, then come the `wait` and
`signal` masks that every instruction has, then the fields of its own class in declaration order.
Bits that no field claims must be zero; they are the room for what comes later.

**Order.** Each unit runs its instructions in program order, units run concurrently. What orders
two units is a semaphore: there is one counter for each pair (source, unit). Bit s of `wait` makes
the instruction wait until counter (s, its own unit) is above zero, then takes one from it. Bit u
of `signal` adds one to counter (its own source, u) when the instruction's effects have landed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

from .config import ADDRESS_BITS, INSTRUCTION_BITS
from .errors import ProgramError
from .graph import Function

OPCODE_BITS = 4
WAIT_BITS = 8
SIGNAL_BITS = 8
COUNT_BITS = 11
SEMAPHORE_BITS = 8  # width of one semaphore counter

_DAMAGED = "The program is damaged or from another version; compile the model again."


class Unit(IntEnum):
    """What runs instructions; each has its own queue. The value is its bit in `signal`."""

    LOAD = 0
    COMPUTE = 1
    EPILOGUE = 2
    NORM = 3
    STORE = 4
    CONTROL = 5


class Source(IntEnum):
    """Where completion comes from. The value is its bit in `wait`.

    The epilogue has three: its results leave by three paths that do not keep order among them.
    """

    LOAD = 0  # the last word landed on chip
    COMPUTE = 1  # the last operand was read
    EPILOGUE = 2  # the last operand word landed in left or right
    RESIDUAL = 3  # the last word landed in residual
    SOFTMAX = 4  # the last word landed in probability
    NORM = 5  # the last word landed in left or right
    STORE = 6  # DRAM acknowledged the last burst


class LoadTarget(IntEnum):
    """Memory that LOAD fills."""

    LEFT = 0
    RIGHT = 1
    RESIDUAL = 2
    PARAMETER = 3
    NORM = 4


class Region(IntEnum):
    """DRAM buffer that an offset is relative to; the host gives the base addresses."""

    WEIGHTS = 0
    INPUT = 1
    OUTPUT = 2


class LeftSource(IntEnum):
    """Where COMPUTE takes its left operand."""

    LEFT = 0
    PROBABILITY = 1  # each word shifted by what its maximum lacks to the row's final maximum


class EpilogueTarget(IntEnum):
    """Where EPILOGUE's results go."""

    LEFT = 0
    RIGHT = 1
    RESIDUAL = 2
    SOFTMAX = 3


class ActivationCode(IntEnum):
    """Function applied between the two requantisation steps."""

    NONE = 0
    GELU_ERF = 1
    GELU_TANH = 2
    RELU = 3
    SILU = 4
    TANH = 5


FUNCTIONS: dict[ActivationCode, Function | None] = {
    ActivationCode.NONE: None,
    ActivationCode.GELU_ERF: Function.GELU_ERF,
    ActivationCode.GELU_TANH: Function.GELU_TANH,
    ActivationCode.RELU: Function.RELU,
    ActivationCode.SILU: Function.SILU,
    ActivationCode.TANH: Function.TANH,
}


class NormTarget(IntEnum):
    """Where NORM's results go."""

    LEFT = 0
    RIGHT = 1


def _bits(
    width: int,
    doc: str,
    enum: type[IntEnum] | None = None,
    *,
    signed: bool = False,
    least: int = 0,
    limit: int = 0,
) -> Any:  # noqa: ANN401 (a dataclass field)
    """A field of `width` bits; `least` and `limit` (exclusive) narrow what is legal."""
    if enum is not None:
        limit = len(enum)  # enumerations are dense from zero
    metadata = {"width": width, "doc": doc, "enum": enum, "signed": signed}
    return field(default=least, metadata=metadata | {"least": least, "limit": limit})


@dataclass(frozen=True)
class Field:
    """One field of an instruction.

    Attributes:
        name: of the attribute.
        low, width: position.
        signed: two's complement.
        enum: of the codes, where they have names.
        least, highest: legal values.
        doc: what it means.
    """

    name: str
    low: int
    width: int
    signed: bool
    enum: type[IntEnum] | None
    least: int
    highest: int
    doc: str

    def encode(self, value: int) -> int:
        """The field's bits in place; ProgramError when `value` is not legal."""
        self._check(value, "The model needs a larger field or smaller pieces; please report it.")
        return (int(value) & ((1 << self.width) - 1)) << self.low

    def decode(self, word: int) -> int:
        """The field's value in `word`; ProgramError when it is not legal."""
        value = (word >> self.low) & ((1 << self.width) - 1)
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        self._check(value, _DAMAGED)
        return self.enum(value) if self.enum else value

    def _check(self, value: int, remedy: str) -> None:
        if not self.least <= value <= self.highest:
            raise ProgramError(
                f"Instruction field {self.name} is {value}, outside {self.least} to "
                f"{self.highest}.",
                remedy,
            )


@dataclass(frozen=True)
class Instruction:
    """What every instruction has."""

    OPCODE: ClassVar[int]
    UNIT: ClassVar[Unit]

    wait: int = _bits(
        WAIT_BITS,
        "semaphores to take before it starts, a bit for each source",
        limit=1 << len(Source),
    )
    signal: int = _bits(
        SIGNAL_BITS,
        "semaphores to raise when it is done, a bit for each unit",
        limit=1 << len(Unit),
    )

    @property
    def source(self) -> Source:
        """Where this instruction's completion comes from."""
        if self.UNIT is Unit.CONTROL:
            raise ProgramError(
                f"{type(self).__name__} signals, but nothing comes after it.",
                "Remove its signal.",
            )
        return Source[self.UNIT.name]

    def encode(self) -> int:
        """The 256-bit word."""
        return self.OPCODE | sum(f.encode(getattr(self, f.name)) for f in fields(type(self)))


@dataclass(frozen=True)
class Load(Instruction):
    """DRAM → on-chip memory: `words` consecutive words."""

    OPCODE = 1
    UNIT = Unit.LOAD

    target: int = _bits(3, "memory to fill", LoadTarget)
    region: int = _bits(2, "DRAM buffer that offset is relative to", Region)
    address: int = _bits(ADDRESS_BITS, "first word on chip")
    words: int = _bits(ADDRESS_BITS, "number of words, at least 1", least=1)
    offset: int = _bits(32, "first byte in the DRAM buffer; a multiple of the bus width")


@dataclass(frozen=True)
class Store(Instruction):
    """Residual memory → DRAM: `words` consecutive words."""

    OPCODE = 2
    UNIT = Unit.STORE

    region: int = _bits(2, "DRAM buffer that offset is relative to", Region)
    address: int = _bits(ADDRESS_BITS, "first word on chip")
    words: int = _bits(ADDRESS_BITS, "number of words, at least 1", least=1)
    offset: int = _bits(32, "first byte in the DRAM buffer; a multiple of the bus width")


@dataclass(frozen=True)
class Compute(Instruction):
    """A loop nest of tile products.

    For o in outer, i in inner: one T x T tile, the sum over k in depth of
    left[left_base + o * left_outer + i * left_inner + k * left_step] times
    right[right_base + o * right_outer + i * right_inner + k * right_step] transposed.
    Each finished tile goes to the epilogue, which needs an EPILOGUE instruction of as many tiles.
    """

    OPCODE = 3
    UNIT = Unit.COMPUTE

    left_source: int = _bits(1, "memory of the left operand", LeftSource)
    outer: int = _bits(COUNT_BITS, "outer loop count, at least 1", least=1)
    inner: int = _bits(COUNT_BITS, "inner loop count, at least 1", least=1)
    depth: int = _bits(COUNT_BITS, "words contracted a tile, at least 1", least=1)
    left_base: int = _bits(ADDRESS_BITS, "first left word")
    left_outer: int = _bits(ADDRESS_BITS, "left words from one outer step to the next")
    left_inner: int = _bits(ADDRESS_BITS, "left words from one inner step to the next")
    left_step: int = _bits(ADDRESS_BITS, "left words from one depth step to the next")
    right_base: int = _bits(ADDRESS_BITS, "first right word")
    right_outer: int = _bits(ADDRESS_BITS, "right words from one outer step to the next")
    right_inner: int = _bits(ADDRESS_BITS, "right words from one inner step to the next")
    right_step: int = _bits(ADDRESS_BITS, "right words from one depth step to the next")


@dataclass(frozen=True)
class Epilogue(Instruction):
    """What becomes of the tiles of one COMPUTE; see numerics.py for the arithmetic.

    Tile (o, i) is written from word address + o * outer_stride + i * inner_stride on: T / V
    operand words (left, right), T * T / E residual words, or T / V probability words. Its output
    channels' parameters are read from parameter + o * parameter_outer + i * parameter_inner on:
    T / E words. What is added to attention scores is read tile after tile, T * T / E words each.
    """

    OPCODE = 4
    UNIT = Unit.EPILOGUE

    outer: int = _bits(COUNT_BITS, "outer loop count, as in COMPUTE", least=1)
    inner: int = _bits(COUNT_BITS, "inner loop count, as in COMPUTE", least=1)
    target: int = _bits(2, "where the results go", EpilogueTarget)
    transpose: int = _bits(1, "pack words as [T columns][V rows]")
    accumulate: int = _bits(
        1,
        "add a residual word: with target residual the one at the address that is written, with "
        "target softmax the next one from addend on",
    )
    row_scale: int = _bits(1, "scale each row by the softmax's reciprocal, one block an outer step")
    function: int = _bits(3, "activation function", ActivationCode)
    address: int = _bits(ADDRESS_BITS, "first word written")
    outer_stride: int = _bits(ADDRESS_BITS, "words from one outer step to the next")
    inner_stride: int = _bits(ADDRESS_BITS, "words from one inner step to the next")
    parameter: int = _bits(ADDRESS_BITS, "first parameter word")
    parameter_outer: int = _bits(ADDRESS_BITS, "parameter words from one outer step to the next")
    parameter_inner: int = _bits(ADDRESS_BITS, "parameter words from one inner step to the next")
    pre_shift: int = _bits(3, "rounding shift of the biased accumulator")
    scale: int = _bits(16, "second multiplier; 1 with scale_shift 0 passes the value on")
    scale_shift: int = _bits(6, "second rounding shift; with row_scale, added to the row's own")
    offset: int = _bits(9, "added before saturation (zero point)", signed=True)
    keys: int = _bits(13, "with target softmax: keys that exist; later columns are masked")
    addend: int = _bits(
        ADDRESS_BITS, "with target softmax: first residual word that accumulate adds"
    )

    @property
    def source(self) -> Source:
        """The path by which the results leave."""
        return {
            EpilogueTarget.RESIDUAL: Source.RESIDUAL,
            EpilogueTarget.SOFTMAX: Source.SOFTMAX,
        }.get(EpilogueTarget(self.target), Source.EPILOGUE)


@dataclass(frozen=True)
class Norm(Instruction):
    """LayerNorm of `outer` row tiles of `inner` column tiles; see numerics.py.

    Row tile o is read from residual word base + o * base_outer on, its column tiles one after
    the other. Tile (o, i) is written from word address + o * outer_stride + i * inner_stride on.
    Column tile i's gamma and beta are read from norm word parameter + i * T / E on.
    """

    OPCODE = 5
    UNIT = Unit.NORM

    outer: int = _bits(COUNT_BITS, "row tiles, at least 1", least=1)
    inner: int = _bits(COUNT_BITS, "column tiles, at least 1", least=1)
    target: int = _bits(1, "memory that is written", NormTarget)
    transpose: int = _bits(1, "pack words as [T columns][V rows]")
    plain: int = _bits(1, "do not normalise: gamma and beta act on the residual itself")
    base: int = _bits(ADDRESS_BITS, "first residual word")
    base_outer: int = _bits(ADDRESS_BITS, "residual words from one row tile to the next")
    address: int = _bits(ADDRESS_BITS, "first word written")
    outer_stride: int = _bits(ADDRESS_BITS, "words from one row tile to the next")
    inner_stride: int = _bits(ADDRESS_BITS, "words from one column tile to the next")
    parameter: int = _bits(ADDRESS_BITS, "first norm word")
    channels: int = _bits(12, "channels that exist (padding excluded)", least=1)
    inverse: int = _bits(27, "round(2^26 / channels)")
    eps_mantissa: int = _bits(16, "epsilon in integer units: eps_mantissa << eps_exponent")
    eps_exponent: int = _bits(6, "see eps_mantissa")
    shift: int = _bits(6, "rounding shift of the result")


@dataclass(frozen=True)
class Gather(Instruction):
    """Rows of a map as a convolution or a pooling sees them, normalised by groups; see numerics.py.

    The map's rows are pixels, row by row, `width` of them in each of `height` lines; a row tile of
    it has `tiles` column tiles, and `base` is the first word of the first of `inner` column tiles
    that are read. Row r of the result is zero for r < prefix; the others are the pixels of a grid
    of `columns` in a line: row prefix + l * columns + c is, in each channel, the greatest of the
    kernel_height * kernel_width results of pixels (y + l * step + i, x + c * step + j) that lie
    inside the map, zero if none does. Tile (o, i) of the result is written to left memory from
    word address + o * outer_stride + i * T / V on, gamma and beta of column tile i are read from
    norm word parameter + i * T / E on.

    With `statistics`, sums of each group over all pixels are gathered first. They stay until the
    next GATHER with `statistics`; a NORM makes them void. With groups that are smaller than a
    column tile, `inner` is 1; else all column tiles that are read are one group.

    Fields that NORM has, too, have their place there: the same kernels decode both.
    """

    OPCODE = 6
    UNIT = Unit.NORM

    outer: int = _bits(COUNT_BITS, "row tiles of the result, at least 1", least=1)
    inner: int = _bits(7, "column tiles, at least 1", least=1)
    prefix: int = _bits(4, "rows of zeros before the first result")
    statistics: int = _bits(1, "gather the groups' sums first")
    relu: int = _bits(1, "results below zero become zero")
    plain: int = _bits(1, "do not normalise: gamma and beta act on the residual itself")
    base: int = _bits(ADDRESS_BITS, "first residual word")
    tiles: int = _bits(9, "column tiles of the map, at least 1", least=1)
    columns: int = _bits(9, "results in a line of the grid, at least 1", least=1)
    address: int = _bits(ADDRESS_BITS, "first word written")
    outer_stride: int = _bits(ADDRESS_BITS, "words from one row tile to the next")
    width: int = _bits(9, "pixels in a line of the map, at least 1", least=1)
    height: int = _bits(9, "lines of the map, at least 1", least=1)
    parameter: int = _bits(ADDRESS_BITS, "first norm word")
    channels: int = _bits(12, "pixels * channels of a group >> sum_shift, rounded", least=1)
    inverse: int = _bits(27, "round(2^(26 + sum_shift) / (pixels * channels of a group))")
    eps_mantissa: int = _bits(16, "epsilon in integer units: eps_mantissa << eps_exponent")
    eps_exponent: int = _bits(6, "see eps_mantissa")
    shift: int = _bits(6, "rounding shift of the result")
    group: int = _bits(3, "log2 of the channels of a group; log2 of T if it has T or more")
    sum_shift: int = _bits(3, "rounding shift of a group's sums")
    step: int = _bits(6, "pixels from one result to the next, down and across, at least 1", least=1)
    x: int = _bits(8, "column of the first result's first pixel", signed=True)
    y: int = _bits(8, "line of the first result's first pixel", signed=True)
    kernel_width: int = _bits(3, "pixels across that the greatest is taken of", least=1)
    kernel_height: int = _bits(3, "pixels down that the greatest is taken of", least=1)


@dataclass(frozen=True)
class End(Instruction):
    """The last instruction: raises done when its semaphores are there."""

    OPCODE = 15
    UNIT = Unit.CONTROL


INSTRUCTIONS: tuple[type[Instruction], ...] = (Load, Store, Compute, Epilogue, Norm, Gather, End)
_BY_OPCODE = {kind.OPCODE: kind for kind in INSTRUCTIONS}


def fields(kind: type[Instruction]) -> tuple[Field, ...]:
    """The fields of an instruction class with their positions, lowest first."""
    return _LAYOUT[kind]


def highest(kind: type[Instruction], name: str) -> int:
    """The greatest legal value of field `name`."""
    return next(entry.highest for entry in fields(kind) if entry.name == name)


def _layout(kind: type[Instruction]) -> Iterator[Field]:
    low = OPCODE_BITS
    for entry in dataclasses.fields(kind):
        data = entry.metadata
        width, signed = data["width"], data["signed"]
        least = -(1 << width - 1) if signed else data["least"]
        highest = (data["limit"] or (1 << width - signed)) - 1
        yield Field(entry.name, low, width, signed, data["enum"], least, highest, data["doc"])
        low += width
    assert low <= INSTRUCTION_BITS, f"{kind.__name__} takes {low} bits"


_LAYOUT = {kind: tuple(_layout(kind)) for kind in INSTRUCTIONS}


def check_end(instructions: Sequence[Instruction]) -> None:
    """ProgramError unless END is the last instruction and no other."""
    ends = [i for i, instruction in enumerate(instructions) if isinstance(instruction, End)]
    if ends != [len(instructions) - 1]:
        raise ProgramError(
            f"The program has END at {ends}, not once as its last instruction.",
            "Compile the model again.",
        )


def decode(word: int) -> Instruction:
    """The instruction in a 256-bit word; ProgramError when it is none."""
    kind = _BY_OPCODE.get(word & ((1 << OPCODE_BITS) - 1))
    if kind is None:
        raise ProgramError(
            f"Instruction word 0x{word:064x} has no known opcode.",
            _DAMAGED,
        )
    instruction = kind(**{f.name: f.decode(word) for f in fields(kind)})
    if instruction.encode() != word:
        raise ProgramError(
            f"Instruction word 0x{word:064x} sets bits that {kind.__name__} does not define.",
            _DAMAGED,
        )
    return instruction
