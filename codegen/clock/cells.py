"""The ways through each kind of cell: where a signal starts, passes and ends, in what time.

A table of kinds: whoever maps to a new primitive adds a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ..errors import ToolError
from .delays import Delays
from .netlist import ALIAS, Cell, Net


class Wire(Enum):
    """How a pin is reached."""

    FABRIC = "through the fabric"
    SLICE = "from logic of the same slice, where that drives nothing else"
    FIXED = "by a wire of its own, whose delay is part of the cells'"


@dataclass
class Ways:
    """Of one cell.

    Attributes:
        starts: (net, ns from the clock).
        passes: (net in, net out, ns, wire to the cell's pin).
        ends: (net, ns to the clock, pin, wire to it).
        inner: the longest way between two registers in the cell, or its shortest clock period; ns.
        in_slice: whether it stands in a slice, beside flip-flops and carry chains that it may feed.
    """

    starts: list[tuple[Net, float]] = field(default_factory=list)
    passes: list[tuple[Net, Net, float, Wire]] = field(default_factory=list)
    ends: list[tuple[Net, float, str, Wire]] = field(default_factory=list)
    inner: float = 0.0
    in_slice: bool = False


def ways(cell: Cell, delays: Delays) -> Ways:
    """The ways through `cell`.

    Raises:
        ToolError: a kind that is not known here.
    """
    for pattern, model in _MODELS:
        if pattern.fullmatch(cell.kind):
            found = Ways()
            model(cell, delays, found)
            return found
    raise ToolError(
        f"The netlist of {cell.module or 'the accelerator'} holds cells of an unknown type, "
        f"{cell.kind}.",
        "Please report it; the table in codegen/clock/cells.py lists the known ones.",
    )


def _nothing(_cell: Cell, _delays: Delays, _found: Ways) -> None:
    """A constant."""


def _alias(cell: Cell, _delays: Delays, found: Ways) -> None:
    found.passes.append((cell.pins["I"][0], cell.pins["O"][0], 0.0, Wire.FIXED))


def _lut(cell: Cell, delays: Delays, found: Ways) -> None:
    found.in_slice = True
    out = cell.pins["O"][0]
    for pin, nets in cell.pins.items():
        if pin != "O":
            found.passes.append((nets[0], out, delays.lut, Wire.FABRIC))


def _mux(cell: Cell, delays: Delays, found: Ways) -> None:
    found.in_slice = True
    out = cell.pins["O"][0]
    for pin in ("I0", "I1"):
        found.passes.append((cell.pins[pin][0], out, delays.mux, Wire.SLICE))
    found.passes.append((cell.pins["S"][0], out, delays.mux_select, Wire.FABRIC))


def _carry(cell: Cell, delays: Delays, found: Ways) -> None:
    """CARRY4 and CARRY8: CO[k] depends on S, DI up to k; O[k] on S[k] and the carry into k."""
    found.in_slice = True
    select, data = cell.pins["S"], cell.pins["DI"]
    width = len(select)
    for pin, entry, left in (
        ("CO", delays.carry_in, 0.0),
        ("O", delays.carry_sum, delays.carry_out),
    ):
        for place, out in enumerate(cell.pins.get(pin, ())):
            for k in range(place + 1):
                found.passes.append((select[k], out, entry, Wire.SLICE))
                if pin == "CO" or k < place:
                    found.passes.append((data[k], out, entry, Wire.FABRIC))
            chain = delays.carry_step * (place + 1) / width + left
            for net in (*cell.pins.get("CI", ()), *cell.pins.get("CI_TOP", ())):
                found.passes.append((net, out, chain, Wire.FIXED))
            for net in cell.pins.get("CYINIT", ()):
                found.passes.append((net, out, entry, Wire.FABRIC))


def _flip_flop(cell: Cell, delays: Delays, found: Ways) -> None:
    found.starts.append((cell.pins["Q"][0], delays.from_flip_flop))
    found.ends.append((cell.pins["D"][0], delays.to_flip_flop, "D", Wire.SLICE))
    for pin, time in (("CE", delays.to_enable), *((p, delays.to_reset) for p in _RESETS)):
        for net in cell.pins.get(pin, ()):
            found.ends.append((net, time, pin, Wire.FABRIC))


_RESETS = ("R", "S", "CLR", "PRE")


def _shift_register(cell: Cell, delays: Delays, found: Ways) -> None:
    for pin in ("Q", "Q31"):
        for out in cell.pins.get(pin, ()):
            found.starts.append((out, delays.from_shift_register))
            if pin == "Q":
                for name, nets in cell.pins.items():
                    if name.startswith("A"):
                        found.passes += ((net, out, delays.lut, Wire.FABRIC) for net in nets)
    found.ends.append((cell.pins["D"][0], delays.to_lut_ram, "D", Wire.FABRIC))
    for net in cell.pins.get("CE", ()):
        found.ends.append((net, delays.to_enable, "CE", Wire.FABRIC))


def _lut_ram(cell: Cell, delays: Delays, found: Ways) -> None:
    """Reads are asynchronous: by the addresses of the same port, DOA's being ADDRA."""
    for pin, nets in cell.pins.items():
        if pin in ("DPO", "SPO", "O") or pin.startswith("DO"):
            for out in nets:
                found.starts.append((out, delays.from_lut_ram))
                for net in _read_address(cell, pin):
                    found.passes.append((net, out, delays.lut, Wire.FABRIC))
        elif pin.startswith("WE"):
            found.ends += ((n, delays.to_lut_ram_enable, pin, Wire.FABRIC) for n in nets)
        elif "CLK" not in pin and not pin.startswith("DPRA"):
            found.ends += ((n, delays.to_lut_ram, pin, Wire.FABRIC) for n in nets)


def _read_address(cell: Cell, out: str) -> Iterator[Net]:
    for pin, nets in cell.pins.items():
        if out == "DPO":
            mine = pin.startswith("DPRA")
        elif out in ("SPO", "O"):
            mine = re.fullmatch(r"A\d*", pin) is not None
        else:
            mine = pin.startswith("ADDR") and pin[4:] == out[2:]
        if mine:
            yield from nets


def _uses(cell: Cell, parameter: str) -> bool:
    """Whether a parameter of registers, a number or a truth value, is neither zero nor false."""
    return cell.parameters.get(parameter, "0").strip().strip("0") not in ("", "FALSE")


def _block_ram(cell: Cell, delays: Delays, found: Ways) -> None:
    found.inner = delays.block_ram_period
    for pin, nets in cell.pins.items():
        if pin.startswith("DO"):
            port = "A" if pin.startswith(("DOA", "DOUTA", "DOPA", "DOUTPA")) else "B"
            registered = _uses(cell, f"DO{port}_REG")
            time = delays.from_block_ram_register if registered else delays.from_block_ram
            found.starts += ((net, time) for net in nets)
        elif "CLK" not in pin:
            control = pin.startswith(("WE", "EN", "RST", "REGCE"))
            time = delays.to_block_ram_control if control else delays.to_block_ram
            found.ends += ((net, time, pin, Wire.FABRIC) for net in nets)


def _ultra_ram(cell: Cell, delays: Delays, found: Ways) -> None:
    for pin, nets in cell.pins.items():
        if pin.startswith("DOUT"):
            registered = _uses(cell, f"OREG_{pin[-1]}")
            time = delays.from_block_ram_register if registered else delays.from_ultra_ram
            found.starts += ((net, time) for net in nets)
        elif pin != "CLK" and not pin.startswith(("CAS_OUT", "SBITERR", "DBITERR", "RDACCESS")):
            found.ends += ((net, delays.to_ultra_ram, pin, Wire.FABRIC) for net in nets)


@dataclass(frozen=True)
class _Slice:
    """A DSP slice: operands → [A, B] → pre-adder, multiplier → [M] → adder, with C → [P].

    Brackets are registers, each there or not.
    """

    cell: Cell
    delays: Delays
    found: Ways
    middle: bool  # register M is used
    last: bool  # register P is used

    def operand(self, pin: str, cascade: str, before_middle: float) -> None:
        """An input that takes so long until M; from there through the adder."""
        nets = {*self.cell.pins.get(pin, ()), *self.cell.pins.get(cascade, ())}
        through_middle = self.middle and before_middle > 0
        time = before_middle + (0.0 if through_middle else self.delays.dsp_add)
        if not _uses(self.cell, f"{pin}REG"):
            if through_middle:
                self.ends(pin, nets, time)
            else:
                self.into_sum(pin, nets, time)
            return
        self.ends(pin, nets, self.delays.to_dsp)
        if through_middle or self.last:
            self.found.inner = max(self.found.inner, self.delays.from_dsp + time)
        else:
            self.from_register(time)

    def ends(self, pin: str, nets: Iterable[Net], time: float) -> None:
        """Nets that end in a register."""
        self.found.ends += ((net, time, pin, Wire.FABRIC) for net in nets)

    def into_sum(self, pin: str, nets: Iterable[Net], time: float) -> None:
        """Nets that are part of the sum: they end in P, or go through."""
        wire = Wire.FIXED if pin == "PCIN" else Wire.FABRIC
        for net in nets:
            if self.last:
                self.found.ends.append((net, time, pin, wire))
            else:
                for out, extra in self.sums():
                    self.found.passes.append((net, out, time + extra, wire))

    def from_register(self, time: float) -> None:
        """The sum comes so long after the clock."""
        self.found.starts += (
            (out, self.delays.from_dsp + time + extra) for out, extra in self.sums()
        )

    def sums(self) -> Iterator[tuple[Net, float]]:
        """The nets of the sum, and what the way to the neighbour takes more."""
        for pin, extra in (("P", 0.0), ("PCOUT", self.delays.dsp_cascade_out)):
            yield from ((net, extra) for net in self.cell.pins.get(pin, ()))


def _dsp(cell: Cell, delays: Delays, found: Ways) -> None:
    multiplies = cell.parameters.get("USE_MULT", "MULTIPLY").strip() != "NONE"
    multiply = delays.dsp_multiply if multiplies else 0.0
    preadds = "TRUE" in cell.parameters.get("USE_DPORT", "") or (
        cell.parameters.get("AMULTSEL", "A").strip() == "AD"
    )
    preadd = delays.dsp_preadd if preadds else 0.0
    middle = multiplies and _uses(cell, "MREG")
    part = _Slice(cell, delays, found, middle, _uses(cell, "PREG"))
    part.operand("A", "ACIN", preadd + multiply)
    part.operand("B", "BCIN", multiply)
    part.operand("C", "", 0.0)
    if preadds:
        part.operand("D", "", preadd + multiply)
    for pin in ("PCIN", "CARRYIN", "OPMODE", "ALUMODE", "INMODE"):
        part.into_sum(pin, set(cell.pins.get(pin, ())), delays.dsp_cascade_add)
    if middle and part.last:
        found.inner = max(found.inner, delays.from_dsp + delays.dsp_add)
    elif middle:
        part.from_register(delays.dsp_add)
    if part.last:
        part.from_register(0.0)
    for pin, nets in cell.pins.items():
        if pin.startswith(("CE", "RST")):
            part.ends(pin, nets, delays.to_enable)


Model = Callable[[Cell, Delays, Ways], None]
_MODELS: tuple[tuple[re.Pattern[str], Model], ...] = tuple(
    (re.compile(pattern), model)
    for pattern, model in (
        (r"LUT[1-6]", _lut),
        (r"FD[RSCP]E", _flip_flop),
        (r"CARRY[48]", _carry),
        (r"MUXF[789]", _mux),
        (r"SRL(16E|C32E)", _shift_register),
        (r"RAM(16|32|64|128|256|512).*", _lut_ram),
        (r"RAMB(18|36)E[12]", _block_ram),
        (r"URAM288", _ultra_ram),
        (r"DSP48E[12]", _dsp),
        (re.escape(ALIAS) + r"|INV|BUFG|IBUF|OBUF", _alias),
        (r"GND|VCC|\$scopeinfo", _nothing),
    )
)
