"""Measurements. Each row is one image, or one product, on the RTL of the whole accelerator.

Products run as one COMPUTE instruction with operands on chip; they are counted from the first to
the last pair of operand words. Networks are counted from start to done: weight loading, LayerNorm,
softmax, padding and head included. They go the user's way: ONNX file, `vitessera compile` in a
process of its own and with an empty cache, build directory, simulation.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...codegen import toplevel
from ...codegen.builddir import Build, read_build
from ...codegen.cache import CACHE_VARIABLE
from ...codegen.config import HardwareConfig
from ...codegen.errors import ToolError
from ...codegen.program import pack_input
from ...codegen.reference import Reference
from ...codegen.schedule.product import product_patches, product_program
from ...codegen.schedule.timing import estimate
from ...codegen.scratch import ScratchFolder
from ..accelerator import DramTiming, simulate
from ..verify import verify

UNITS = ("LOAD", "COMPUTE", "EPILOGUE", "SOFTMAX", "NORM", "STORE")
# Half of the port's bandwidth, and what a busy memory answers after.
SLOW_DRAM = DramTiming(read_latency=100, write_latency=100, beats_per_16=8)


@dataclass(frozen=True)
class Configuration:
    """What is measured on.

    Attributes:
        name: for people and as a file name.
        hardware: the accelerator.
        timing: of its DRAM.
    """

    name: str
    hardware: HardwareConfig
    timing: DramTiming = field(default_factory=DramTiming)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        model: product "rows x depth x columns", or the model's name.
        configuration: see Configuration.
        macs: of the accelerator, a cycle.
        network_macs: multiplications of the network, nothing padded and nothing that its outputs
            do not depend on.
        ideal_cycles: those over `macs`.
        rtl_cycles: for a product from first to last compute cycle; for a model start to done.
        predicted_cycles: by schedule/timing.py; 0 for a product, and where the DRAM is slow.
        mac_peak_share: ideal over RTL cycles.
        bit_exact: the result equals the integer reference.
        busy_cycles: by unit.
        waiting_cycles: of the engine, by cause; with its busy cycles they make `rtl_cycles`. Empty
            for a product.
        dram_read_bytes, dram_written_bytes: of one run.
        on_chip_bytes: of the accelerator's memories.
        sim_seconds: of simulation, building the simulator excluded.
        compile_seconds: from ONNX file to build directory, kernels compiled anew; 0 for a product.
        compile_peak_bytes: most memory that took; 0 for a product.
    """

    model: str
    configuration: str
    macs: int
    network_macs: int
    ideal_cycles: float
    rtl_cycles: int
    mac_peak_share: float
    bit_exact: bool
    busy_cycles: dict[str, int]
    waiting_cycles: dict[str, int]
    dram_read_bytes: int
    dram_written_bytes: int
    on_chip_bytes: int
    sim_seconds: float
    predicted_cycles: int = 0
    compile_seconds: float = 0.0
    compile_peak_bytes: int = 0

    @property
    def prediction_error(self) -> float:
        """Of the cycles, as a share; 0 where nothing was predicted."""
        predicted = self.predicted_cycles
        return abs(predicted - self.rtl_cycles) / self.rtl_cycles if predicted else 0.0


def product(configuration: Configuration, size: tuple[int, int, int]) -> Row:
    """One int8 product of random operands, [rows, depth] times [depth, columns]."""
    hardware = configuration.hardware
    rows, depth, columns = size
    program = product_program(hardware, rows, depth, columns)
    content = pack_input(program, product_patches(rows, depth))
    rtl = toplevel.generate(hardware)
    simulation = simulate(program, rtl, [content], timing=configuration.timing)
    (run,) = simulation.runs
    macs = rows * depth * columns
    cycles = run.counters["COMPUTE_LAST"] - run.counters["COMPUTE_FIRST"] + 1
    return Row(
        model="x".join(map(str, size)),
        configuration=configuration.name,
        macs=hardware.macs,
        network_macs=macs,
        ideal_cycles=macs / hardware.macs,
        rtl_cycles=cycles,
        mac_peak_share=macs / hardware.macs / cycles,
        bit_exact=run.output == Reference(program).run_buffer(content),
        busy_cycles=_busy(run.counters),
        waiting_cycles={},
        dram_read_bytes=run.counters["READ_BEATS"] * hardware.bus_bits // 8,
        dram_written_bytes=run.counters["WRITE_BEATS"] * hardware.bus_bits // 8,
        on_chip_bytes=hardware.on_chip_bytes,
        sim_seconds=simulation.seconds,
    )


def network(configuration: Configuration, model: Path, calibration: Path) -> Row:
    """One image of the network in an ONNX file.

    Args:
        configuration: what to measure on.
        model: the ONNX file.
        calibration: a .npz file of images; the first is also what is run.
    """
    hardware = configuration.hardware
    with ScratchFolder() as scratch:
        folder = Path(scratch, "build")
        seconds, peak = _compile(model, calibration, hardware, folder)
        build = read_build(folder, check_rtl=False)  # we have just compiled it
    outcome = verify(build, np.asarray(build.images[:1]), timing=configuration.timing)
    macs = sum(layer.macs for layer in build.program.layers)
    counters, (cycles,) = outcome.counters[0], outcome.cycles
    return Row(
        model=model.stem,
        configuration=configuration.name,
        macs=hardware.macs,
        network_macs=macs,
        ideal_cycles=macs / hardware.macs,
        rtl_cycles=cycles,
        mac_peak_share=macs / hardware.macs / cycles,
        bit_exact=outcome.bit_exact,
        busy_cycles=_busy(counters),
        waiting_cycles=outcome.waiting,
        dram_read_bytes=counters["READ_BEATS"] * hardware.bus_bits // 8,
        dram_written_bytes=counters["WRITE_BEATS"] * hardware.bus_bits // 8,
        on_chip_bytes=hardware.on_chip_bytes,
        sim_seconds=outcome.seconds,
        predicted_cycles=_predicted(build, configuration),
        compile_seconds=seconds,
        compile_peak_bytes=peak,
    )


def _predicted(build: Build, configuration: Configuration) -> int:
    usual = configuration.timing == DramTiming()
    return estimate(build.program).cycles if usual else 0


def _busy(counters: Mapping[str, int]) -> dict[str, int]:
    return {unit.lower(): counters[f"{unit}_BUSY"] for unit in UNITS}


def _compile(
    model: Path, calibration: Path, hardware: HardwareConfig, folder: Path
) -> tuple[float, int]:
    """Runs `vitessera compile`; seconds and peak memory in bytes."""
    config = folder.with_name("config.json")
    config.write_text(hardware.to_json(), encoding="utf-8")
    arguments = [model, "-o", folder, "--calibration", calibration, "--config", config]
    started = time.monotonic()
    with ScratchFolder() as cache:
        process = subprocess.Popen(
            [sys.executable, "-m", "vitessera.cli.main", "compile", *map(str, arguments)],
            env=os.environ | {CACHE_VARIABLE: str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ToolError(f"Compiling {model} failed:\n{printed}", "See the message above.")
    return time.monotonic() - started, _peak_bytes(usage)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024  # Linux counts it in KiB
