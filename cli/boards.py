"""`vitessera boards`: the boards, and the accelerator that is built for each."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text
from vitessera.codegen.boardfile import EXAMPLE, find_board
from vitessera.codegen.boards import BOARDS, GIBIBYTE, Board
from vitessera.codegen.builddir import read_accelerator
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.sizing import fits
from vitessera.codegen.vivado import check_board
from vitessera.host.text import printable

from .compile import Stages
from .inspect import add_import_options
from .terminal import console

if TYPE_CHECKING:
    from vitessera.codegen.quantgraph import QuantGraph

DESCRIPTION = """\
Lists the boards: what the part has, what its DDR can do, and the accelerator that
'vitessera compile --board NAME' generates: engine, multiply-accumulates a cycle, clock, on-chip
memory. With names or files of boards, those alone; so a board file of your own is checked.

With --model, the accelerator for the model on each board, which is what 'vitessera compile' will
build: engine, predicted images a second, predicted shares of the part. That is the board's standard
one of the list above, unless the fastest one that fits is faster by more than 5 %, so that several
models run on one bitstream.

With --builds, which boards the accelerators of build directories fit, and which builds run on the
same bitstream.
"""
EPILOG = f"""\
examples:
  vitessera boards
  vitessera boards my-board.toml
  vitessera boards --model vit.onnx
  vitessera boards --builds build/ deit/
  vitessera compile vit.onnx -o build/ --board my-board.toml

A board that is not listed needs a Zynq-7000 or Zynq UltraScale+ and a TOML file such as
my-board.toml, which holds:

{textwrap.indent(EXAMPLE, "  ")}
It is called as its file is. In the current folder '--board my-board' finds it too. board_part,
device_names and [processor_properties] may be left out, but Vivado must learn of the DDR from the
first or the last. docs/boards.md explains every field.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "boards",
        help="list the boards and the accelerator for each",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "boards",
        nargs="*",
        metavar="NAME|FILE.toml",
        help="boards to show (default: all that vitessera knows)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL.onnx",
        help="the accelerator for this model on each board; takes some seconds a board",
    )
    add_import_options(parser)
    parser.add_argument(
        "--builds",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="which boards the accelerators of these build directories fit",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table.

    Raises:
        ConfigError: a board is not known, its file is wrong, or it cannot make its clock.
    """
    boards = [find_board(name) for name in args.boards] or list(BOARDS.values())
    for board in boards:
        check_board(board.config, board)
    if args.builds is not None:
        console().print(_builds(args.builds, boards))
    else:
        console().print(_table(boards) if args.model is None else _picks(args, boards))
    return 0


def _builds(folders: list[Path], boards: list[Board]) -> Table:
    """Which of `boards` each build's accelerator fits; equal designs run on one bitstream."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("build", "engine", "clock", "bitstream", "fits"):
        table.add_column(heading, overflow="fold")
    for folder in folders:
        config, design_hash = read_accelerator(folder)
        fitting = ", ".join(board.name for board in boards if fits(config, board))
        engine = f"{config.tile}x{config.tile}x{config.depth}"
        cells = (
            folder,
            engine,
            f"{config.clock_mhz} MHz",
            f"{design_hash:016x}",
            fitting or "none",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _picks(args: argparse.Namespace, boards: list[Board]) -> Table:
    """The accelerator for --model on each board."""
    from vitessera.codegen.importer import import_confined
    from vitessera.codegen.quantize import default_calibration, quantize

    stages = Stages()
    stages.start("import and quantise")
    graph = import_confined(args.model, args.results, args.shape)
    quantized = quantize(graph, default_calibration(graph, count=2))  # sizes are all that matters
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("board", "engine", "MACs", "clock", "images/s", "LUT", "BRAM36", "URAM", "DSP"):
        table.add_column(heading, justify="left" if heading == "board" else "right")
    for board in boards:
        stages.start(board.name)
        table.add_row(board.name, *_pick(quantized, board))
    stages.finish()
    return table


def _pick(graph: QuantGraph, board: Board) -> Iterator[str]:
    from vitessera.codegen.sizing import pick

    try:
        chosen = pick(graph, board)
    except CapacityError:
        yield "does not fit"
        return
    config, shares = chosen.config, chosen.shares()
    yield f"{config.tile}x{config.tile}x{config.depth}"
    yield f"{config.macs:,}"
    yield f"{config.clock_mhz} MHz"
    yield f"{chosen.images_per_second:,.1f}"
    for kind in ("luts", "bram36", "uram", "dsp"):
        yield f"{shares[kind]:.0%}" if kind in shares else ""


def _table(boards: list[Board]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("board", "part"):
        table.add_column(heading, overflow="fold")
    for heading in ("DSP", "LUT", "BRAM36", "URAM", "DDR", "engine", "MACs", "clock", "on chip"):
        table.add_column(heading, overflow="fold", justify="right")
    for board in boards:
        table.add_row(*_row(board))
    return table


def _row(board: Board) -> tuple[str, ...]:
    resources, config = board.resources, board.config
    return (
        board.name,
        board.part,
        f"{resources.dsp:,}",
        f"{resources.luts:,}",
        f"{resources.bram36:,}",
        f"{resources.uram:,}",
        f"{board.ddr_bytes / GIBIBYTE:g} GiB, {board.ddr_bytes_per_second / 1e9:.1f} GB/s",
        f"{config.tile}x{config.tile}x{config.depth}",
        f"{config.macs:,}",
        f"{config.clock_mhz} MHz",
        f"{config.on_chip_bytes / 1024:,.0f} KiB",
    )
