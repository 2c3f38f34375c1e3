"""The root of the exception tree, and the errors of everything that runs beside the accelerator.

Every message names the culprit and the remedy. The compiler's and the simulator's errors
(codegen/errors.py) hang on the same root.
"""

from __future__ import annotations

from .text import printable


class VitesseraError(Exception):
    """Base of everything vitessera raises on purpose.

    Args:
        culprit: what is wrong and where (file, node, tensor, value).
        remedy: what the user can do about it.

    The text of an error may be shown as it is: what a terminal would obey is escaped in it.
    """

    def __init__(self, culprit: str, remedy: str) -> None:
        super().__init__(printable(f"{culprit} {remedy}", keep="\n\t"))
        self.culprit = culprit
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[VitesseraError], tuple[str, str]]:
        """Errors cross process boundaries: pickle by what the constructor takes."""
        return type(self), (self.culprit, self.remedy)


class ImageError(VitesseraError):
    """Images have the wrong shape, dtype or values, or their file cannot be read."""


class BuildDirectoryError(VitesseraError):
    """A build directory that is incomplete, altered, or written by another version."""


class BoardError(VitesseraError):
    """There is no board, or it cannot be used: wrong board, no root, in use, no memory."""


class OverlayError(VitesseraError):
    """What is loaded into the FPGA is not the accelerator that the program was compiled for."""


class RunTimeoutError(VitesseraError):
    """A run did not end in time; the message shows the accelerator's status."""


class AcceleratorError(VitesseraError):
    """The accelerator ended a run with an error; its subclasses are the codes in STATUS."""


class IllegalInstructionError(AcceleratorError):
    """DECODE: the program holds an instruction that the accelerator refuses."""


class DramReadError(AcceleratorError):
    """READ: DRAM refused a read."""


class DramWriteError(AcceleratorError):
    """WRITE: DRAM refused a write."""


class AbortedError(AcceleratorError):
    """ABORTED: a soft reset ended the run."""


class ArgumentRegisterError(AcceleratorError):
    """ARGUMENT: an address or the instruction count was not acceptable; nothing was run."""


class UnfinishedTrafficError(AcceleratorError):
    """UNFINISHED: the program ended before its DRAM traffic."""


# Names as in registers.json. START_WHILE_BUSY has none: the run it is about goes on.
ACCELERATOR_ERRORS: dict[str, type[AcceleratorError]] = {
    "DECODE": IllegalInstructionError,
    "READ": DramReadError,
    "WRITE": DramWriteError,
    "ABORTED": AbortedError,
    "ARGUMENT": ArgumentRegisterError,
    "UNFINISHED": UnfinishedTrafficError,
}
