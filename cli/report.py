"""`vitessera report`: what a compiled model takes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitessera.codegen.builddir import RESULT_FILE, Build, read_build
from vitessera.codegen.lookup import by_name
from vitessera.codegen.parts import PARTS, Part, board_part

DESCRIPTION = """\
Configuration, memory plan, instructions, MACs and ideal cycles by layer; and the RTL's cycles by
layer, once 'vitessera simulate' has measured them.

With --resources Yosys synthesises the RTL and counts what it takes of the board's FPGA, by module:
some minutes the first time. It needs no vendor tool: pip install 'vitessera[synth]'.
"""
EPILOG = """\
examples:
  vitessera report build/ --quantization
  vitessera report build/ --resources
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
        "--resources",
        action="store_true",
        help="LUTs, flip-flops, block RAMs, UltraRAMs and DSPs by module, as Yosys counts them",
    )
    parser.add_argument(
        "--part",
        choices=tuple(PARTS),
        help="the FPGA that --resources counts for (default: the board's)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    from vitessera.codegen.report import report

    build = read_build(args.directory)
    part = chosen_part(build, args.part) if args.resources else None
    cycles = measured_cycles(args.directory)
    print(report(build.program, cycles).to_text())
    if cycles is None:
        print(f"\nCycles by layer: run 'vitessera simulate {args.directory}' to measure them.")
    if args.quantization:
        print(f"\n{build.reports['quantization.txt']}")
    if part is not None:
        print(f"\n{resources_text(build, part)}")
    return 0


def chosen_part(build: Build, name: str | None) -> Part:
    """The part called `name`, or that of the board that the build is for.

    Raises:
        ConfigError: neither says which.
    """
    if name is not None:
        return by_name(PARTS.values(), name, "part")
    return board_part(build.config.board)


def resources_text(build: Build, part: Part) -> str:
    """What the build's RTL takes of `part`; says on standard error what is being synthesised."""
    from vitessera.codegen.synthesis import resource_report, synthesise

    def started(name: str) -> None:
        print(f"  synthesising {name}", file=sys.stderr)

    modules = synthesise(build.rtl.files, part, started)
    return resource_report(modules, part, build.config).to_text()


def measured_cycles(folder: Path) -> dict[str, int] | None:
    """Cycles by layer of the last simulation, if there was one."""
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        return {str(name): int(count) for name, count in result["layer_cycles"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
