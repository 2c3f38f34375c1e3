"""What bitstream, program and host agree on by name."""

from __future__ import annotations

INTERFACE_VERSION = 2  # of the register map; the host refuses any other
VLNV = f"vitessera:ip:accelerator:{INTERFACE_VERSION}.0"  # what PYNQ binds our driver to
OVERLAY = "vitessera"  # names block design, .bit and .hwh
