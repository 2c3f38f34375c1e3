"""Which files a build directory may hold, and what the configuration alone says is in them.

A build directory may come from anywhere, and most of what lies in it is source text that tools
compile and run. So no name is taken from its manifest that vitessera does not write, and what the
configuration determines is generated again and compared; see docs/security.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..host.build import TAIL
from . import hls, registers, toplevel
from .boards import BOARDS
from .config import HardwareConfig
from .errors import BuildDirectoryError
from .program import PROGRAM_FILES
from .toplevel import RTL_FILES, Rtl
from .vivado import IP_FILES, VIVADO_FILES, vivado_sources

LAYOUT = "program/layout.npz"
IMAGES = "images.npz"
CONFIG = "accelerator.toml"
REGISTERS = "registers.json"
REPORTS = (
    "quantization.json",
    "quantization.txt",
    "program.json",
    "program.txt",
    "plan.txt",
    "assembler.txt",
    REGISTERS,
)
_TRUST = (
    "Compile the model again. Simulators and synthesis run what RTL tells them to: only if you "
    "trust where it comes from, take it as it is, with --foreign-rtl or foreign_rtl=True."
)


def known_names() -> frozenset[str]:
    """Every file that `compile` writes, but for the manifest; paths in the build directory."""
    folders = {
        "hls": hls.published_names(),
        "rtl": RTL_FILES,
        "program": PROGRAM_FILES,
        "reports": REPORTS,
        "vivado": VIVADO_FILES,
    }
    inside = {f"{folder}/{name}" for folder, names in folders.items() for name in names}
    return frozenset(inside | {LAYOUT, IMAGES, CONFIG, TAIL})


def required_names() -> frozenset[str]:
    """Those of known_names that `compile` writes for any model and board, and for none."""
    return frozenset(
        name for name in known_names() if name != TAIL and not name.startswith("vivado/")
    )


def determined(config: HardwareConfig) -> frozenset[str]:
    """Those of known_names whose content the configuration determines.

    The scripts for a board that the user has described are not among them: a build directory does
    not hold the description.
    """
    described = config.board not in (*BOARDS, HardwareConfig.board)
    scripts = {f"vivado/{name}" for name in VIVADO_FILES - IP_FILES} if described else set()
    folders = ("hls/", "rtl/", "vivado/")
    names = {name for name in known_names() if name.startswith(folders)} - scripts
    return frozenset(names | {CONFIG, f"reports/{REGISTERS}"})


def check_generated(
    files: Mapping[str, bytes], design_hash: int, config: HardwareConfig, folder: Path
) -> Rtl:
    """The accelerator's RTL, generated anew, if all that is generated with it is in `files`.

    Args:
        files: path in the build directory → content.
        design_hash: of the manifest.
        config: the accelerator.
        folder: the build directory, for messages.

    Raises:
        BuildDirectoryError: a file is not what this vitessera generates, or the hash is not.
        ConfigError: the board cannot make the clock.
        ToolError: the HLS compiler is missing.
    """
    rtl = toplevel.generate(config)
    expected = _generated(rtl, config)
    for name in sorted(determined(config)):
        if files.get(name) != expected.get(name):
            raise BuildDirectoryError(
                f"{folder / name} is not what this vitessera generates for its configuration.",
                _TRUST,
            )
    if design_hash != rtl.design_hash:
        raise BuildDirectoryError(
            f"{folder}: the design hash in the manifest is {design_hash:016x}, not "
            f"{rtl.design_hash:016x}.",
            _TRUST,
        )
    return rtl


def _generated(rtl: Rtl, config: HardwareConfig) -> dict[str, bytes]:
    """Path in the build directory → content."""
    folders: dict[str, Mapping[str, str]] = {
        "hls": hls.published(config),
        "rtl": rtl.files,
        "vivado": vivado_sources(rtl, config),
        "reports": {REGISTERS: registers.host_constants()},
    }
    texts = {
        f"{folder}/{name}": text for folder in folders for name, text in folders[folder].items()
    }
    return {name: text.encode() for name, text in (texts | {CONFIG: config.to_toml()}).items()}
