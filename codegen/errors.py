"""The exception tree of compiler and simulator. Every message names the culprit and the remedy.

Its root, and what the host shares with us, are in host/errors.py.

A command line entry point catches `VitesseraError` alone, prints it as one paragraph and exits
with code 2; any other exception is a bug in vitessera.
"""

from __future__ import annotations

from ..host.errors import BuildDirectoryError as BuildDirectoryError
from ..host.errors import ImageError as ImageError
from ..host.errors import VitesseraError as VitesseraError
from ..host.reading import reason


class ModelFileError(VitesseraError):
    """The model file is missing, unreadable or not ONNX."""


class UnsupportedModelError(VitesseraError):
    """The graph holds something that cannot be mapped; names the node."""


class ModelValueError(VitesseraError):
    """A weight holds NaN or infinity, or has an impossible shape."""


class HostBufferError(VitesseraError):
    """A buffer or matrix of another size or type than the program reads or writes."""


class ConfigError(VitesseraError):
    """An unknown board, a wrong board file, or a configuration that contradicts itself."""


class PreprocessingError(VitesseraError):
    """What is said about images and classes cannot be read, or does not fit the model."""


class CapacityError(VitesseraError):
    """The model does not fit the hardware configuration; names tensor, buffer and depth."""


class ProgramError(VitesseraError):
    """An instruction or program that the accelerator could not execute."""


class OutputError(VitesseraError):
    """The output folder cannot be written."""


class ToolError(VitesseraError):
    """A tool (HLS compiler, C++ compiler, make, simulator) is missing or failed."""


class SimulationError(VitesseraError):
    """The simulated RTL reported an error, broke a rule, or did not finish."""


class UnknownNameError(VitesseraError):
    """A table has no entry of that name; gives the names that it has."""


class MissingCaseError(VitesseraError):
    """An operator or instruction that one stage makes and the next does not know."""


class IllegalNetworkError(VitesseraError):
    """A stage made a network that breaks what its operators promise; a bug in vitessera."""


class InternalError(VitesseraError):
    """A bug in vitessera; its cause is an error that is not ours."""


def internal_error(doing: str, error: Exception) -> InternalError:
    """The error for an `error` that came while `doing`, and which nothing foresaw."""
    name, said = type(error).__name__, reason(error)
    if not said.startswith(name):
        said = f"{name}: {said}"
    return InternalError(
        f"{doing} failed ({said}). This is a bug in vitessera.",
        "Please report it, if you can with the file.",
    )


def missing_case(entry: object, stage: str) -> MissingCaseError:
    """The error for a class of node or instruction that `stage` has no case for."""
    return MissingCaseError(
        f"{stage} has no case for {type(entry).__name__}.",
        "Please report it; CONTRIBUTING.md lists what an operator or an instruction needs.",
    )
