"""Boards that vitessera does not know, from TOML files. docs/boards.md explains the format."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from .boards import BOARDS, MEBIBYTE, Board, ProcessorKind, Resources, read_table
from .config import BOARD_NAME, BOARD_NAME_RULE, HardwareConfig
from .errors import ConfigError

SUFFIX = ".toml"

EXAMPLE = """\
part = "xczu5ev-sfvc784-1-e"             # as Vivado names it
processor = "zynq-ultrascale"            # or "zynq-7000"
pll_mhz = 1500                           # IO PLL, as the boot image sets it
ddr_mib = 4096
ddr_bytes_per_second = 19_200_000_000    # peak: transfers a second x bytes
board_part = "*:my-board:*"              # pattern for Vivado's board files
device_names = ["MyBoard"]               # how its PYNQ image calls the board

[resources]
luts = 117_120
flip_flops = 234_240
bram36 = 144
uram = 64
dsp = 1_248

[processor_properties]                   # of Vivado's IP, on top of the board files
PSU__USE__IRQ1 = "0"

[config]                                 # as in a --config file
tile = 8
lanes = 8
bus_bits = 128
clock_mhz = 150
"""

# What may stand in a generated Tcl script, in braces or without.
PARTS = {
    ProcessorKind.ZYNQ_7000: re.compile(r"x[acq]7z[a-z0-9-]+"),
    ProcessorKind.ZYNQ_ULTRASCALE: re.compile(r"x[acq](zu|k\d)[A-Za-z0-9-]+"),
}
BOARD_PART = re.compile(r"[\w.:*?-]+")
PROPERTY = re.compile(r"[A-Z]\w*")
PROPERTY_VALUE = re.compile(r"[^{}\\\x00-\x1f]*")

REQUIRED: dict[str, type] = {
    "part": str,
    "processor": str,
    "pll_mhz": int,
    "ddr_mib": int,
    "ddr_bytes_per_second": int,
    "resources": dict,
    "config": dict,
}
OPTIONAL: dict[str, type] = {
    "board_part": str,
    "device_names": list,
    "processor_properties": dict,
}
TYPE_NAMES: dict[type, str] = {
    str: "a string in quotes",
    int: "a whole number",
    list: "a list of strings",
    dict: "a table",
}


def find_board(name: str) -> Board:
    """The board that `--board name` means.

    A name that vitessera knows; or a TOML file, given by its path or, if it lies in the current
    folder, by its name without `.toml`.

    Raises:
        ConfigError: there is no such board, or its file is wrong.
    """
    if name in BOARDS:
        return BOARDS[name]
    if Path(name).suffix == SUFFIX:
        return read_board(Path(name))
    if Path(f"{name}{SUFFIX}").is_file():
        return read_board(Path(f"{name}{SUFFIX}"))
    raise ConfigError(
        f"There is no board called {name!r}, and no file {name}{SUFFIX}.",
        f"Known boards: {', '.join(BOARDS)}. For another one write a board file ('vitessera boards "
        "--help' shows one), or give --config FILE.",
    )


def read_board(path: Path) -> Board:
    """The board that a TOML file describes; it is called as the file is.

    Raises:
        ConfigError: the file cannot be read, or something in it is missing, unknown or impossible.
    """
    values = read_table(path)
    source = str(path)
    _check_keys(values, REQUIRED, OPTIONAL, source)
    processor = _processor(values, source)
    board = Board(
        name=_name(path),
        part=_part(values["part"], processor, source),
        resources=_resources(values["resources"], source),
        processor=processor,
        pll_mhz=_positive(values, "pll_mhz", source),
        ddr_bytes=_ddr_bytes(values, processor, source),
        ddr_bytes_per_second=_positive(values, "ddr_bytes_per_second", source),
        config=_config(values["config"], path),
        device_names=_device_names(values.get("device_names", []), source),
        board_part=_board_part(values.get("board_part"), source),
        properties=_properties(values.get("processor_properties", {}), source),
    )
    if board.board_part is None and not board.properties:
        raise ConfigError(
            f"{source}: neither board_part nor processor_properties is given, so Vivado would not "
            "know the board's DDR.",
            'Add board_part = "*:NAME:*" if Vivado has files for the board, else a table '
            "[processor_properties].",
        )
    return board


def _check_keys(
    values: dict[str, Any], required: dict[str, type], optional: dict[str, type], source: str
) -> None:
    known = required | optional
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}.", f"Known keys: {', '.join(known)}.")
        # Not isinstance: true is an int in Python.
        if type(value) is not known[key]:
            raise ConfigError(f"{source}: {key} is {value!r}.", f"It must be {_form(known[key])}.")
    for key in required:
        if key not in values:
            raise ConfigError(
                f"{source}: {key} is missing.", f"Add it; it must be {_form(required[key])}."
            )


def _form(kind: type) -> str:
    return TYPE_NAMES[kind]


def _name(path: Path) -> str:
    if path.stem in BOARDS:
        raise ConfigError(
            f"{path}: vitessera has a board called {path.stem} already.", "Rename the file."
        )
    if not BOARD_NAME.fullmatch(path.stem):
        raise ConfigError(
            f"{path}: {path.stem!r} cannot be the name of a board.",
            f"Rename the file: {BOARD_NAME_RULE}.",
        )
    return path.stem


def _processor(values: dict[str, Any], source: str) -> ProcessorKind:
    kinds = {kind.value: kind for kind in ProcessorKind}
    if values["processor"] not in kinds:
        raise ConfigError(
            f"{source}: there is no processor {values['processor']!r}.",
            f"Known: {', '.join(kinds)}.",
        )
    return kinds[values["processor"]]


def _part(part: str, processor: ProcessorKind, source: str) -> str:
    if not PARTS[processor].fullmatch(part):
        examples = {
            kind: next(board.part for board in BOARDS.values() if board.processor is kind)
            for kind in ProcessorKind
        }
        raise ConfigError(
            f"{source}: {part!r} is no part with the processor {processor.value}.",
            f"Give Vivado's full name of the part, such as {examples[processor]}, and the "
            "processor that it has.",
        )
    return part


def _resources(values: dict[str, Any], source: str) -> Resources:
    names = [field.name for field in dataclasses.fields(Resources)]
    _check_keys(values, dict.fromkeys(names, int), {}, f"{source}, [resources]")
    for name, value in values.items():
        # UltraRAM is what a part may be without.
        least = 0 if name == "uram" else 1
        if value < least:
            raise ConfigError(
                f"{source}, [resources]: {name} is {value}, must be at least {least}.",
                "Take the number from the part's data sheet.",
            )
    return Resources(**values)


def _positive(values: dict[str, Any], key: str, source: str) -> int:
    value = int(values[key])
    if value <= 0:
        raise ConfigError(f"{source}: {key} is {value}, must be positive.", "Correct it.")
    return value


def _ddr_bytes(values: dict[str, Any], processor: ProcessorKind, source: str) -> int:
    mebibytes = int(values["ddr_mib"])
    most = processor.most_ddr_bytes // MEBIBYTE
    if not 1 <= mebibytes <= most or mebibytes & (mebibytes - 1):
        raise ConfigError(
            f"{source}: ddr_mib is {mebibytes}, must be a power of two up to {most}.",
            "Give the size of the processing system's DDR; if that is no power of two, the next "
            "smaller one.",
        )
    return mebibytes * MEBIBYTE


def _device_names(names: list[Any], source: str) -> tuple[str, ...]:
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        raise ConfigError(
            f"{source}: device_names is {names!r}.",
            "It must be a list of strings in quotes, without control characters.",
        )
    return tuple(names)


def _board_part(pattern: str | None, source: str) -> str | None:
    if pattern is not None and not BOARD_PART.fullmatch(pattern):
        raise ConfigError(
            f"{source}: board_part {pattern!r} is no pattern for a board part.",
            "Write it like vendor:board:*, as Vivado's get_board_parts prints them.",
        )
    return pattern


def _properties(values: dict[str, Any], source: str) -> tuple[tuple[str, str], ...]:
    for name, value in values.items():
        if not PROPERTY.fullmatch(name):
            raise ConfigError(
                f"{source}, [processor_properties]: {name!r} is no name of a property.",
                "Write names as in Vivado's CONFIG., without that: PSU__... or PCW_...",
            )
        if type(value) not in (str, int) or not PROPERTY_VALUE.fullmatch(str(value)):
            raise ConfigError(
                f"{source}, [processor_properties]: {name} is {value!r}.",
                "It must be a whole number, or a string in quotes without braces, backslashes and "
                "line ends.",
            )
    return tuple((name, str(value)) for name, value in values.items())


def _config(values: dict[str, Any], path: Path) -> HardwareConfig:
    source = f"{path}, [config]"
    if "board" in values:
        raise ConfigError(
            f"{source}: board is set; the file's name names the board.", "Remove the line."
        )
    return HardwareConfig.from_dict(values | {"board": path.stem}, source)
