"""All files of DIR/vivado/. The folder needs nothing from outside: it can be copied to the machine
that has Vivado.

ip/                 the accelerator as a packaged IP
block_design.tcl    the block design for the board
build.tcl           project, synthesis, implementation, reports, bitstream/
constraints.xdc
Makefile            `make bitstream`
vitessera.hwh       what PYNQ will know about the overlay; read where there is no board
"""

from __future__ import annotations

from importlib import resources

import jinja2

from ..boards import BOARDS, Board
from ..config import HardwareConfig
from ..toplevel import RTL_FILES, Rtl
from .component import GUI_FILE, component, interface_gui
from .design import OVERLAY, PROCESSOR, VIVADO_VERSIONS, VLNV, block_design
from .handoff import handoff

SCRIPTS = ("block_design.tcl", "build.tcl", "constraints.xdc")
TEMPLATES = resources.files(__package__)
IP_FILES = frozenset(
    {f"ip/hdl/{name}" for name in RTL_FILES} | {"ip/component.xml", f"ip/{GUI_FILE}"}
)
# With a board; without, only some of them.
VIVADO_FILES = IP_FILES | {*SCRIPTS, f"{OVERLAY}.hwh", "Makefile"}


def check_board(config: HardwareConfig, board: Board | None = None) -> None:
    """Raises ConfigError if there is no block design for the board with this clock.

    The board is `board` or, without one, the known board that `config` names, if any.
    """
    if board or config.board in BOARDS:
        block_design(config, board)


def vivado_sources(rtl: Rtl, config: HardwareConfig, board: Board | None = None) -> dict[str, str]:
    """Path below DIR/vivado/ → text.

    The board is chosen as in `check_board`. Without one there is the packaged IP alone, and a
    Makefile that says so.

    Raises:
        ConfigError: the board cannot make the clock.
    """
    files = {f"ip/hdl/{name}": text for name, text in rtl.files.items()}
    files["ip/component.xml"] = component(rtl, config)
    files[f"ip/{GUI_FILE}"] = interface_gui()
    values: dict[str, object] = {
        "overlay": OVERLAY,
        "versions": VIVADO_VERSIONS,
        "boards": tuple(BOARDS),
        "design": None,
    }
    if board or config.board in BOARDS:
        design = block_design(config, board)
        values |= {
            "design": design,
            "vlnv": VLNV,
            "processor": PROCESSOR,
            "clock_mhz": config.clock_mhz,
        }
        files |= {name: _render(name, values) for name in SCRIPTS}
        files[f"{OVERLAY}.hwh"] = handoff(design, rtl)
    files["Makefile"] = _render("Makefile", values)
    return files


def _render(name: str, values: dict[str, object]) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    text = TEMPLATES.joinpath(f"{name}.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)
