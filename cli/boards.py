"""`vitessera boards`: the boards, and the accelerator that is built for each."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from vitessera.codegen.boardfile import EXAMPLE, find_board
from vitessera.codegen.boards import BOARDS, GIBIBYTE, Board
from vitessera.codegen.builddir import read_accelerator
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError, ConfigError
from vitessera.codegen.sizing import fits
from vitessera.codegen.tables import Column, grouped, text_table
from vitessera.codegen.vivado import check_board

from .inspect import add_import_options, add_split
from .stages import Stages
from .terminal import line_width

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
It is called as its file is. In the current folder '--board my-board' finds it too. device_names
may be left out, and so may one of board_part and [processor_properties]: Vivado takes the settings
of the DDR from the other. docs/boards.md explains every field.
"""

KINDS = ("luts", "bram36", "uram", "dsp")  # of Resources
BOARD, ENGINE = Column("board", words=True), Column("engine", words=True)
CLOCKED = (ENGINE, Column("MACs a cycle"), Column("clock MHz"))
PARTS = (
    *(BOARD, Column("part", words=True)),
    *map(Column, ("LUTs", "BRAM36", "URAM", "DSPs", "DDR GiB", "DDR GB/s")),
)
ACCELERATORS = (BOARD, *CLOCKED, Column("on chip KiB"))
BUILDS = (
    *(Column("build", words=True), *CLOCKED),
    *(Column("bitstream", words=True), Column("fits", words=True)),
)
PICKS = (
    *(BOARD, *CLOCKED),
    *map(Column, ("images a second", "LUTs %", "BRAM36 %", "URAM %", "DSPs %")),
)


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
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--model",
        type=Path,
        metavar="MODEL.onnx",
        help="the accelerator for this model on each board; takes some seconds a board",
    )
    add_import_options(parser)
    add_split(parser)
    asked.add_argument(
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
        ConfigError: a board is not known, its file is wrong, or it cannot make its clock; options
            that need another one.
    """
    if args.model is None and (args.results or args.shape or args.split):
        raise ConfigError(
            "--results, --shape and --split say how --model is read, and there is none.",
            "Give --model MODEL.onnx, or leave them out.",
        )
    boards = [find_board(name) for name in args.boards] or list(BOARDS.values())
    for board in boards:
        check_board(board.config, board)
    if args.builds is not None:
        print(_builds(args.builds, boards))
    else:
        print(_tables(boards) if args.model is None else _picks(args, boards))
    return 0


def _builds(folders: list[Path], boards: list[Board]) -> str:
    """Which of `boards` each build's accelerator fits; equal designs run on one bitstream."""
    rows = []
    for folder in folders:
        built = read_accelerator(folder)
        config = built.config
        fitting = ", ".join(board.name for board in boards if fits(config, board)) or "none"
        rows.append((folder, *_engine(config), f"{built.design_hash:016x}", fitting))
    return text_table(BUILDS, rows, line_width())


def _picks(args: argparse.Namespace, boards: list[Board]) -> str:
    """The accelerator for --model on each board."""
    from vitessera.codegen.importer import graph_of, inspect_confined
    from vitessera.codegen.quantize import default_calibration, quantize

    stages = Stages()
    stages.start("import and quantise")
    graph = graph_of(inspect_confined(args.model, args.results, split=args.split, shape=args.shape))
    quantized = quantize(graph, default_calibration(graph, count=2))  # sizes are all that matters
    rows = []
    for board in boards:
        stages.start(board.name)
        rows.append((board.name, *_pick(quantized, board)))
    stages.finish()
    return text_table(PICKS, rows, line_width())


def _pick(graph: QuantGraph, board: Board) -> tuple[str, ...]:
    from vitessera.codegen.sizing import pick

    try:
        chosen = pick(graph, board)
    except CapacityError:
        return ("does not fit", *("" for _ in PICKS[2:]))
    config, shares = chosen.config, chosen.shares()
    return (
        *_engine(config),
        f"{chosen.images_per_second:,.1f}",
        *(f"{100 * shares[kind]:.0f}" if kind in shares else "" for kind in KINDS),
    )


def _tables(boards: list[Board]) -> str:
    """What the boards have, and the accelerator for each."""
    parts = text_table(PARTS, [_part(board) for board in boards], line_width())
    rows = [(board.name, *_engine(board.config), _on_chip(board.config)) for board in boards]
    return f"{parts}\n\n{text_table(ACCELERATORS, rows, line_width())}"


def _part(board: Board) -> tuple[str, ...]:
    resources = board.resources
    return (
        board.name,
        board.part,
        *(grouped(getattr(resources, kind)) for kind in KINDS),
        f"{board.ddr_bytes / GIBIBYTE:g}",
        f"{board.ddr_bytes_per_second / 1e9:.1f}",
    )


def _engine(config: HardwareConfig) -> tuple[str, ...]:
    engine = f"{config.tile}x{config.tile}x{config.depth}"
    return engine, f"{config.macs:,}", f"{config.clock_mhz}"


def _on_chip(config: HardwareConfig) -> str:
    return f"{config.on_chip_bytes / 1024:,.0f}"
