"""`vitessera report`: what a compiled model takes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitessera.codegen.boardfile import find_board
from vitessera.codegen.boards import Board
from vitessera.codegen.builddir import RESULT_FILE, Build, read_build
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import BuildDirectoryError, ConfigError
from vitessera.codegen.outputfile import OutputFile, check_outputs
from vitessera.codegen.progress import Step, tell
from vitessera.host.reading import MEBIBYTE, foreign, read_file, reading

from .foreign import add_foreign_rtl
from .stages import shown_stages
from .terminal import line_width

DESCRIPTION = """\
Configuration, memory plan, instructions, MACs and ideal cycles by layer; and the RTL's cycles by
layer, once 'vitessera simulate' has measured them.

With --resources Yosys synthesises the RTL and counts what it takes of the board's FPGA, by module.
The first time the large modules take minutes each; it says which one it is at, and how many are
left. With --timing it foretells the clock: the longest path from register to register of every
module, by a model of the part's delays, and the cells on the longest of all. Both need no vendor
tool: pip install 'vitessera[synth]'.
"""
EPILOG = """\
examples:
  vitessera report build/ --quantization
  vitessera report build/ --resources
  vitessera report build/ --timing --board zcu104
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "report",
        help="memory, instructions and cycles of a compiled model",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a build directory")
    parser.add_argument(
        "--quantization", action="store_true", help="the quantisation error of every layer, too"
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="draw what each unit did when, as measured by 'vitessera simulate': one lane a unit, "
        "coloured by layer, grey while it waited (.png, .svg or .pdf)",
    )
    parser.add_argument(
        "--resources",
        action="store_true",
        help="LUTs, flip-flops, block RAMs, UltraRAMs and DSPs by module, as Yosys counts them",
    )
    parser.add_argument(
        "--timing",
        action="store_true",
        help="the estimated clock, and the longest path of each module",
    )
    parser.add_argument(
        "--board",
        metavar="NAME",
        help="the board whose FPGA --resources and --timing are for (default: the build's)",
    )
    add_foreign_rtl(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    from vitessera.codegen.report import report

    synthesised = args.resources or args.timing
    if synthesised:
        from vitessera.codegen.synthesis import check_yosys

        check_yosys()  # before kernels are compiled to compare them
    build = read_build(args.directory, check_rtl=synthesised and not args.foreign_rtl)
    picture = None if args.timeline is None else OutputFile(args.timeline, "report --timeline")
    check_outputs(picture)
    board = chosen_board(build, args.board) if synthesised else None
    cycles = None
    try:
        cycles = measured_cycles(args.directory)
    except BuildDirectoryError as error:  # the rest of the report does not need it
        print(f"vitessera: {error}", file=sys.stderr)
    print(report(build.program, cycles).to_text(line_width()))
    if cycles is None:
        print(f"\nCycles by layer: run 'vitessera simulate {args.directory}' to measure them.")
    if args.quantization:
        print(f"\n{build.reports['quantization.txt']}")
    if picture is not None:
        draw_timeline(args.directory, build, picture)
    if board is not None and args.resources:
        print(f"\n{resources_text(build, board)}")
    if board is not None and args.timing:
        print(f"\n{timing_text(build, board)}")
    return 0


LARGEST_RESULT = 256 * MEBIBYTE  # of simulation.json, which holds every instruction's times


def draw_timeline(folder: Path, build: Build, picture: OutputFile) -> None:
    """Writes the picture of the last simulation's first image.

    Raises:
        BuildDirectoryError: there has been no simulation.
        OutputError: the picture cannot be written.
    """
    from vitessera.sim.trace import from_table

    from .timeline import draw

    with foreign(lambda _: no_simulation(folder)):
        result = json.loads(read_file(folder / RESULT_FILE, LARGEST_RESULT))
        intervals, cycles = from_table(result["timeline"]), int(result["counters"]["CYCLES"])
        if not intervals:
            raise ValueError("nothing was run")
    clock_mhz = build.fabric_mhz or build.config.clock_mhz
    title = (
        f"{build.model}, compiled for {build.config.board}, {build.config.macs} MACs a cycle: "
        f"{cycles:,} cycles, {cycles / clock_mhz / 1e3:.3f} ms at {clock_mhz:.6g} MHz"
    )
    draw(intervals, picture, title, clock_mhz)
    print(f"\nTimeline: {picture.path}")


def chosen_board(build: Build, name: str | None) -> Board:
    """The board called `name`, or the one that the build is for.

    Raises:
        ConfigError: there is no such board, or the build is for none.
    """
    if name is None and build.config.board == HardwareConfig.board:
        raise ConfigError(
            "The build is for no board, so that its FPGA is not known.", "Give one with --board."
        )
    return find_board(name or build.config.board)


def resources_text(build: Build, board: Board) -> str:
    """What the build's RTL takes of the board's FPGA; tells of its progress."""
    from vitessera.codegen.synthesis import ResourceReport, synthesise

    with shown_stages():
        modules = synthesise(build.rtl.files, board)
    return ResourceReport(modules, board, build.config).to_text(line_width())


def timing_text(build: Build, board: Board) -> str:
    """The clock that the build's RTL may reach on the board's FPGA; tells of its progress."""
    from vitessera.codegen.clock.report import clock_report
    from vitessera.codegen.synthesis import map_netlist

    with shown_stages():
        netlist = map_netlist(build.rtl.files, board)
        tell(Step("analyse timing"))
        report = clock_report(netlist, board, build.config.clock_mhz)
    return report.to_text(line_width())


def no_simulation(folder: Path) -> BuildDirectoryError:
    """The error when the last simulation's result is missing or damaged."""
    return BuildDirectoryError(
        f"{folder} holds no simulation to draw a timeline of.",
        f"Run 'vitessera simulate {folder}' first.",
    )


def measured_cycles(folder: Path) -> dict[str, int] | None:
    """Cycles by layer of the last simulation; None when there was none.

    Raises:
        BuildDirectoryError: its result is damaged.
    """
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    remedy = f"Run 'vitessera simulate {folder}' again, or remove the file."
    with reading(path, BuildDirectoryError, "not the result of a simulation", remedy):
        result = json.loads(read_file(path, LARGEST_RESULT))
        return {str(name): int(count) for name, count in result["layer_cycles"].items()}
