"""Which rows are measured, the table, build/bench/bench.json.

python -m vitessera.sim.benchmark [--full]        (or: make bench, make bench-full)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ...codegen.config import HardwareConfig
from ...codegen.errors import VitesseraError
from . import models
from .rows import SLOW_DRAM, UNITS, Configuration, Row, network, product

OUTPUT = Path("build", "bench", "bench.json")
DIGITS = Path("examples", "digits")
# Rows, depth, columns: a small square, and the first MLP layer of DeiT-Tiny.
PRODUCTS = ((64, 64, 64), (197, 192, 768))
# On chip must fit: the larger product's operands and result, and all of DeiT-Tiny's tokens.
MACS_256 = HardwareConfig(
    lanes=4,
    left_words=8192,
    probability_words=128,
    residual_words=40960,
    norm_words=512,
    norm_buffer_words=1024,
)
MACS_1024 = HardwareConfig(
    tile=16,
    lanes=16,
    bus_bits=128,
    left_words=16384,
    right_words=16384,
    probability_words=512,
    residual_words=20480,
    norm_words=512,
    norm_buffer_words=1024,
    clock_mhz=187,
)
SMALL = Configuration("256 MACs, 64 bit", MACS_256)
LARGE = Configuration("1024 MACs, 128 bit", MACS_1024)
PIPE_WIDTH = 160
LAST = ("DRAM MB", "compile", "simulate")
PREDICTION_ERROR = 0.05  # at most; sizing relies on it

Plan = tuple[str, Configuration]  # model, and what it is measured on
QUICK: tuple[Plan, ...] = (("vit_digits", SMALL), ("deit_tiny", SMALL), ("deit_tiny", LARGE))
FULL: tuple[Plan, ...] = (
    ("deit_tiny", replace(SMALL, name=f"{SMALL.name}, slow DRAM", timing=SLOW_DRAM)),
    ("deit_tiny", replace(LARGE, name=f"{LARGE.name}, slow DRAM", timing=SLOW_DRAM)),
    ("deit_small", LARGE),
    ("vit_base", LARGE),
)


def main() -> int:
    """Measures, prints, writes the JSON file.

    The exit code is 0 when all is bit-exact and the predictions are close.
    """
    parser = argparse.ArgumentParser(prog="python -m vitessera.sim.benchmark")
    parser.add_argument("--full", action="store_true", help="the larger networks, too (an hour)")
    args = parser.parse_args()
    # In a file or pipe the table keeps its columns.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    rows: list[Row] = []
    try:
        for row in measurements(console, args.full):
            rows.append(row)
            save(rows)
    except VitesseraError as error:
        console.print(f"vitessera: error: {error}", markup=False, highlight=False)
        return 2
    console.print(table(rows))
    console.print(busy(rows))
    console.print(waiting(rows))
    console.print(f"Written to {OUTPUT}.")
    close = all(row.prediction_error <= PREDICTION_ERROR for row in rows)
    return 0 if close and all(row.bit_exact for row in rows) else 1


def measurements(console: Console, full: bool) -> Iterator[Row]:
    """All rows, as they are measured."""
    for configuration in (SMALL, LARGE):
        slow = replace(configuration, name=f"{configuration.name}, slow DRAM", timing=SLOW_DRAM)
        for each in (configuration, slow):
            for size in PRODUCTS:
                with console.status(f"product {'x'.join(map(str, size))} on {each.name}"):
                    yield product(each, size)
    for name, configuration in QUICK + (FULL if full else ()):
        with console.status(f"{name} on {configuration.name}"):
            yield network(configuration, *inputs(name))


def inputs(name: str) -> tuple[Path, Path]:
    """ONNX file and calibration images of a model; exported when it is not there yet."""
    if name == "vit_digits":
        return DIGITS / "vit_digits.onnx", DIGITS / "digits.npz"
    model, images = (OUTPUT.with_name(f"{name}.{suffix}") for suffix in ("onnx", "npz"))
    if not model.is_file():
        models.export(name, model)
    np.savez(images, images=models.calibration(name))
    return model, images


def save(rows: list[Row]) -> None:
    """Writes what has been measured so far."""
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def table(rows: list[Row]) -> Table:
    """The measurements for people."""
    shown = _table("RTL cycles", "ideal", "RTL", "predicted", "of peak", "exact", *LAST)
    for row in rows:
        megabytes = (row.dram_read_bytes + row.dram_written_bytes) / 1e6
        shown.add_row(
            row.model,
            row.configuration,
            f"{row.ideal_cycles:,.0f}",
            f"{row.rtl_cycles:,}",
            f"{row.predicted_cycles:,}" if row.predicted_cycles else "",
            f"{row.mac_peak_share:.1%}",
            "yes" if row.bit_exact else "NO",
            f"{megabytes:.2f}",
            f"{row.compile_seconds:.0f} s" if row.compile_seconds else "",
            f"{row.sim_seconds:.0f} s",
        )
    return shown


def busy(rows: list[Row]) -> Table:
    """Of the networks' cycles, those in which each unit was busy."""
    shown = _table("Busy", *(unit.lower() for unit in UNITS))
    for row in _networks(rows):
        shares = (row.busy_cycles[unit.lower()] / row.rtl_cycles for unit in UNITS)
        shown.add_row(row.model, row.configuration, *(f"{share:.0%}" for share in shares))
    return shown


def waiting(rows: list[Row]) -> Table:
    """What the engine waited for, in cycles."""
    causes = list(dict.fromkeys(cause for row in rows for cause in row.waiting_cycles))
    shown = _table("Cycles in which the engine waited", *causes)
    for row in _networks(rows):
        counts = (f"{row.waiting_cycles.get(cause, 0):,}" for cause in causes)
        shown.add_row(row.model, row.configuration, *counts)
    return shown


def _networks(rows: list[Row]) -> Iterator[Row]:
    return (row for row in rows if row.waiting_cycles)


def _table(title: str, *numbers: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for heading in ("", "on"):
        shown.add_column(heading, no_wrap=True)
    for heading in numbers:
        shown.add_column(heading, justify="right")
    return shown


if __name__ == "__main__":
    sys.exit(main())
