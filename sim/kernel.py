"""Runs the RTL of one kernel: sends and expects sequences on its streams, with random stalls.

All kernels of a configuration share one simulation binary, since most of the time of a build is
Verilator's own runtime. `check_kernel` is what a test calls; the cocotb side is kernel_bench.py.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ..codegen import hls
from ..codegen.config import HardwareConfig
from ..codegen.scratch import ScratchFolder
from . import verilator
from .kernel_task import KernelRun, Order


@lru_cache
def kernels_design(
    config: HardwareConfig, names: tuple[str, ...] | None = None
) -> verilator.Design:
    """The kernels side by side under one top, every stream a port."""
    modules = hls.compile_kernels(config, names)
    return verilator.Design(
        top="kernels",
        sources={**{f"{name}.v": text for name, text in modules.items()}, "top.v": _top(modules)},
        options=("-CFLAGS", "-O1"),
    )


def _top(modules: Mapping[str, str]) -> str:
    """A module that instantiates every kernel and passes each of its streams out."""
    declarations = ["  input wire clk", "  input wire rst"]
    instances = []
    for name, text in modules.items():
        found = re.findall(r"^\s+((?:input|output) wire (?:\[\d+:0\] )?)(\w+),?$", text, re.M)
        pins = [(kind, pin) for kind, pin in found if pin not in ("clk", "rst")]
        declarations += [f"  {kind}{pin}" for kind, pin in pins]
        wiring = ", ".join(f".{pin}({pin})" for _, pin in pins)
        instances.append(f"  {name} {name}_kernel (.clk(clk), .rst(rst), {wiring});")
    return (
        "module kernels (\n"
        + ",\n".join(declarations)
        + "\n);\n"
        + "\n".join(instances)
        + "\nendmodule\n"
    )


def check_kernel(
    config: HardwareConfig,
    kernel: str,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    *,
    stall: float,
    seed: int,
    orders: Sequence[Order] = (),
) -> int:
    """Simulates a kernel's RTL and compares every word it sends.

    Args:
        config: the configuration whose kernels are built.
        kernel: name of the kernel under test.
        inputs: channel → words to send.
        outputs: channel → words expected; every output channel must be named.
        stall: probability that a stream stalls in a cycle; 0 for full speed.
        seed: of the stalls.
        orders: which words must not pass before which others.

    Returns:
        Cycles from the first input word taken to the last output word.

    Raises:
        SimulationError: a word differs, is missing, comes too early or is one too many.
    """
    with ScratchFolder() as scratch:
        task = Path(scratch, "task.pickle")
        task.write_bytes(pickle.dumps(KernelRun(kernel, inputs, outputs, stall, seed, orders)))
        env = {"VITESSERA_KERNEL_TASK": str(task)}
        verilator.run(
            kernels_design(config), "vitessera.sim.kernel_bench", Path(scratch, "run"), env
        )
        return int(Path(f"{task}.cycles").read_text(encoding="utf-8"))
