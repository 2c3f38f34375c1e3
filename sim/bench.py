"""`make bench`: what the array reaches, in cycles of the RTL. Nothing here is an estimate.

Products run as one COMPUTE instruction of the whole accelerator with operands on chip; their share
of peak is counted from the first to the last pair of operand words. The digits image is counted
from start to done, with every unit's busy cycles beside it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ..codegen import pipeline, toplevel
from ..codegen.config import HardwareConfig
from ..codegen.program import pack_input
from ..codegen.reference import Reference
from ..codegen.schedule.product import product_patches, product_program
from ..host.imagesets import load_images
from .accelerator import simulate
from .verify import verify

OUTPUT = Path("build", "bench", "bench.json")
DIGITS = Path("examples", "digits")
# Rows, depth, columns: a small square, and the first MLP layer of DeiT-Tiny.
PRODUCTS = ((64, 64, 64), (197, 192, 768))
# 256 MACs; its memories hold the larger product's operands and result.
CONFIG = HardwareConfig()
PIPE_WIDTH = 140
UNITS = ("LOAD", "COMPUTE", "EPILOGUE", "SOFTMAX", "NORM", "STORE")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        model: product "rows x depth x columns", or the model's name.
        macs: of the accelerator, a cycle.
        ideal_cycles: true MACs over that.
        rtl_cycles: for a product from first to last compute cycle; for a model start to done.
        mac_peak_share: ideal over RTL cycles.
        bit_exact: the result equals the integer reference.
        busy: busy cycles by unit.
        dram_read_bytes, dram_written_bytes: of one run.
        sim_seconds: of simulation.
    """

    model: str
    macs: int
    ideal_cycles: float
    rtl_cycles: int
    mac_peak_share: float
    bit_exact: bool
    busy: dict[str, int]
    dram_read_bytes: int
    dram_written_bytes: int
    sim_seconds: float


def main() -> int:
    """Measures, prints, writes the JSON file; the exit code is 0 when all is bit-exact."""
    # In a file or pipe the table keeps its columns.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    rtl = toplevel.generate(CONFIG)
    rows = []
    for size in PRODUCTS:
        with console.status(f"product {_name(size)}"):
            rows.append(product(rtl, *size))
    with console.status("digits image"):
        rows.append(digits())
    console.print(table(rows))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    console.print(f"Written to {OUTPUT}.")
    return 0 if all(row.bit_exact for row in rows) else 1


def _name(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))


def product(rtl: toplevel.Rtl, rows: int, depth: int, columns: int) -> Row:
    """One int8 product of random operands."""
    program = product_program(CONFIG, rows, depth, columns)
    content = pack_input(program, product_patches(rows, depth))
    simulation = simulate(program, rtl, [content])
    (run,) = simulation.runs
    cycles = run.counters["COMPUTE_LAST"] - run.counters["COMPUTE_FIRST"] + 1
    exact = run.output == Reference(program).run_buffer(content)
    ideal = rows * depth * columns / CONFIG.macs
    name = _name((rows, depth, columns))
    return _row(name, CONFIG, ideal, cycles, exact, dict(run.counters), simulation.seconds)


def digits() -> Row:
    """One image of the digits example at the default configuration."""
    images = load_images(DIGITS / "digits.npz", ("calibration",)).images
    build = pipeline.compile_model(DIGITS / "vit_digits.onnx", CONFIG, images)
    outcome = verify(build, np.asarray(images[:1]))
    ideal = sum(layer.macs for layer in build.program.layers) / CONFIG.macs
    return _row(
        "vit_digits",
        CONFIG,
        ideal,
        outcome.cycles[0],
        outcome.bit_exact,
        outcome.counters[0],
        outcome.seconds,
    )


def _row(
    name: str,
    config: HardwareConfig,
    ideal: float,
    cycles: int,
    exact: bool,
    counters: dict[str, int],
    seconds: float,
) -> Row:
    beat_bytes = config.bus_bits // 8
    return Row(
        model=name,
        macs=config.macs,
        ideal_cycles=ideal,
        rtl_cycles=cycles,
        mac_peak_share=ideal / cycles,
        bit_exact=exact,
        busy={unit.lower(): counters[f"{unit}_BUSY"] for unit in UNITS},
        dram_read_bytes=counters["READ_BEATS"] * beat_bytes,
        dram_written_bytes=counters["WRITE_BEATS"] * beat_bytes,
        sim_seconds=seconds,
    )


def table(rows: list[Row]) -> Table:
    """The measurements for people."""
    shown = Table(title="RTL cycles", title_justify="left")
    headings = ("", "MACs", "ideal", "RTL", "of peak", "bit-exact")
    for heading in (*headings, *(f"{unit.lower()} busy" for unit in UNITS)):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for row in rows:
        shown.add_row(
            row.model,
            str(row.macs),
            f"{row.ideal_cycles:,.0f}",
            f"{row.rtl_cycles:,}",
            f"{row.mac_peak_share:.1%}",
            "yes" if row.bit_exact else "NO",
            *(f"{row.busy[unit.lower()]:,}" for unit in UNITS),
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
