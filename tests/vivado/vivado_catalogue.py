"""What the stand-in knows of Vivado: commands with their options, and Xilinx's IPs.

It shares nothing with codegen/vivado. Properties, pins and address segments of the processing
systems and of axi_intc were compared with the block-design scripts that Vivado wrote for PYNQ's
overlays (Xilinx/PYNQ, Kria-PYNQ, PYNQ-HelloWorld), and so were the PLLs that it takes; names and
settings of board files with the files themselves (XilinxBoardStore, RFSoC4x2-BSP). Not compared
with anything yet, for want of a Vivado: the options of commands that those scripts do not use, the
pins of smartconnect and proc_sys_reset, which release has which version of an IP, whether each
chooses its PLLs by the same rule, and the DDR part number of the Pynq-Z2. Whoever runs the build
should correct the table first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Properties = Mapping[str, str]

RELEASES = ("2022.2", "2023.1", "2023.2", "2024.1", "2024.2", "2025.1", "2025.2")


@dataclass(frozen=True)
class Command:
    """Options (name → takes a value) and the number of other arguments."""

    options: Mapping[str, bool]
    least: int = 0
    most: int = 0


def command(least: int, most: int, flags: str = "", valued: str = "") -> Command:
    """A command, options in words."""
    options = dict.fromkeys(flags.split(), False) | dict.fromkeys(valued.split(), True)
    return Command(options | {"-quiet": False, "-verbose": False}, least, most)


COMMANDS: dict[str, Command] = {
    "add_files": command(1, 1, "-norecurse -force -scan_for_includes", "-fileset -of_objects"),
    "apply_bd_automation": command(1, 1, "", "-rule -config -dict"),
    "assign_bd_address": command(
        0, 1, "-force -import_from_file", "-target_address_space -offset -range -boundary"
    ),
    "connect_bd_intf_net": command(2, 2, "", "-intf_net -boundary_type"),
    "connect_bd_net": command(2, 99, "", "-net"),
    "create_bd_cell": command(1, 1, "", "-vlnv -type -reference"),
    "create_bd_design": command(1, 1, "", "-dir -cell -bdsource"),
    "create_bd_intf_port": command(1, 1, "", "-vlnv -mode"),
    "create_project": command(2, 2, "-force -in_memory -ip", "-part"),
    "current_design": command(0, 1),
    "current_project": command(0, 1),
    "exclude_bd_addr_seg": command(1, 1, "", "-target_address_space -offset -range"),
    "get_bd_addr_segs": command(0, 1, "-hierarchical -regexp -addressables", "-of_objects -filter"),
    "get_bd_addr_spaces": command(1, 1, "-hierarchical -regexp", "-of_objects -filter"),
    "get_bd_cells": command(1, 1, "-hierarchical -regexp", "-of_objects -filter"),
    "get_bd_intf_pins": command(1, 1, "-hierarchical -regexp", "-of_objects -filter"),
    "get_bd_intf_ports": command(1, 1, "-regexp", "-of_objects -filter"),
    "get_bd_pins": command(1, 1, "-hierarchical -regexp", "-of_objects -filter"),
    "get_board_parts": command(
        0, 1, "-regexp -nocase -latest_file_version -latest_hw_revision", "-filter"
    ),
    "get_files": command(1, 1, "-regexp -all", "-filter -of_objects"),
    "get_filesets": command(1, 1, "-regexp", "-filter -of_objects"),
    "get_ipdefs": command(1, 1, "-all -regexp -nocase", "-filter -name"),
    "get_property": command(2, 2, "-min -max"),
    "get_runs": command(1, 1, "-regexp", "-filter -of_objects"),
    "get_timing_paths": command(
        0, 0, "-setup -hold", "-from -to -delay_type -max_paths -nworst -slack_lesser_than"
    ),
    "launch_runs": command(1, 9, "-force -scripts_only -next_step", "-jobs -to_step -dir"),
    "make_wrapper": command(
        0, 0, "-top -inst_template -testbench -import -force", "-files -fileset"
    ),
    "open_run": command(1, 1, "", "-name -pr_config"),
    "report_timing_summary": command(
        0, 0, "-report_unconstrained -warn_on_violation", "-file -max_paths -delay_type"
    ),
    "report_utilization": command(0, 0, "-hierarchical -append", "-file -cells"),
    "save_bd_design": command(0, 1),
    "set_property": command(1, 3, "", "-dict"),
    "update_compile_order": command(0, 0, "-force_gui", "-fileset"),
    "update_ip_catalog": command(0, 0, "-rebuild", "-add_ip -delete_ip -repo_path"),
    "validate_bd_design": command(0, 1, "-force", "-design"),
    "version": command(0, 0, "-short"),
    "wait_on_run": command(1, 1, "", "-timeout"),
}
# Properties of objects that are no cells: kind of object → name → values.
OBJECT_PROPERTIES: dict[str, dict[str, str]] = {
    "project": {"board_part": r"\S+:\S+:part\d+:[\d.]+", "ip_repo_paths": r".+"},
    "fileset": {"top": r"\w+"},
    "design": {"BITSTREAM.GENERAL.COMPRESS": "TRUE|FALSE"},
}
READ_PROPERTIES: dict[str, set[str]] = {
    "run": {"PROGRESS", "STATUS", "STATS.TPWS"},
    "path": {"SLACK"},
}
# What `get_ipdefs -all` names besides, though no block design can hold it.
NOT_FOR_BLOCK_DESIGNS = ("xilinx.com:ip:axi_intc:9.0", "xilinx.com:ip:smartconnect:9.0")
IPI_FILTER = "design_tool_contexts =~ *IPI*"

INTERFACE_DEFINITIONS = {
    "DDR": "xilinx.com:interface:ddrx_rtl:1.0",
    "FIXED_IO": "xilinx.com:display_processing_system7:fixedio_rtl:1.0",
}
PARTS = (
    "xc7z020clg400-1",
    "xczu3eg-sbva484-1-i",
    "xck26-sfvc784-2LV-c",
    "xczu7ev-ffvc1156-2-e",
    "xczu9eg-ffvb1156-2-e",
    "xczu48dr-ffvg1517-2-e",
)


def preset(
    pll_mhz: int, bus_bits: int, device_bits: int, device_mebibits: int, **others: str
) -> dict[str, str]:
    """What a board's own settings change of an UltraScale+ that the design could notice.

    Args:
        pll_mhz: of the IO PLL.
        bus_bits: width of the DDR.
        device_bits: of one of its chips.
        device_mebibits: of one of its chips.
        others: further properties.
    """
    return {
        "PSU__USE__M_AXI_GP0": "1",
        "PSU__USE__M_AXI_GP1": "1",
        "PSU__USE__IRQ0": "1",
        # Of 33.333 MHz, and halved again.
        "PSU__CRL_APB__IOPLL_CTRL__FBDIV": str(pll_mhz * 3 // 50),
        "PSU__DDRC__BUS_WIDTH": f"{bus_bits} Bit",
        "PSU__DDRC__DRAM_WIDTH": f"{device_bits} Bits",
        "PSU__DDRC__DEVICE_CAPACITY": f"{device_mebibits} MBits",
    } | others


# Board part → the FPGA it is for, and its settings.
BOARD_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "avnet.com:ultra96v1:part0:1.2": ("xczu3eg-sbva484-1-e", preset(1500, 32, 32, 16384)),
    "avnet.com:ultra96v2:part0:1.2": (
        "xczu3eg-sbva484-1-i",
        preset(1500, 32, 32, 16384, PSU__OVERRIDE__BASIC_CLOCK="1"),
    ),
    # The same publisher under its new name, since October 2024.
    "avnet-tria:ultra96v2:part0:1.3": (
        "xczu3eg-sbva484-1-i",
        preset(1500, 32, 32, 16384, PSU__OVERRIDE__BASIC_CLOCK="1"),
    ),
    "xilinx.com:kv260_som:part0:1.4": ("xck26-sfvc784-2LV-c", preset(1000, 64, 16, 8192)),
    "xilinx.com:zcu104:part0:1.1": ("xczu7ev-ffvc1156-2-e", preset(1500, 64, 16, 4096)),
    "xilinx.com:zcu102:part0:3.4": (
        "xczu9eg-ffvb1156-2-e",
        preset(1500, 64, 8, 4096, PSU__PCIE__PERIPHERAL__ENABLE="1"),
    ),
    "realdigital.org:rfsoc4x2:part0:1.0": (
        "xczu48dr-ffvg1517-2-e",
        preset(1500, 64, 16, 8192, PSU__USE__IRQ1="1"),
    ),
}


@dataclass(frozen=True)
class Pin:
    """A pin; `must`: it may not stay open."""

    direction: str
    kind: str = "data"
    must: bool = False


@dataclass(frozen=True)
class Interface:
    """An interface; its clock is a pin of the same cell."""

    mode: str
    protocol: str
    clock: str = ""


@dataclass(frozen=True)
class Block:
    """An address segment: the interface it lies behind, the default offset, the bytes it has."""

    interface: str
    size: int
    fixed: int | None = None  # the offset that it must have


@dataclass(frozen=True)
class Shape:
    """Pins, interfaces, segments and address spaces (name → interface) of a configured cell."""

    pins: dict[str, Pin] = field(default_factory=dict)
    interfaces: dict[str, Interface] = field(default_factory=dict)
    segments: dict[str, Block] = field(default_factory=dict)
    spaces: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ip:
    """An IP.

    Attributes:
        version: by release.
        properties: name → pattern of its values.
        defaults: values before the script sets any.
        shape: from the values.
        derived: properties that Vivado computes from the values, to be read only.
        board_settings: board files set properties of it.
    """

    version: Callable[[str], str]
    properties: dict[str, str]
    defaults: dict[str, str]
    shape: Callable[[Properties], Shape]
    derived: Callable[[Properties], Properties] = lambda _: {}
    board_settings: bool = False

    def refuses(self, name: str, value: str) -> str | None:
        """Why the property cannot have the value."""
        if name not in self.properties:
            return f"has no property CONFIG.{name}"
        if not re.fullmatch(self.properties[name], value):
            return f"cannot have CONFIG.{name} = {value!r}"
        return None


def _processing_system7(values: Properties) -> Shape:
    pins: dict[str, Pin] = {}
    interfaces = {"DDR": Interface("Master", "DDR"), "FIXED_IO": Interface("Master", "FIXED_IO")}
    segments: dict[str, Block] = {}
    spaces: dict[str, str] = {}
    if values["PCW_EN_CLK0_PORT"] == "1" and values["PCW_FPGA_FCLK0_ENABLE"] == "1":
        pins |= {"FCLK_CLK0": Pin("out", "clk"), "FCLK_RESET0_N": Pin("out", "rst")}
    if values["PCW_USE_M_AXI_GP0"] == "1":
        pins["M_AXI_GP0_ACLK"] = Pin("in", "clk", must=True)
        interfaces["M_AXI_GP0"] = Interface("Master", "AXI3", "M_AXI_GP0_ACLK")
        spaces["Data"] = "M_AXI_GP0"
    if values["PCW_USE_S_AXI_HP0"] == "1":
        pins["S_AXI_HP0_ACLK"] = Pin("in", "clk", must=True)
        interfaces["S_AXI_HP0"] = Interface("Slave", "AXI3", "S_AXI_HP0_ACLK")
        bits = int(values["PCW_UIPARAM_DDR_BUS_WIDTH"].split()[0])
        segments["S_AXI_HP0/HP0_DDR_LOWOCM"] = Block("S_AXI_HP0", bits // 16 * (1 << 29), 0)
    if values["PCW_USE_FABRIC_INTERRUPT"] == "1" and values["PCW_IRQ_F2P_INTR"] == "1":
        pins["IRQ_F2P"] = Pin("in", "intr")
    return Shape(pins, interfaces, segments, spaces)


def _ddr_bytes(values: Properties) -> int:
    bus, device, mebibits = (
        int(values[f"PSU__DDRC__{name}"].split()[0])
        for name in ("BUS_WIDTH", "DRAM_WIDTH", "DEVICE_CAPACITY")
    )
    return bus // device * (mebibits << 17)


def _zynq_ultra_ps_e(values: Properties) -> Shape:
    pins: dict[str, Pin] = {}
    interfaces: dict[str, Interface] = {}
    segments: dict[str, Block] = {}
    spaces: dict[str, str] = {}
    if values["PSU__FPGA_PL0_ENABLE"] == "1":
        pins["pl_clk0"] = Pin("out", "clk")
    if values["PSU__USE__FABRIC__RST"] == "1":
        pins["pl_resetn0"] = Pin("out", "rst")
    ports = {"GP0": "HPM0_FPD", "GP1": "HPM1_FPD", "GP2": "HPM0_LPD"}
    for name, port in ports.items():
        if values[f"PSU__USE__M_AXI_{name}"] == "1":
            clock = f"maxi{port.lower()}_aclk"
            pins[clock] = Pin("in", "clk", must=True)
            interfaces[f"M_AXI_{port}"] = Interface("Master", "AXI4", clock)
            spaces["Data"] = "M_AXI_HPM0_FPD"
    if values["PSU__USE__S_AXI_GP2"] == "1":
        pins["saxihp0_fpd_aclk"] = Pin("in", "clk", must=True)
        interfaces["S_AXI_HP0_FPD"] = Interface("Slave", "AXI4", "saxihp0_fpd_aclk")
        segments |= {
            "SAXIGP2/HP0_DDR_LOW": Block("S_AXI_HP0_FPD", 1 << 31, 0),
            "SAXIGP2/HP0_LPS_OCM": Block("S_AXI_HP0_FPD", 1 << 24, 0xFF00_0000),
            "SAXIGP2/HP0_QSPI": Block("S_AXI_HP0_FPD", 1 << 29, 0xC000_0000),
        }
        ddr = _ddr_bytes(values)
        if values["PSU__PCIE__PERIPHERAL__ENABLE"] == "1":
            segments["SAXIGP2/HP0_PCIE_LOW"] = Block("S_AXI_HP0_FPD", 1 << 28, 0xE000_0000)
        if ddr > 1 << 31:
            segments["SAXIGP2/HP0_DDR_HIGH"] = Block("S_AXI_HP0_FPD", ddr, 0x8_0000_0000)
    for number in (0, 1):
        if values[f"PSU__USE__IRQ{number}"] == "1":
            pins[f"pl_ps_irq{number}"] = Pin("in", "intr")
    return Shape(pins, interfaces, segments, spaces)


# --- Clocks: the PLL that Vivado takes, and what it divides that by

DIVISORS = range(1, 64)


def _divided(pll_mhz: float, wanted_mhz: float) -> tuple[int, int]:
    """The divisors that bring the PLL nearest to the clock."""
    pairs = [(first, second) for second in DIVISORS for first in DIVISORS if first >= second]
    return min(pairs, key=lambda pair: abs(pll_mhz / pair[0] / pair[1] - wanted_mhz))


# Peripheral that is turned on → the clock that it wants of the IO PLL.
PERIPHERAL_CLOCKS = {
    "PCW_QSPI_PERIPHERAL_ENABLE": "PCW_QSPI_PERIPHERAL_FREQMHZ",
    "PCW_ENET0_PERIPHERAL_ENABLE": "PCW_ENET0_PERIPHERAL_FREQMHZ",
    "PCW_SD0_PERIPHERAL_ENABLE": "PCW_SDIO_PERIPHERAL_FREQMHZ",
}
ETHERNET_MHZ = {"1000 Mbps": 125.0, "100 Mbps": 25.0}
SLOWEST_PLL_MHZ, FASTEST_PLL_MHZ = 800, 1600


def _io_pll(values: Properties) -> float:
    """The fastest that gives every peripheral its clock exactly, or else the fabric."""
    wanted = [
        ETHERNET_MHZ.get(values[clock]) or float(values[clock])
        for switch, clock in PERIPHERAL_CLOCKS.items()
        if values[switch] == "1"
    ] or [float(values["PCW_FPGA0_PERIPHERAL_FREQMHZ"])]
    crystal = float(values["PCW_CRYSTAL_PERIPHERAL_FREQMHZ"])
    multiples = [number * crystal for number in DIVISORS]
    possible = [pll for pll in multiples if SLOWEST_PLL_MHZ <= pll <= FASTEST_PLL_MHZ]
    exact = [pll for pll in possible if all(_divides(clock, pll) for clock in wanted)]
    return max(exact or possible)


def _divides(clock_mhz: float, pll_mhz: float) -> bool:
    quotient = pll_mhz / clock_mhz
    return abs(quotient - round(quotient)) < 1e-5


def _processing_system7_clocks(values: Properties) -> Properties:
    pll, wanted = _io_pll(values), float(values["PCW_FPGA0_PERIPHERAL_FREQMHZ"])
    first, second = _divided(pll, wanted)
    return {
        "PCW_FCLK0_PERIPHERAL_DIVISOR0": str(first),
        "PCW_FCLK0_PERIPHERAL_DIVISOR1": str(second),
        "PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ": f"{pll / first / second:.6f}",
    }


def _zynq_ultra_ps_e_clocks(values: Properties) -> Properties:
    pll = int(values["PSU__CRL_APB__IOPLL_CTRL__FBDIV"]) * 33.333333 / 2
    first, second = _divided(pll, float(values["PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"]))
    if values["PSU__OVERRIDE__BASIC_CLOCK"] == "1":
        first, second = 15, 1  # as the board's files fix them
    return {
        "PSU__CRL_APB__PL0_REF_CTRL__DIVISOR0": str(first),
        "PSU__CRL_APB__PL0_REF_CTRL__DIVISOR1": str(second),
        "PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ": f"{pll / first / second:.6f}",
    }


def _smartconnect(values: Properties) -> Shape:
    slaves = {
        f"S{i:02}_AXI": Interface("Slave", "any", "aclk") for i in range(int(values["NUM_SI"]))
    }
    masters = {
        f"M{i:02}_AXI": Interface("Master", "any", "aclk") for i in range(int(values["NUM_MI"]))
    }
    pins = {"aclk": Pin("in", "clk", must=True), "aresetn": Pin("in", "rst", must=True)}
    return Shape(pins, slaves | masters)


def _proc_sys_reset(_: Properties) -> Shape:
    outputs = ("interconnect_aresetn", "peripheral_aresetn")
    high = ("mb_reset", "bus_struct_reset", "peripheral_reset")
    return Shape(
        {
            "slowest_sync_clk": Pin("in", "clk", must=True),
            "ext_reset_in": Pin("in", "rst", must=True),
            "aux_reset_in": Pin("in", "rst"),
            "mb_debug_sys_rst": Pin("in", "rst-high"),
            "dcm_locked": Pin("in"),
        }
        | {name: Pin("out", "rst") for name in outputs}
        | {name: Pin("out", "rst-high") for name in high}
    )


def _axi_intc(values: Properties) -> Shape:
    pins = {
        "s_axi_aclk": Pin("in", "clk", must=True),
        "s_axi_aresetn": Pin("in", "rst", must=True),
        "intr": Pin("in", "intr", must=True),
    }
    interfaces = {"s_axi": Interface("Slave", "AXI4LITE", "s_axi_aclk")}
    if values["C_IRQ_CONNECTION"] == "1":
        pins["irq"] = Pin("out", "intr")
    else:
        interfaces["interrupt"] = Interface("Master", "interrupt")
    return Shape(pins, interfaces, {"S_AXI/Reg": Block("s_axi", 1 << 16)})


BIT = "[01]"
MHZ = r"\d+(\.\d+)?"
IPS: dict[str, Ip] = {
    "xilinx.com:ip:processing_system7": Ip(
        lambda _: "5.5",
        {
            "PCW_APU_PERIPHERAL_FREQMHZ": MHZ,
            "PCW_CRYSTAL_PERIPHERAL_FREQMHZ": MHZ,
            "PCW_ENET0_ENET0_IO": r"MIO 16 \.\. 27|EMIO",
            "PCW_ENET0_PERIPHERAL_ENABLE": BIT,
            "PCW_ENET0_PERIPHERAL_FREQMHZ": "1000 Mbps|100 Mbps|10 Mbps",
            "PCW_EN_CLK0_PORT": BIT,
            "PCW_FCLK0_PERIPHERAL_CLKSRC": "IO PLL|ARM PLL|DDR PLL",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ": MHZ,
            "PCW_FPGA_FCLK0_ENABLE": BIT,
            "PCW_IRQ_F2P_INTR": BIT,
            "PCW_PRESET_BANK1_VOLTAGE": r"LVCMOS (1\.8|2\.5|3\.3)V|HSTL 1\.8V",
            "PCW_QSPI_GRP_SINGLE_SS_ENABLE": BIT,
            "PCW_QSPI_PERIPHERAL_ENABLE": BIT,
            "PCW_QSPI_PERIPHERAL_FREQMHZ": MHZ,
            "PCW_QSPI_QSPI_IO": r"MIO 1 \.\. 6",
            "PCW_SD0_PERIPHERAL_ENABLE": BIT,
            "PCW_SD0_SD0_IO": r"MIO (16 \.\. 21|28 \.\. 33|40 \.\. 45)|EMIO",
            "PCW_SDIO_PERIPHERAL_FREQMHZ": MHZ,
            "PCW_S_AXI_HP0_DATA_WIDTH": "32|64",
            "PCW_UIPARAM_DDR_BUS_WIDTH": "16 Bit|32 Bit",
            "PCW_UART0_PERIPHERAL_ENABLE": BIT,
            "PCW_UART0_UART0_IO": r"MIO \d+ \.\. \d+|EMIO",
            "PCW_UIPARAM_DDR_PARTNO": r"MT41[JK]\w+ \w+-\w+|Custom",
            "PCW_USB0_PERIPHERAL_ENABLE": BIT,
            "PCW_USE_FABRIC_INTERRUPT": BIT,
            "PCW_USE_M_AXI_GP0": BIT,
            "PCW_USE_M_AXI_GP1": BIT,
            "PCW_USE_S_AXI_HP0": BIT,
        },
        {
            "PCW_CRYSTAL_PERIPHERAL_FREQMHZ": "33.333333",
            "PCW_ENET0_PERIPHERAL_ENABLE": "0",
            "PCW_ENET0_PERIPHERAL_FREQMHZ": "1000 Mbps",
            "PCW_EN_CLK0_PORT": "1",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ": "50",
            "PCW_FPGA_FCLK0_ENABLE": "1",
            "PCW_IRQ_F2P_INTR": "0",
            "PCW_QSPI_PERIPHERAL_ENABLE": "0",
            "PCW_QSPI_PERIPHERAL_FREQMHZ": "200",
            "PCW_SD0_PERIPHERAL_ENABLE": "0",
            "PCW_SDIO_PERIPHERAL_FREQMHZ": "100",
            "PCW_UIPARAM_DDR_BUS_WIDTH": "32 Bit",
            "PCW_USE_FABRIC_INTERRUPT": "0",
            "PCW_USE_M_AXI_GP0": "1",
            "PCW_USE_S_AXI_HP0": "0",
        },
        _processing_system7,
        _processing_system7_clocks,
    ),
    "xilinx.com:ip:zynq_ultra_ps_e": Ip(
        lambda release: "3.4" if release == "2022.2" else "3.5",
        {
            "PSU__CRL_APB__IOPLL_CTRL__FBDIV": r"\d+",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": MHZ,
            "PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL|RPLL|DPLL",
            "PSU__DDRC__BUS_WIDTH": "(16|32|64) Bit",
            "PSU__DDRC__DEVICE_CAPACITY": r"\d+ MBits",
            "PSU__DDRC__DRAM_WIDTH": "(8|16|32) Bits",
            "PSU__FPGA_PL0_ENABLE": BIT,
            "PSU__MAXIGP0__DATA_WIDTH": "32|64|128",
            "PSU__OVERRIDE__BASIC_CLOCK": BIT,
            "PSU__PCIE__PERIPHERAL__ENABLE": BIT,
            "PSU__SAXIGP2__DATA_WIDTH": "32|64|128",
            "PSU__USE__FABRIC__RST": BIT,
            "PSU__USE__IRQ0": BIT,
            "PSU__USE__IRQ1": BIT,
            "PSU__USE__M_AXI_GP0": BIT,
            "PSU__USE__M_AXI_GP1": BIT,
            "PSU__USE__M_AXI_GP2": BIT,
            "PSU__USE__S_AXI_GP2": BIT,
        },
        {
            "PSU__CRL_APB__IOPLL_CTRL__FBDIV": "90",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": "100",
            "PSU__DDRC__BUS_WIDTH": "64 Bit",
            "PSU__DDRC__DEVICE_CAPACITY": "2048 MBits",
            "PSU__DDRC__DRAM_WIDTH": "8 Bits",
            "PSU__FPGA_PL0_ENABLE": "1",
            "PSU__OVERRIDE__BASIC_CLOCK": "0",
            "PSU__PCIE__PERIPHERAL__ENABLE": "0",
            "PSU__USE__FABRIC__RST": "1",
            "PSU__USE__IRQ0": "0",
            "PSU__USE__IRQ1": "0",
            "PSU__USE__M_AXI_GP0": "1",
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            "PSU__USE__S_AXI_GP2": "0",
        },
        _zynq_ultra_ps_e,
        _zynq_ultra_ps_e_clocks,
        board_settings=True,
    ),
    "xilinx.com:ip:smartconnect": Ip(
        lambda _: "1.0",
        {"NUM_SI": r"[1-9]|1[0-6]", "NUM_MI": r"[1-9]|1[0-6]", "NUM_CLKS": r"[1-9]"},
        {"NUM_SI": "2", "NUM_MI": "1"},
        _smartconnect,
    ),
    "xilinx.com:ip:proc_sys_reset": Ip(lambda _: "5.0", {}, {}, _proc_sys_reset),
    "xilinx.com:ip:axi_intc": Ip(
        lambda _: "4.1", {"C_IRQ_CONNECTION": BIT}, {"C_IRQ_CONNECTION": "0"}, _axi_intc
    ),
}
