"""`vitessera package`: what a board needs, in one archive."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from .foreign import add_foreign_rtl

DESCRIPTION = """\
Packs what a board needs of a build directory into one archive: program, weights, tables, bitstream
if there is one, and vitessera itself as a wheel, so that the board needs no internet.

The RTL stays behind: what is unpacked runs on a board and cannot be simulated.
"""
EPILOG = """\
examples:
  vitessera package build/
  vitessera package build/ -o digits.tar.gz
  vitessera package other/ --without-bitstream     (another model for a bitstream already there)
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "package",
        help="what a board needs, in one archive",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a build directory")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.tar.gz",
        help="the archive; by default named after model and board, in the current folder",
    )
    parser.add_argument("--without-bitstream", action="store_true", help="leave the bitstream out")
    add_foreign_rtl(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Packs and says how to go on.

    Raises:
        VitesseraError: the build directory is damaged, or the archive cannot be written.
    """
    from vitessera.codegen.package import write_package

    package = write_package(
        args.directory,
        args.output,
        not args.without_bitstream,
        check_rtl=not args.foreign_rtl,
    )
    if not package.bitstream and not args.without_bitstream:
        print(missing_bitstream(args.directory, package.for_board), file=sys.stderr)
    size = package.path.stat().st_size
    print(f"Written to {package.path} ({size / 1024:,.0f} KiB).")
    print(steps(package.path, package.folder, package.wheel))
    return 0


def missing_bitstream(directory: Path, for_board: bool) -> str:
    """What to do about it."""
    if not for_board:
        return (
            f"vitessera: {directory} was compiled for no board, so vitessera makes no bitstream "
            "for it, and the package has none."
        )
    return (
        f"vitessera: {directory} holds no bitstream yet, and the package has none: run "
        f"'make -C {shlex.quote(str(directory / 'vivado'))} bitstream' on a machine with Vivado, "
        "then package again."
    )


def steps(archive: Path, folder: str, wheel: str) -> str:
    """How to go on, for people."""
    root = "sudo -E env PATH=$PATH"
    place = shlex.quote(folder)
    return "\n".join(
        (
            "On to the board, USER@BOARD:",
            f"  scp {shlex.quote(str(archive))} USER@BOARD:",
            "and there:",
            f"  tar xzf {shlex.quote(archive.name)}",
            f"  {root} pip install --no-deps --force-reinstall {shlex.quote(f'{folder}/{wheel}')}",
            f"  {root} vitessera run {place} {shlex.quote(f'{folder}/images.npz')}",
        )
    )
