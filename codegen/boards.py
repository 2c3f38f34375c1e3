"""The boards that vitessera knows, and the accelerator it builds for each."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import HardwareConfig
from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_BOARD = "pynq-z2"


@dataclass(frozen=True)
class Board:
    """A board and the configuration that is built for it.

    Attributes:
        name: as --board takes it.
        part: the FPGA, as Vivado names it.
        config: the accelerator that fits it.
    """

    name: str
    part: str
    config: HardwareConfig


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            "pynq-z2",
            "xc7z020clg400-1",
            HardwareConfig(
                left_words=6144,
                right_words=6144,
                probability_words=128,
                residual_words=4096,
                board="pynq-z2",
            ),
        ),
        Board(
            "kv260",
            "xck26-sfvc784-2LV-c",
            HardwareConfig(
                tile=16,
                lanes=16,
                bus_bits=128,
                left_words=16384,
                right_words=16384,
                probability_words=256,
                residual_words=8192,
                parameter_words=512,
                norm_words=512,
                norm_buffer_words=1024,
                clock_mhz=200,
                board="kv260",
            ),
        ),
    )
}


def board_config(name: str) -> HardwareConfig:
    """The configuration for board `name`; ConfigError for a board that is not known."""
    if name not in BOARDS:
        raise ConfigError(
            f"There is no board called {name!r}.",
            f"Known boards: {', '.join(BOARDS)}. For another one give --config FILE.",
        )
    return BOARDS[name].config


def read_config(path: Path) -> HardwareConfig:
    """A configuration from a TOML or JSON file whose keys are HardwareConfig's fields."""
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}).", "Give an existing TOML or JSON file."
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: not valid {'JSON' if path.suffix == '.json' else 'TOML'} ({error}).",
            "Write one 'key = value' line for each field, for example 'tile = 8'.",
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no table of fields.", "Write 'key = value' lines.")
    return HardwareConfig.from_dict(values, str(path))
