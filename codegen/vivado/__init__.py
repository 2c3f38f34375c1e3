"""Bitstream sources: what Vivado needs to make the overlay, and the .hwh that describes it.

design.py        the block design as one frozen description
component.py     the accelerator as a packaged IP: component.xml
handoff.py       the description as the .hwh that PYNQ reads
sources.py       all files of DIR/vivado/
"""

from .design import (
    ACCELERATOR,
    OVERLAY,
    VIVADO_VERSIONS,
    VLNV,
    BlockDesign,
    block_design,
    fabric_mhz,
)
from .sources import IP_FILES, VIVADO_FILES, check_board, vivado_sources

__all__ = [
    "ACCELERATOR",
    "IP_FILES",
    "OVERLAY",
    "VIVADO_FILES",
    "VIVADO_VERSIONS",
    "VLNV",
    "BlockDesign",
    "block_design",
    "check_board",
    "fabric_mhz",
    "vivado_sources",
]
