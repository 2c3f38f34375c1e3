"""Whether a program keeps to the buffers that the host allocates for it.

A board's DRAM has no guard: LOAD and STORE reach whatever address they compute, also that of the
kernel. So the host looks at every instruction before it starts a program, wherever that comes from.

What it must know of the encoding stands here a second time, because the compiler need not be on a
board and a build directory could say anything; tests/host/test_host_bounds.py compares it with
codegen/isa.py and codegen/config.py. Addresses on chip are left out: they lead nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

INSTRUCTION_BYTES = 32
_WORD_BITS = 64  # that a program is looked at in

Words = npt.NDArray[np.uint64]  # [instructions, words of an instruction]
Numbers = npt.NDArray[np.int64]  # [instructions]


@dataclass(frozen=True)
class Field:
    """Bits of an instruction: the lowest, and how many."""

    low: int
    width: int

    def of(self, words: Words) -> Numbers:
        """The field's value in each instruction."""
        first, shift = divmod(self.low, _WORD_BITS)
        value = words[:, first] >> np.uint64(shift)
        if shift + self.width > _WORD_BITS:
            value = value | words[:, first + 1] << np.uint64(_WORD_BITS - shift)
        return (value & np.uint64((1 << self.width) - 1)).astype(np.int64)


OPCODE = Field(0, 4)
LOAD, STORE, END = 1, 2, 15
OPCODES = (LOAD, STORE, 3, 4, 5, 6, END)
# What DRAM accesses depend on, by opcode.
FIELDS = {
    LOAD: {
        "target": Field(20, 3),
        "region": Field(23, 2),
        "words": Field(43, 18),
        "offset": Field(61, 32),
    },
    STORE: {"region": Field(20, 2), "words": Field(40, 18), "offset": Field(58, 32)},
}
# By their codes.
TARGETS = ("left", "right", "residual", "parameter", "norm")
REGIONS = ("weights", "input", "output")
STORED = "residual"  # the memory that STORE reads
WRITABLE = "output"  # the only buffer that STORE may write


def bytes_per_word(config: Mapping[str, Any]) -> dict[str, int]:
    """Memory → bytes that one of its words takes in DRAM: whole beats of the bus."""
    tile, depth, lanes = config["tile"], config["depth"], config["lanes"]
    bits = {
        "left": tile * depth * 8,
        "right": tile * depth * 8,
        "residual": lanes * 16,
        "parameter": lanes * 64,
        "norm": lanes * 48,
    }
    beat = config["bus_bits"]
    return {memory: -(-count // beat) * beat // 8 for memory, count in bits.items()}


def why_not(
    instructions: bytes, buffers: Mapping[str, int], config: Mapping[str, Any]
) -> str | None:
    """The first reason why a program must not be run; None if there is none.

    Args:
        instructions: the program as it lies in DRAM.
        buffers: bytes of each of REGIONS.
        config: sizes of the accelerator, as in HardwareConfig.
    """
    return next(_reasons(instructions, buffers, config), None)


def _reasons(
    instructions: bytes, buffers: Mapping[str, int], config: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong, rule by rule; each rule takes for granted that the ones before are kept."""
    if not instructions or len(instructions) % INSTRUCTION_BYTES:
        yield f"its {len(instructions):,} bytes are not instructions of {INSTRUCTION_BYTES}"
    words = np.frombuffer(instructions, "<u8").reshape(-1, INSTRUCTION_BYTES * 8 // _WORD_BITS)
    opcodes = OPCODE.of(words)
    for index in _first(~np.isin(opcodes, OPCODES)):
        yield f"instruction {index} has the unknown opcode {opcodes[index]}"
    if np.flatnonzero(opcodes == END).tolist() != [len(words) - 1]:
        yield "END is not once its last instruction"
    for name, opcode in (("LOAD", LOAD), ("STORE", STORE)):
        places = np.flatnonzero(opcodes == opcode)
        values = {field: bits.of(words[places]) for field, bits in FIELDS[opcode].items()}
        for place, reason in _escapes(opcode, values, buffers, config):
            yield f"instruction {places[place]}, {name}, {reason}"


def _escapes(
    opcode: int,
    values: Mapping[str, Numbers],
    buffers: Mapping[str, int],
    config: Mapping[str, Any],
) -> Iterator[tuple[int, str]]:
    """The same of all LOADs or all STOREs: which of them, and why.

    Args:
        opcode: LOAD or STORE.
        values: of FIELDS[opcode], an element for each such instruction.
        buffers: see why_not.
        config: see why_not.
    """
    region, words, offset = values["region"], values["words"], values["offset"]
    target = values.get("target", np.full(len(words), TARGETS.index(STORED)))
    for place in _first((target >= len(TARGETS)) | (region >= len(REGIONS)) | (words == 0)):
        yield place, "names no memory, no buffer or no words"
    if opcode == STORE:
        for place in _first(region != REGIONS.index(WRITABLE)):
            yield place, f"writes to the {REGIONS[region[place]]} buffer"
    strides = bytes_per_word(config)
    ends = offset + words * np.array([strides[memory] for memory in TARGETS])[target]
    sizes = np.array([buffers[name] for name in REGIONS])[region]
    for place in _first(ends > sizes):
        yield (
            place,
            (
                f"reaches byte {ends[place]:,} of the {REGIONS[region[place]]} buffer, which has "
                f"{sizes[place]:,}"
            ),
        )
    for place in _first(offset % (config["bus_bits"] // 8) != 0):
        yield place, f"starts at byte {offset[place]:,}, in the midst of a bus beat"


def _first(wrong: npt.NDArray[np.bool_]) -> list[int]:
    """Where the first one stands, if there is one."""
    found: list[int] = np.flatnonzero(wrong)[:1].tolist()
    return found
