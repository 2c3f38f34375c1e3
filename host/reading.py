"""The one place where what libraries raise over a file becomes an error of ours.

No list says what a parser may stumble over when a file is damaged, or was made to trip it: that
list always missed a member. Whatever is not ours counts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import VitesseraError
from .text import printable

MEBIBYTE = 1 << 20
LONGEST_REASON = 300  # characters of a library's message that are shown

# What the machine lacks, whatever the file.
SYSTEM_REMEDIES = {
    errno.EMFILE: "No process may open that many files: raise the limit ('ulimit -n 1024').",
    errno.ENFILE: "The machine has no room for more open files: close other programs.",
    errno.ENOSPC: "The disk is full: make room on it.",
    errno.EDQUOT: "Your share of the disk is used up: make room on it.",
    errno.ENOMEM: "Memory ran out: close other programs.",
}


@contextmanager
def foreign(
    make: Callable[[Exception], VitesseraError], let: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Raises `make(error)` for any error that is not ours.

    Args:
        make: the error of ours.
        let: what stays what it is, besides a missing package.
    """
    passing: tuple[type[Exception], ...] = (VitesseraError, ImportError, *let)
    try:
        yield
    except passing:
        raise
    except Exception as error:
        raise make(error) from error


@contextmanager
def reading(
    path: Path | str,
    kind: type[VitesseraError],
    what: str,
    remedy: str,
    absent: str | None = None,
    let: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Raises an error of ours, which names `path`, for whatever goes wrong while it is read.

    Args:
        path: the file.
        kind: class of the error.
        what: what is wrong with a file that cannot be understood, such as "not valid TOML".
        remedy: what to do about that.
        absent: what to do when the system does not give the file; None for the same.
        let: errors that stay what they are.
    """

    def error_of(error: Exception) -> VitesseraError:
        if isinstance(error, OSError):
            culprit = f"{printable(path)}: cannot be read ({error.strerror or reason(error)})."
            return kind(culprit, SYSTEM_REMEDIES.get(error.errno or 0, absent or remedy))
        return kind(f"{printable(path)}: {what} ({reason(error)}).", remedy)

    with foreign(error_of, let):
        yield


def open_file(path: Path) -> IO[bytes]:
    """A regular file, to be read; a pipe or a device could keep us waiting, or never end.

    Raises:
        OSError: it is no regular file, or the system does not give it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return open(descriptor, "rb")  # noqa: PTH123 (a descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError("it is no regular file")


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it is no regular file, is larger, or the system does not give it.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(f"it has {size:,} bytes, {most:,} are read at most")
        return file.read(most)


def reason(error: BaseException) -> str:
    """What a library's error says, on one line; its class, too, where the text needs it."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    text = printable(" ".join(str(error).split())).rstrip(".")
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} ..."
    if isinstance(error, (ValueError, OSError, VitesseraError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
