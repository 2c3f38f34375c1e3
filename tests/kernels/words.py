"""The words at the compute kernels' ports, packed as DSLX lays them out.

The structs of hls/streams.x are mirrored here for one configuration. A struct's first field stands
in the highest bits, an array's element 0 in the lowest bits of its field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig, Memory

_SMALL = 2**13  # loop counts times this stay below 2^ADDRESS_BITS

Integers = Iterable[int] | npt.NDArray[np.integer]
Kind = TypeVar("Kind", bound=isa.Instruction)
Values = int | np.integer | Integers


def pack_array(values: Integers, width: int) -> int:
    """Elements of `width` bits, element 0 in the lowest bits."""
    flat = np.asarray(values, np.int64).reshape(-1)
    if width in (8, 16, 32):
        return int.from_bytes(flat.astype(f"<i{width // 8}").tobytes(), "little")
    mask = (1 << width) - 1
    return sum((int(value) & mask) << i * width for i, value in enumerate(flat))


def pack_rows(rows: npt.NDArray[np.generic]) -> list[int]:
    """One word a row of packed numpy data; fields and elements as they lie in memory."""
    return [int.from_bytes(row.tobytes(), "little") for row in np.ascontiguousarray(rows)]


@dataclass(frozen=True)
class Field:
    """A field of a struct: one integer of `width` bits, or an array of them."""

    name: str
    width: int
    elements: int = 1

    def pack(self, value: Values) -> int:
        """The field's bits; `value` may be signed or unsigned, but must fit."""
        elements = np.ravel(np.asarray(value, object))
        assert len(elements) == self.elements, f"{self.name} has {self.elements} elements"
        low, high = -(1 << self.width - 1), 1 << self.width
        assert all(low <= int(e) < high for e in elements), f"{self.name} = {value}"
        if self.elements > 1:
            return pack_array(elements, self.width)
        return int(elements[0]) & (high - 1)


class Struct:
    """A struct's layout."""

    def __init__(self, *fields: tuple[str, int] | tuple[str, int, int]) -> None:
        self.fields = tuple(Field(*field) for field in fields)
        self.width = sum(field.width * field.elements for field in self.fields)

    def __call__(self, **values: Values) -> int:
        """The word with these fields; those not given are zero."""
        unknown = values.keys() - {field.name for field in self.fields}
        assert not unknown, f"no such fields: {unknown}"
        word = 0
        for field in self.fields:
            bits = field.pack(values[field.name]) if field.name in values else 0
            word = word << field.width * field.elements | bits
        return word


class Words:
    """The structs of hls/streams.x, named as there."""

    def __init__(self, config: HardwareConfig) -> None:
        lanes, tile = config.lanes, config.tile
        address = ("address", ADDRESS_BITS)
        self.operand_tag = Struct(("probability", 1), ("block_start", 1), ("tile_start", 1))
        self.engine_tag = Struct(("first", 1), ("last", 1), ("signal", 8))
        self.beat = Struct(("lanes", 32, lanes))
        self.target = Struct(
            *(("memory", 2), ("transpose", 1), ("row", 4), ("beat", 4), ("first", 1), ("last", 1)),
            *(address, ("valid", 1, lanes), ("signal", 8)),
        )
        target = ("target", self.target.width)
        self.epilogue_tag = Struct(
            *(("accumulate", 1), ("row_scale", 1), ("block_start", 1)),
            *_as_in(isa.Epilogue, "function", "pre_shift", "scale", "scale_shift", "offset"),
            target,
        )
        self.operand_beat = Struct(("lanes", 8, lanes), target)
        self.score_beat = Struct(("lanes", 16, lanes), target)
        self.probability_beat = Struct(("lanes", 8, lanes), ("maximum", 8), target)
        self.maxima = Struct(("rows", 8, tile))
        self.reciprocals = Struct(("mantissa", 16, tile), ("exponent", 5, tile))
        self.operand_write = _write(config, Memory.LEFT)
        self.probability_write = _write(config, Memory.PROBABILITY)
        self.residual_write = _write(config, Memory.RESIDUAL)
        statistics = ("channels", "inverse", "eps_mantissa", "eps_exponent", "sum_shift")
        self.norm_tag = Struct(
            *(("row", 4), ("first", 1), ("last", 1), ("valid", 1, lanes)),
            *(("forward", 1), ("outside", 1), *_as_in(isa.Gather, *statistics)),
        )
        self.norm_word = Struct(("outside", 1), ("word", config.word_bits(Memory.RESIDUAL)))
        self.row_statistics = Struct(("mean", 25), ("mantissa", 16), ("shift", 6))
        self.norm_result_tag = Struct(
            *(("fresh", 1), ("group", 3), ("by_column", 1), ("plain", 1), ("relu", 1)),
            *(("first", 1), ("last", 1), ("shift", 6), target),
        )


def _as_in(kind: type[isa.Instruction], *names: str) -> list[tuple[str, int]]:
    """Fields that an instruction passes on unchanged."""
    widths = {field.name: field.width for field in isa.fields(kind)}
    return [(name, widths[name]) for name in names]


def _write(config: HardwareConfig, memory: Memory) -> Struct:
    return Struct(("address", ADDRESS_BITS), ("data", config.word_bits(memory)), ("signal", 8))


@lru_cache
def words(config: HardwareConfig) -> Words:
    """The structs of one configuration."""
    return Words(config)


def random_instruction(kind: type[Kind], rng: np.random.Generator, **chosen: int) -> Kind:
    """An instruction whose fields are anything legal, addresses and strides small enough to add."""
    free = {
        field.name: int(rng.integers(field.least, min(field.highest, _SMALL) + 1))
        for field in isa.fields(kind)
    }
    return kind(**free | {name: int(value) for name, value in chosen.items()})
