"""What cells and wires take, by family and speed grade: every number of the timing model.

The numbers of a family are those of its speed grade -1; others are faster by a factor. Sources:

* DS187: Xilinx, Zynq-7000 data sheet, switching characteristics at 1.0 V.
* DS925: Xilinx, Zynq UltraScale+ data sheet, switching characteristics at 0.85 V.
* reports: timing reports of Vivado that people published with their designs; a data sheet gives
  ranges where a report gives the value of one pin.
* Yosys: the ratios between the ways through a DSP slice, as in its library for the 7 series.

No wire has a place before a design is routed. Its delay is taken from its fan-out alone, as the
typical one of published reports. That is too much: Yosys needs more levels of logic than Vivado,
and people who publish a clock tuned for it. So all but the hard blocks (memories and DSP slices,
whose delays are those of the data sheets) is divided by a calibration, which `CALIBRATIONS` holds
and tests/clock/test_calibration.py holds against public cores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from ..boards import ProcessorKind


@dataclass(frozen=True)
class Delays:
    """Nanoseconds. `to` is from a pin to the clock (a setup), `from` from the clock to a pin.

    Attributes:
        lut: through a look-up table.
        from_flip_flop, to_flip_flop, to_enable, to_reset: of flip-flops.
        mux, mux_select: through MUXF7, MUXF8 or MUXF9, by data or by selection.
        carry_in: from a slice's logic onto its carry chain.
        carry_step: along the chain, through one CARRY4 or CARRY8.
        carry_out: from the chain to a sum.
        carry_sum: from a slice's logic to a sum of the same CARRY4 or CARRY8.
        from_lut_ram, to_lut_ram, to_lut_ram_enable: of LUTs used as memory.
        from_shift_register: of LUTs used as shift registers.
        from_block_ram, from_block_ram_register: without and with its output register.
        to_block_ram, to_block_ram_control: data and addresses, enables.
        block_ram_period: the shortest clock period of a block RAM.
        from_ultra_ram, to_ultra_ram: UltraRAM without output register.
        dsp_multiply: from an operand to the register M behind the multiplier.
        dsp_preadd: what its pre-adder takes before that.
        dsp_add: from M, or from C, through the adder to the sum.
        dsp_cascade_add: from the neighbour's sum through the adder.
        dsp_cascade_out: what a sum to the neighbour takes more than one to the fabric.
        from_dsp, to_dsp: of its registers.
        wire, wire_growth: of a wire to one pin, and more for each doubling of pins.
    """

    lut: float
    from_flip_flop: float
    to_flip_flop: float
    to_enable: float
    to_reset: float
    mux: float
    mux_select: float
    carry_in: float
    carry_step: float
    carry_out: float
    carry_sum: float
    from_lut_ram: float
    to_lut_ram: float
    to_lut_ram_enable: float
    from_shift_register: float
    from_block_ram: float
    from_block_ram_register: float
    to_block_ram: float
    to_block_ram_control: float
    block_ram_period: float
    from_ultra_ram: float
    to_ultra_ram: float
    dsp_multiply: float
    dsp_preadd: float
    dsp_add: float
    dsp_cascade_add: float
    dsp_cascade_out: float
    from_dsp: float
    to_dsp: float
    wire: float
    wire_growth: float


HARD_BLOCKS = ("block_ram", "ultra_ram", "dsp")

# Zynq-7000 (Artix-7's fabric), -1.
_SERIES_7 = Delays(
    lut=0.15,  # DS187 T_ILO 0.13; reports: 0.124 and, of the slower pins, 0.15
    from_flip_flop=0.456,  # reports; DS187 T_CKO 0.53 at most
    to_flip_flop=0.06,  # reports
    to_enable=0.205,  # reports
    to_reset=0.429,  # reports
    mux=0.22,  # reports: MUXF7 0.214 to 0.247, MUXF8 0.094
    mux_select=0.30,  # reports: MUXF7 0.276 to 0.298
    carry_in=0.52,  # reports: S to CO 0.401 to 0.55, DI 0.52, CYINIT 0.58
    carry_step=0.114,  # reports
    carry_out=0.334,  # reports: CI to O[1]
    carry_sum=0.55,  # reports: S or DI to O 0.25 to 0.64
    from_lut_ram=1.314,  # reports; DS187 T_SHCKO 1.32
    to_lut_ram=0.45,  # DS187 T_DS_LRAM, with the hold of a slice's own routing
    to_lut_ram_enable=0.533,  # reports
    from_shift_register=1.64,  # reports; DS187 T_REG 1.61
    from_block_ram=2.454,  # reports; DS187 T_RCKO_DO 2.46
    from_block_ram_register=0.882,  # reports; DS187 T_RCKO_DO_REG 0.89
    to_block_ram=0.737,  # reports: data; DS187 addresses 0.57
    to_block_ram_control=0.532,  # reports
    block_ram_period=2.58,  # DS187 F_MAX_BRAM 388 MHz
    from_ultra_ram=0.0,  # there is none
    to_ultra_ram=0.0,
    # Reports give A to PCOUT 4.036, PCIN to P 1.518, CLK to P 0.434; the rest by Yosys's ratios.
    dsp_multiply=1.93,
    dsp_preadd=1.34,
    dsp_add=1.85,
    dsp_cascade_add=1.51,
    dsp_cascade_out=0.20,
    from_dsp=0.434,
    to_dsp=0.34,
    wire=0.52,  # reports: 0.44 routed to one pin
    wire_growth=0.12,  # reports: 0.67 to two pins, 1.33 to 62
)

# Zynq UltraScale+, -1 at 0.85 V.
_ULTRASCALE_PLUS = Delays(
    lut=0.14,  # reports: 0.035 to 0.15 by pin; the slow pins make critical paths
    from_flip_flop=0.096,  # reports: 0.079 at -2
    to_flip_flop=0.03,  # reports: 0.025 at -2
    to_enable=0.06,  # reports
    to_reset=0.08,  # reports: 0.074 at -2
    mux=0.09,  # reports
    mux_select=0.13,  # reports
    carry_in=0.24,  # reports: S to CO[7] 0.195 to 0.24, DI 0.20
    carry_step=0.023,  # reports: 0.015 to 0.028
    carry_out=0.12,  # reports: CI to O 0.076 to 0.14
    carry_sum=0.25,  # reports: S or DI to O 0.10 to 0.30
    from_lut_ram=0.65,  # reports
    to_lut_ram=0.10,  # reports
    to_lut_ram_enable=0.20,  # reports
    from_shift_register=0.70,  # reports
    from_block_ram=1.10,  # reports: 0.87 at -2; DS925 T_RCKO_DO 1.10
    from_block_ram_register=0.30,  # reports; DS925 T_RCKO_DO_REG 0.36
    to_block_ram=0.30,  # reports
    to_block_ram_control=0.30,  # reports
    block_ram_period=1.55,  # DS925 F_MAX_BRAM 645 MHz
    from_ultra_ram=1.5,  # by the ratio to a block RAM of DS925's F_MAX without registers
    to_ultra_ram=0.35,
    # DS925: 2.96 ns from register to register through the multiplier without M; ratios of Yosys.
    dsp_multiply=0.99,
    dsp_preadd=0.69,
    dsp_add=0.95,
    dsp_cascade_add=0.78,
    dsp_cascade_out=0.10,
    from_dsp=0.23,
    to_dsp=0.18,
    wire=0.22,  # reports
    wire_growth=0.065,  # reports
)


@dataclass(frozen=True)
class Calibration:
    """What the model's soft delays are divided by, and how sure that is.

    Attributes:
        factor: on a part that is nearly full. Small cores that stand alone in a part and were tuned
            for a published clock come out at `alone`, in tests/clock/test_calibration.py; a full
            part is routed worse. How much worse is a judgement, not a measurement.
        alone: see `factor`.
        spread: the share by which a real clock may differ, either way.
    """

    factor: float
    alone: float
    spread: float


CALIBRATIONS = {
    ProcessorKind.ZYNQ_7000: Calibration(factor=1.45, alone=1.9, spread=0.25),
    ProcessorKind.ZYNQ_ULTRASCALE: Calibration(factor=1.7, alone=2.3, spread=0.25),
}
_SLOWEST = {
    ProcessorKind.ZYNQ_7000: _SERIES_7,
    ProcessorKind.ZYNQ_ULTRASCALE: _ULTRASCALE_PLUS,
}
# Speed grade → what delays of -1 are multiplied by: DS187 and DS925, ratios of F_MAX of the DSP
# slice (7 series 464, 550, 628 MHz; UltraScale+ 645, 775, 891 MHz). A grade with an L behind it
# runs at 0.72 V, where DS925 gives -2 what it gives -1 at 0.85 V: 644 MHz.
_GRADES = {
    ProcessorKind.ZYNQ_7000: {"1": 1.0, "2": 0.87, "3": 0.79},
    ProcessorKind.ZYNQ_ULTRASCALE: {"1": 1.0, "2": 0.87, "3": 0.78, "1L": 1.075, "2L": 1.0},
}


def speed_grade(part: str) -> str:
    """The speed grade in the name of a part: "1" of xc7z020clg400-1, "2L" of xck26-sfvc784-2LV-c.

    A name without one is taken for the slowest, "1".
    """
    found = re.search(r"-([123])(L?)[A-Z]?(?:-[a-zA-Z])?$", part)
    return "".join(found.groups()) if found else "1"


def delays_of(processor: ProcessorKind, part: str) -> Delays:
    """The delays of a part, as data sheets and reports give them.

    Args:
        processor: names the family.
        part: as Vivado names it; its end names the speed grade.
    """
    grades = _GRADES[processor]
    grade = speed_grade(part)
    factor = grades.get(grade, grades["1"])
    return _scaled(_SLOWEST[processor], soft=factor, hard=factor)


def calibrated(delays: Delays, factor: float) -> Delays:
    """`delays` with all but the hard blocks divided by the factor of a `Calibration`."""
    return _scaled(delays, soft=1 / factor, hard=1.0)


def _scaled(delays: Delays, soft: float, hard: float) -> Delays:
    def times(name: str) -> float:
        return hard if any(block in name for block in HARD_BLOCKS) else soft

    return replace(
        delays,
        **{each.name: getattr(delays, each.name) * times(each.name) for each in fields(Delays)},
    )
