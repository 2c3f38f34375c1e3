from __future__ import annotations

from pathlib import Path

import pytest
import tcl_interpreter
from vitessera.codegen import toplevel
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.toplevel import Rtl
from vitessera.codegen.vivado import vivado_sources
from vivado_stand_in import written

NO_TCL = (
    "needs a Tcl interpreter: Python's module tkinter (apt-get install python3-tk) or tclsh "
    "(apt-get install tcl)"
)


@pytest.fixture(scope="session")
def rtl() -> dict[str, Rtl]:
    """The RTL for each board."""
    return {name: toplevel.generate(board.config) for name, board in BOARDS.items()}


@pytest.fixture(scope="session", params=BOARDS)
def board(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sources(board: str, rtl: dict[str, Rtl]) -> dict[str, str]:
    """The files of DIR/vivado/ for a board."""
    return vivado_sources(rtl[board], BOARDS[board].config)


@pytest.fixture
def folder(sources: dict[str, str], tmp_path: Path) -> Path:
    """DIR/vivado/, written."""
    return written(sources, tmp_path)


@pytest.fixture(scope="session", params=["tkinter", "tclsh"])
def each_engine(request: pytest.FixtureRequest) -> str:
    if request.param not in tcl_interpreter.engines():
        pytest.skip(f"there is no {request.param} here; {NO_TCL}")
    return str(request.param)


@pytest.fixture(scope="session")
def engine() -> str:
    if not tcl_interpreter.engines():
        pytest.skip(NO_TCL)
    return tcl_interpreter.engines()[0]
