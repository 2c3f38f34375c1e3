"""FPGA resources: what a part has, what a netlist's cells take of it, and what to expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from .errors import ToolError


@dataclass(frozen=True)
class Resources:
    """Counts of an FPGA's primitives.

    Attributes:
        luts: six-input look-up tables, those used as memory or shift registers included.
        flip_flops: registers.
        bram36: block RAMs of 36 Kibit; half of one is one of 18 Kibit.
        uram: UltraRAMs of 288 Kibit.
        dsp: DSP48 multipliers.
    """

    luts: float = 0
    flip_flops: float = 0
    bram36: float = 0
    uram: float = 0
    dsp: float = 0

    def __add__(self, other: Resources) -> Resources:
        """Both together."""
        return Resources(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(Resources))
        )

    def times(self, count: float) -> Resources:
        """`count` of them."""
        return Resources(*(count * getattr(self, f.name) for f in fields(Resources)))


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
