"""The boards that vitessera knows: their parts, memories and clocks, and the accelerator for each.

Plain data. codegen/boardfile.py reads further boards from files; codegen/vivado/ makes block
designs of them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from ..host.reading import read_file, reading
from .config import HardwareConfig
from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_BOARD = "pynq-z2"
LARGEST_NUMBER = (1 << 63) - 1  # of TOML's whole numbers
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


class ProcessorKind(Enum):
    """The processing systems; the value is the name in board files."""

    ZYNQ_7000 = "zynq-7000"
    ZYNQ_ULTRASCALE = "zynq-ultrascale"

    @property
    def memory_port_bits(self) -> int:
        """Width, at most, of a port from the fabric to the DDR."""
        return {ProcessorKind.ZYNQ_7000: 64, ProcessorKind.ZYNQ_ULTRASCALE: 128}[self]

    @property
    def most_ddr_bytes(self) -> int:
        """The largest DDR that its address map has room for; a power of two."""
        return {
            ProcessorKind.ZYNQ_7000: GIBIBYTE,
            ProcessorKind.ZYNQ_ULTRASCALE: 32 * GIBIBYTE,
        }[self]


@dataclass(frozen=True)
class Resources:
    """What a part has, or a design takes, of the FPGA's fabric.

    Attributes:
        luts: look-up tables with six inputs; of a design, those used as memory too.
        flip_flops: flip-flops.
        bram36: block RAMs of 36 Kib; half of one is a block of 18 Kib.
        uram: UltraRAMs of 288 Kib.
        dsp: DSP slices.
    """

    luts: int = 0
    flip_flops: int = 0
    bram36: float = 0
    uram: int = 0
    dsp: int = 0

    def __add__(self, other: Resources) -> Resources:
        """Both together."""
        return Resources(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(Resources))
        )

    def times(self, count: int) -> Resources:
        """`count` of them."""
        return Resources(*(count * getattr(self, f.name) for f in fields(Resources)))


@dataclass(frozen=True)
class Board:
    """A board and the configuration that is built for it.

    The boot image has set up DDR and pins before the bitstream is loaded. So Vivado need only be
    told of the processing system what the fabric sees: clocks, ports and the size of the DDR.

    Attributes:
        name: as --board takes it.
        part: the FPGA, as Vivado names it.
        resources: of the part.
        processor: the processing system of the part.
        pll_mhz: of the PLL that fabric clocks are divided from, as the board's boot image sets it.
            PYNQ copies the divisors from the .hwh, so they must be meant for this frequency.
        ddr_bytes: of the processing system's DDR; a power of two.
        ddr_bytes_per_second: its peak.
        config: the board's standard accelerator, whose memories are deep enough for the largest of
            the common models that its engine can be fed with: DeiT-Tiny on Pynq-Z2, DeiT-Small on
            Ultra96, ViT-Base on the others. Several models then run on one bitstream.
        device_names: what the board calls itself, in /proc/device-tree/chosen/pynq_board or in the
            environment variable BOARD of its PYNQ image.
        board_part: pattern for Vivado's board files, whose settings of the processing system are
            then taken; None if `properties` says all.
        board_files: where Vivado gets the board files from, as an instruction.
        properties: of the processing system's IP, for this board.
    """

    name: str
    part: str
    resources: Resources
    processor: ProcessorKind
    pll_mhz: int
    ddr_bytes: int
    ddr_bytes_per_second: int
    config: HardwareConfig
    device_names: tuple[str, ...] = ()
    board_part: str | None = None
    board_files: str = "Install them under Tools, Vivado Store, Boards."
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def memory_port_bits(self) -> int:
        """Width, at most, of the port that the accelerator reaches the DDR by."""
        return self.processor.memory_port_bits


# The UltraScale+ boards but KV260 boot with their PLLs at 1500 MHz, from which no 200 MHz can be
# divided: 187 stands for 187.5.
BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            "pynq-z2",
            "xc7z020clg400-1",
            Resources(luts=53_200, flip_flops=106_400, bram36=140, uram=0, dsp=220),
            ProcessorKind.ZYNQ_7000,
            pll_mhz=1000,
            ddr_bytes=GIBIBYTE // 2,
            ddr_bytes_per_second=2_100_000_000,  # DDR3-1050, 16 bits
            config=HardwareConfig(
                lanes=4,
                left_words=6144,
                right_words=6144,
                probability_words=512,
                residual_words=9728,
                norm_words=512,
                norm_buffer_words=1024,
                board="pynq-z2",
            ),
            # The Z1 has the same part and memory.
            device_names=("Pynq-Z2", "Pynq-Z1"),
            properties=(
                ("PCW_CRYSTAL_PERIPHERAL_FREQMHZ", "50"),
                ("PCW_APU_PERIPHERAL_FREQMHZ", "650"),
                ("PCW_UIPARAM_DDR_PARTNO", "MT41J256M16 RE-125"),
                ("PCW_UIPARAM_DDR_BUS_WIDTH", "16 Bit"),
                # The peripherals of the boot image. Their clocks can only come from an IO PLL of
                # 1000 MHz; without them Vivado would take one of 1600 MHz and divide it by more.
                ("PCW_PRESET_BANK1_VOLTAGE", "LVCMOS 1.8V"),
                ("PCW_QSPI_PERIPHERAL_ENABLE", "1"),
                ("PCW_QSPI_GRP_SINGLE_SS_ENABLE", "1"),
                ("PCW_QSPI_QSPI_IO", "MIO 1 .. 6"),
                ("PCW_QSPI_PERIPHERAL_FREQMHZ", "200"),
                ("PCW_ENET0_PERIPHERAL_ENABLE", "1"),
                ("PCW_ENET0_ENET0_IO", "MIO 16 .. 27"),
                ("PCW_ENET0_PERIPHERAL_FREQMHZ", "1000 Mbps"),
                ("PCW_SD0_PERIPHERAL_ENABLE", "1"),
                ("PCW_SD0_SD0_IO", "MIO 40 .. 45"),
                ("PCW_SDIO_PERIPHERAL_FREQMHZ", "50"),
                ("PCW_UART0_PERIPHERAL_ENABLE", "1"),
                ("PCW_UART0_UART0_IO", "MIO 14 .. 15"),
                ("PCW_USB0_PERIPHERAL_ENABLE", "1"),
            ),
        ),
        Board(
            "ultra96-v2",
            "xczu3eg-sbva484-1-i",
            Resources(luts=70_560, flip_flops=141_120, bram36=216, uram=0, dsp=360),
            ProcessorKind.ZYNQ_ULTRASCALE,
            pll_mhz=1500,
            ddr_bytes=2 * GIBIBYTE,
            ddr_bytes_per_second=4_264_000_000,  # LPDDR4-1066, 32 bits
            config=HardwareConfig(
                depth=8,
                bus_bits=128,
                left_words=6144,
                right_words=3072,
                probability_words=512,
                residual_words=9728,
                norm_words=512,
                norm_buffer_words=1024,
                clock_mhz=187,
                board="ultra96-v2",
            ),
            device_names=("Ultra96",),
            # The board files spell the name with U, Vivado with u; their publisher was avnet.com
            # and has become avnet-tria.
            board_part="*:?ltra96v2:*",
        ),
        Board(
            "kv260",
            "xck26-sfvc784-2LV-c",
            Resources(luts=117_120, flip_flops=234_240, bram36=144, uram=64, dsp=1_248),
            ProcessorKind.ZYNQ_ULTRASCALE,
            pll_mhz=1000,
            ddr_bytes=4 * GIBIBYTE,
            ddr_bytes_per_second=17_064_000_000,  # DDR4-2133, 64 bits: the part allows no more
            config=HardwareConfig(
                tile=16,
                lanes=16,
                bus_bits=128,
                left_words=13312,
                right_words=8192,
                probability_words=512,
                residual_words=10240,
                norm_words=512,
                norm_buffer_words=1536,
                clock_mhz=200,
                board="kv260",
            ),
            device_names=("KV260",),
            board_part="*:kv260_som:*",
        ),
        Board(
            "zcu104",
            "xczu7ev-ffvc1156-2-e",
            Resources(luts=230_400, flip_flops=460_800, bram36=312, uram=96, dsp=1_728),
            ProcessorKind.ZYNQ_ULTRASCALE,
            pll_mhz=1500,
            ddr_bytes=2 * GIBIBYTE,
            ddr_bytes_per_second=17_064_000_000,  # DDR4-2133, 64 bits
            config=HardwareConfig(
                tile=16,
                depth=8,
                lanes=16,
                bus_bits=128,
                left_words=6656,
                right_words=12288,
                probability_words=512,
                residual_words=10240,
                norm_words=512,
                norm_buffer_words=1536,
                clock_mhz=187,
                board="zcu104",
            ),
            device_names=("ZCU104",),
            board_part="xilinx.com:zcu104:*",
        ),
        Board(
            "zcu102",
            "xczu9eg-ffvb1156-2-e",
            Resources(luts=274_080, flip_flops=548_160, bram36=912, uram=0, dsp=2_520),
            ProcessorKind.ZYNQ_ULTRASCALE,
            pll_mhz=1500,
            ddr_bytes=4 * GIBIBYTE,
            ddr_bytes_per_second=17_064_000_000,  # DDR4-2133, 64 bits
            config=HardwareConfig(
                tile=16,
                depth=8,
                lanes=16,
                bus_bits=128,
                left_words=6656,
                right_words=16384,
                probability_words=512,
                residual_words=10240,
                norm_words=512,
                norm_buffer_words=1536,
                clock_mhz=187,
                board="zcu102",
            ),
            # There is no image from the makers of PYNQ; those who build one call the board so.
            device_names=("ZCU102",),
            board_part="xilinx.com:zcu102:*",
        ),
        Board(
            "rfsoc4x2",
            "xczu48dr-ffvg1517-2-e",
            Resources(luts=425_280, flip_flops=850_560, bram36=1_080, uram=80, dsp=4_272),
            ProcessorKind.ZYNQ_ULTRASCALE,
            pll_mhz=1500,
            ddr_bytes=4 * GIBIBYTE,
            ddr_bytes_per_second=19_200_000_000,  # DDR4-2400, 64 bits
            config=HardwareConfig(
                tile=16,
                depth=8,
                lanes=16,
                bus_bits=128,
                left_words=6656,
                right_words=8192,
                probability_words=512,
                residual_words=10240,
                norm_words=512,
                norm_buffer_words=1536,
                clock_mhz=187,
                board="rfsoc4x2",
            ),
            device_names=("RFSoC4x2",),
            board_part="realdigital.org:rfsoc4x2:*",
            board_files="Copy board_files/rfsoc4x2 of github.com/RealDigitalOrg/RFSoC4x2-BSP into "
            "data/boards/board_files of Vivado.",
        ),
    )
}


# Bytes of a configuration or board file. Python's reader of TOML takes a time that grows with the
# square of a dotted key's length: half a second for this.
LARGEST_TABLE = 8192


def read_config(path: Path) -> HardwareConfig:
    """A configuration from a TOML or JSON file whose keys are HardwareConfig's fields."""
    return HardwareConfig.from_dict(read_table(path), str(path))


def read_table(path: Path) -> dict[str, Any]:
    """The table of a TOML or JSON file; ConfigError if there is none to be had."""
    load, language = (json.loads, "JSON") if path.suffix == ".json" else (tomllib.loads, "TOML")
    remedy = (
        'Write an object of the fields, for example {"tile": 8}.'
        if language == "JSON"
        else "Write one 'key = value' line for each field, for example 'tile = 8'."
    )
    absent = "Give an existing TOML or JSON file."
    with reading(path, ConfigError, f"not valid {language}", remedy, absent=absent):
        values: Any = load(read_file(path, LARGEST_TABLE).decode())
        _check_numbers(values)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no table of fields.", remedy)
    return values


def _check_numbers(values: object) -> None:
    """Raises ValueError at a number that arithmetic and messages could not take."""
    if isinstance(values, (dict, list)):
        for value in values.values() if isinstance(values, dict) else values:
            _check_numbers(value)
    elif isinstance(values, int) and abs(values) > LARGEST_NUMBER:
        raise ValueError("a whole number has more than 64 bits")
