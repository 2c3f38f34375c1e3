"""The block design around the accelerator, as one description.

The Tcl script that makes it in Vivado and the .hwh that PYNQ reads are both rendered from a
`BlockDesign`, so that board and simulated device agree on addresses, interrupt and names.

    processor --control--> accelerator's registers, interrupt controller
    accelerator --memory--> processor's DDR
    accelerator --interrupt--> interrupt controller --> processor

The interrupt controller is there for PYNQ, which waits for no interrupt without one. One clock,
made by the processor, drives everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...host.interface import OVERLAY as OVERLAY
from ...host.interface import VLNV as VLNV
from ..boards import BOARDS, GIBIBYTE, Board, ProcessorKind
from ..config import HardwareConfig
from ..errors import ConfigError

VIVADO_VERSIONS = ("2022.2", "2023.1", "2023.2", "2024.1", "2024.2", "2025.1", "2025.2")
REGISTER_BYTES = 4096  # of the accelerator's AXI4-Lite slave

# Cells, by the names that PYNQ shows.
PROCESSOR = "ps_0"
ACCELERATOR = "accelerator_0"
CONTROLLER = "axi_intc_0"
CONTROL = "control_0"
MEMORY = "memory_0"
RESET = "reset_0"

CONTROLLER_BYTES = 0x10000
DIVIDERS = range(1, 64)  # each of the two that divide a PLL to a clock of the fabric
# PYNQ looks for the settings of four clocks, used or not.
FABRIC_CLOCKS = range(4)
# Property → parameter in the .hwh.
PORT_WIDTHS = {
    "PSU__MAXIGP0__DATA_WIDTH": "C_MAXIGP0_DATA_WIDTH",
    "PSU__SAXIGP2__DATA_WIDTH": "C_SAXIGP2_DATA_WIDTH",
}

Properties = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """An IP in the block design.

    Attributes:
        name: of the instance.
        vlnv: vendor:library:name:version. Of Xilinx's IPs the script takes the version that the
            running Vivado has.
        properties: CONFIG properties set on it, in order.
        parameters: what the .hwh says besides, which Vivado derives.
    """

    name: str
    vlnv: str
    properties: Properties = ()
    parameters: Properties = ()


@dataclass(frozen=True)
class Net:
    """A wire. Pins are cell/pin.

    Attributes:
        source: the pin that drives it.
        sinks: the pins that it drives.
        kind: of signal, as a .hwh says it: clk, rst, INTERRUPT.
    """

    source: str
    sinks: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Bus:
    """An AXI connection between two interfaces, each cell/interface."""

    master: str
    slave: str


@dataclass(frozen=True)
class External:
    """An interface of the processor that leaves the chip.

    Attributes:
        name: of the port.
        vlnv: of the interface.
        pin: cell/interface.
    """

    name: str
    vlnv: str
    pin: str


@dataclass(frozen=True)
class Segment:
    """A range of addresses.

    Attributes:
        space: whose addresses: cell/address space.
        target: what lies there: cell/interface/block.
        offset: first byte.
        size: bytes.
        master: the interface of the space's cell that the accesses leave by.
        slave: the interface of the target's cell that they enter by.
        memory: DDR rather than registers.
    """

    space: str
    target: str
    offset: int
    size: int
    master: str
    slave: str
    memory: bool = False


@dataclass(frozen=True)
class ClockNames:
    """Properties and parameters of a processor's clocks, with {} for the clock's number.

    Attributes:
        enable, source, wanted: properties: 0 or 1, PLL, MHz.
        divisor: parameter; the second {} is 0 or 1.
        achieved: parameter, MHz.
        pll: the value of `source`.
    """

    enable: str
    source: str
    wanted: str
    divisor: str
    achieved: str
    pll: str


@dataclass(frozen=True)
class Processor:
    """What varies between the processing systems.

    Attributes:
        vlnv: of the IP.
        clock, reset: pins that it drives.
        even_divisors: Vivado makes the two divisors of a clock as even as they can be, rather than
            the first one as large.
        interrupt: pin that the interrupt controller drives.
        clock_sinks: pins that take the clock back, one for each AXI port.
        control, memory: AXI ports.
        space: address space of the control port.
        segments: of DDR: name, offset, bytes at most; the DDR fills them in order.
        control_base: where the control port's addresses start.
        externals: interfaces that leave the chip.
        clocks: how its properties for clocks are called.
        port_width: property for the width of the memory port.
        properties: for every board.
    """

    vlnv: str
    clock: str
    reset: str
    interrupt: str
    clock_sinks: tuple[str, ...]
    control: str
    memory: str
    space: str
    segments: tuple[tuple[str, int, int], ...]
    control_base: int
    clocks: ClockNames
    port_width: str
    properties: Properties
    even_divisors: bool
    externals: tuple[tuple[str, str], ...] = ()


ZYNQ_7000 = Processor(
    vlnv="xilinx.com:ip:processing_system7:5.5",
    clock="FCLK_CLK0",
    reset="FCLK_RESET0_N",
    interrupt="IRQ_F2P",
    clock_sinks=("M_AXI_GP0_ACLK", "S_AXI_HP0_ACLK"),
    control="M_AXI_GP0",
    memory="S_AXI_HP0",
    space="Data",
    segments=(("S_AXI_HP0/HP0_DDR_LOWOCM", 0, GIBIBYTE),),
    control_base=0x4000_0000,
    clocks=ClockNames(
        enable="PCW_FPGA_FCLK{}_ENABLE",
        source="PCW_FCLK{}_PERIPHERAL_CLKSRC",
        wanted="PCW_FPGA{}_PERIPHERAL_FREQMHZ",
        divisor="PCW_FCLK{}_PERIPHERAL_DIVISOR{}",
        achieved="PCW_ACT_FPGA{}_PERIPHERAL_FREQMHZ",
        pll="IO PLL",
    ),
    port_width="PCW_S_AXI_HP0_DATA_WIDTH",
    properties=(
        ("PCW_USE_M_AXI_GP0", "1"),
        ("PCW_USE_S_AXI_HP0", "1"),
        ("PCW_USE_FABRIC_INTERRUPT", "1"),
        ("PCW_IRQ_F2P_INTR", "1"),
        ("PCW_EN_CLK0_PORT", "1"),
    ),
    even_divisors=True,
    externals=(
        ("DDR", "xilinx.com:interface:ddrx_rtl:1.0"),
        ("FIXED_IO", "xilinx.com:display_processing_system7:fixedio_rtl:1.0"),
    ),
)
ZYNQ_ULTRASCALE = Processor(
    vlnv="xilinx.com:ip:zynq_ultra_ps_e:3.5",
    clock="pl_clk0",
    reset="pl_resetn0",
    interrupt="pl_ps_irq0",
    clock_sinks=("maxihpm0_fpd_aclk", "saxihp0_fpd_aclk"),
    control="M_AXI_HPM0_FPD",
    memory="S_AXI_HP0_FPD",
    space="Data",
    segments=(
        ("SAXIGP2/HP0_DDR_LOW", 0, 2 * GIBIBYTE),
        ("SAXIGP2/HP0_DDR_HIGH", 0x8_0000_0000, 32 * GIBIBYTE),
    ),
    control_base=0xA000_0000,
    clocks=ClockNames(
        enable="PSU__FPGA_PL{}_ENABLE",
        source="PSU__CRL_APB__PL{}_REF_CTRL__SRCSEL",
        wanted="PSU__CRL_APB__PL{}_REF_CTRL__FREQMHZ",
        divisor="PSU__CRL_APB__PL{}_REF_CTRL__DIVISOR{}",
        achieved="PSU__CRL_APB__PL{}_REF_CTRL__ACT_FREQMHZ",
        pll="IOPLL",
    ),
    port_width="PSU__SAXIGP2__DATA_WIDTH",
    properties=(
        # The board's settings turn further ports on, whose clocks would hang in the air.
        ("PSU__USE__M_AXI_GP0", "1"),
        ("PSU__USE__M_AXI_GP1", "0"),
        ("PSU__USE__M_AXI_GP2", "0"),
        ("PSU__MAXIGP0__DATA_WIDTH", "128"),
        ("PSU__USE__S_AXI_GP2", "1"),
        ("PSU__USE__IRQ0", "1"),
        ("PSU__USE__FABRIC__RST", "1"),
        # Some boards' settings fix the divisors, and the frequency asked for would be ignored.
        ("PSU__OVERRIDE__BASIC_CLOCK", "0"),
    ),
    even_divisors=False,
)
PROCESSORS = {
    ProcessorKind.ZYNQ_7000: ZYNQ_7000,
    ProcessorKind.ZYNQ_ULTRASCALE: ZYNQ_ULTRASCALE,
}


@dataclass(frozen=True)
class FabricClock:
    """The one clock, and where to see what Vivado makes of it.

    Attributes:
        hz: as the board makes it.
        division: of the board's PLL.
        divisors: the processor's properties whose product that must be.
        achieved: its property with the MHz that timing is computed for.
    """

    hz: int
    division: int
    divisors: tuple[str, str]
    achieved: str

    @property
    def mhz(self) -> float:
        """Its frequency in MHz."""
        return self.hz / 1e6


@dataclass(frozen=True)
class BlockDesign:
    """Everything in the fabric, and how it hangs together.

    Attributes:
        board: that it is for.
        clock: that drives everything.
        cells, nets, buses, externals, segments: the design.
    """

    board: Board
    clock: FabricClock
    cells: tuple[Cell, ...]
    nets: tuple[Net, ...]
    buses: tuple[Bus, ...]
    externals: tuple[External, ...]
    segments: tuple[Segment, ...]


def block_design(config: HardwareConfig, board: Board | None = None) -> BlockDesign:
    """The block design for `board`, or for the known board that `config` names.

    Raises:
        ConfigError: the board is not known, cannot make the clock, or has a property that the
            design sets.
    """
    board = board or BOARDS.get(config.board)
    if board is None:
        raise ConfigError(
            f"There is no block design for board {config.board!r}.",
            f"Boards with one: {', '.join(BOARDS)}. Name the board in the configuration.",
        )
    processor = PROCESSORS[board.processor]
    divisors = dividers(board.pll_mhz, config.clock_mhz, processor.even_divisors)
    return BlockDesign(
        board=board,
        clock=_clock(board, divisors),
        cells=_cells(board, config, divisors),
        nets=_nets(processor),
        buses=_buses(processor),
        externals=tuple(
            External(name, vlnv, f"{PROCESSOR}/{name}") for name, vlnv in processor.externals
        ),
        segments=tuple(_segments(processor, board.ddr_bytes)),
    )


def fabric_mhz(config: HardwareConfig, board: Board | None = None) -> float:
    """The clock that the fabric gets: as the board makes it or, without a board, as configured.

    Raises:
        ConfigError: the board cannot make the clock.
    """
    if board or config.board in BOARDS:
        return block_design(config, board).clock.mhz
    return float(config.clock_mhz)


def _clock(board: Board, divisors: tuple[int, int]) -> FabricClock:
    names, division = PROCESSORS[board.processor].clocks, divisors[0] * divisors[1]
    return FabricClock(
        hz=board.pll_mhz * 1_000_000 // division,
        division=division,
        divisors=(names.divisor.format(0, 0), names.divisor.format(0, 1)),
        achieved=names.achieved.format(0),
    )


def dividers(pll_mhz: int, clock_mhz: int, even: bool = True) -> tuple[int, int]:
    """The two divisors that bring the PLL nearest to the clock, the larger one first.

    Args:
        pll_mhz: of the PLL.
        clock_mhz: wanted.
        even: which of the pairs with that product: 4 and 2 rather than 8 and 1.

    Raises:
        ConfigError: the nearest is more than a tenth away.
    """
    pairs = [(first, second) for first in DIVIDERS for second in DIVIDERS if first >= second]
    if not even:
        pairs.reverse()
    first, second = min(pairs, key=lambda pair: abs(pll_mhz / (pair[0] * pair[1]) - clock_mhz))
    if abs(pll_mhz / (first * second) - clock_mhz) > clock_mhz / 10:
        raise ConfigError(
            f"clock_mhz is {clock_mhz}, and the board's PLL of {pll_mhz} MHz cannot be divided to "
            "it.",
            f"Choose {pll_mhz} divided by a whole number.",
        )
    return first, second


def _cells(board: Board, config: HardwareConfig, divisors: tuple[int, int]) -> tuple[Cell, ...]:
    properties, parameters = _settings(board, config, divisors)
    return (
        Cell(PROCESSOR, PROCESSORS[board.processor].vlnv, properties, parameters),
        Cell(RESET, "xilinx.com:ip:proc_sys_reset:5.0"),
        Cell(CONTROL, "xilinx.com:ip:smartconnect:1.0", (("NUM_SI", "1"), ("NUM_MI", "2"))),
        # Also makes AXI3, with its bursts of at most 16 beats, where the port wants it.
        Cell(MEMORY, "xilinx.com:ip:smartconnect:1.0", (("NUM_SI", "1"), ("NUM_MI", "1"))),
        # A single wire to the processor, not an interrupt bus.
        Cell(CONTROLLER, "xilinx.com:ip:axi_intc:4.1", (("C_IRQ_CONNECTION", "1"),)),
        Cell(ACCELERATOR, VLNV),
    )


def _settings(
    board: Board, config: HardwareConfig, divisors: tuple[int, int]
) -> tuple[Properties, Properties]:
    """Properties and parameters of the processor."""
    processor = PROCESSORS[board.processor]
    names = processor.clocks
    # Where the port is narrower than the bus, the interconnect adapts.
    width = str(min(config.bus_bits, board.memory_port_bits))
    clock_mhz = board.pll_mhz / (divisors[0] * divisors[1])
    own = (
        *processor.properties,
        (processor.port_width, width),
        (names.enable.format(0), "1"),
        (names.source.format(0), names.pll),
        # What the divisors make: asked for less, Vivado would take the next larger divisor.
        (names.wanted.format(0), f"{clock_mhz:.9g}"),
    )
    taken = [name for name, _ in board.properties if name in dict(own)]
    if taken:
        raise ConfigError(
            f"{board.name}: {taken[0]} is set by the block design itself.",
            "Remove it from processor_properties.",
        )
    properties = (*board.properties, *own)
    parameters = [(names.achieved.format(0), f"{clock_mhz:.6f}")]
    for clock in FABRIC_CLOCKS:
        if clock > 0:
            parameters += [(names.enable.format(clock), "0")]
            parameters += [(names.source.format(clock), names.pll)]
        for index, divisor in enumerate(divisors if clock == 0 else (1, 1)):
            parameters.append((names.divisor.format(clock, index), str(divisor)))
    # From these PYNQ sets the width of an UltraScale+'s ports.
    for name, value in properties:
        if name in PORT_WIDTHS:
            parameters.append((PORT_WIDTHS[name], value))
    return properties, tuple(parameters)


def _nets(processor: Processor) -> tuple[Net, ...]:
    clocked = tuple(f"{PROCESSOR}/{pin}" for pin in processor.clock_sinks)
    return (
        Net(
            f"{PROCESSOR}/{processor.clock}",
            (
                *clocked,
                f"{RESET}/slowest_sync_clk",
                f"{CONTROL}/aclk",
                f"{MEMORY}/aclk",
                f"{CONTROLLER}/s_axi_aclk",
                f"{ACCELERATOR}/aclk",
            ),
            "clk",
        ),
        Net(f"{PROCESSOR}/{processor.reset}", (f"{RESET}/ext_reset_in",), "rst"),
        Net(
            f"{RESET}/peripheral_aresetn",
            (
                f"{CONTROL}/aresetn",
                f"{MEMORY}/aresetn",
                f"{CONTROLLER}/s_axi_aresetn",
                f"{ACCELERATOR}/aresetn",
            ),
            "rst",
        ),
        Net(f"{ACCELERATOR}/interrupt", (f"{CONTROLLER}/intr",), "INTERRUPT"),
        Net(f"{CONTROLLER}/irq", (f"{PROCESSOR}/{processor.interrupt}",), "INTERRUPT"),
    )


def _buses(processor: Processor) -> tuple[Bus, ...]:
    return (
        Bus(f"{PROCESSOR}/{processor.control}", f"{CONTROL}/S00_AXI"),
        Bus(f"{CONTROL}/M00_AXI", f"{ACCELERATOR}/s_axi"),
        Bus(f"{CONTROL}/M01_AXI", f"{CONTROLLER}/s_axi"),
        Bus(f"{ACCELERATOR}/m_axi", f"{MEMORY}/S00_AXI"),
        Bus(f"{MEMORY}/M00_AXI", f"{PROCESSOR}/{processor.memory}"),
    )


def _segments(processor: Processor, ddr_bytes: int) -> list[Segment]:
    space, base, port = f"{PROCESSOR}/{processor.space}", processor.control_base, processor.control
    registers = [
        Segment(space, f"{ACCELERATOR}/s_axi/Reg", base, REGISTER_BYTES, port, "s_axi"),
        Segment(space, f"{CONTROLLER}/S_AXI/Reg", base + 0x10000, CONTROLLER_BYTES, port, "s_axi"),
    ]
    memory = [
        Segment(
            f"{ACCELERATOR}/m_axi",
            f"{PROCESSOR}/{name}",
            offset,
            size,
            "m_axi",
            processor.memory,
            memory=True,
        )
        for name, offset, size in _ddr(processor, ddr_bytes)
    ]
    return registers + memory


def _ddr(processor: Processor, ddr_bytes: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and bytes of the segments that the DDR fills."""
    left = ddr_bytes
    for name, offset, most in processor.segments:
        if left > 0:
            # A segment's size is a power of two, so that the last one may reach past the DDR.
            yield name, offset, min(1 << (left - 1).bit_length(), most)
        left -= most
