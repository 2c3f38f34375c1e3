"""The option for RTL that is not ours."""

from __future__ import annotations

import argparse


def add_foreign_rtl(parser: argparse.ArgumentParser) -> None:
    """Adds --foreign-rtl to a command that builds from a build directory's RTL."""
    parser.add_argument(
        "--foreign-rtl",
        action="store_true",
        help="take the hardware in DIR as it is, even if it is not what this vitessera generates; "
        "RTL can run programs on this machine, so only where you trust its source",
    )
