"""Writing where a user wants it: nobody else's file is lost, and none is half-written.

A path is resolved once, what is there is looked at, and that very place is written: in a scratch
folder beside it first, from where one rename puts the result in place.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import OutputError
from .scratch import ScratchFolder

# Bytes at the start and at the end of a file in which its mark stands.
MARK_WINDOW = 4096
STANDARD_STREAMS = (1, 2)


def resolved(path: Path) -> Path:
    """The place that `path` leads to: absolute, free of links and of `..`."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for links in a circle


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A scratch folder in `folder`, so that what is made there is put in place by one rename."""
    with ScratchFolder(folder) as scratch:
        yield scratch


def is_there(path: Path) -> bool:
    """Whether there is anything, a broken link for instance; OSError if that cannot be said."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def is_regular(path: Path) -> bool:
    """Whether a file is there, and is no link, folder, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


@dataclass(frozen=True)
class OutputFile:
    """A file that a command writes. It replaces one that the same command wrote, and no other.

    Attributes:
        path: as the user gave it; messages name it.
        writer: the command, and the option that `path` was given with, if it was.
        signature: what only such files hold; None for `mark`, which their writer puts in.
    """

    path: Path
    writer: str
    signature: bytes | None = None

    @property
    def mark(self) -> str:
        """What the file holds, near its start or its end, to be known again."""
        return f"[vitessera {self.writer}]"

    def check(self) -> None:
        """Raises OutputError unless the file can be written; to be asked before long work."""
        with self.refusals():
            place = self._free_place()
            with staging(place.parent):
                pass

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Gives a path to write to; what is there in the end takes the file's place.

        Raises:
            OutputError: something else is in its place, or it cannot be written.
        """
        with self.refusals():
            place = self._free_place()
            with staging(place.parent) as scratch:
                staged = scratch / self.path.name
                yield staged
                staged.replace(place)

    def is_ours(self, place: Path) -> bool:
        """Whether the same command wrote the file at `place`."""
        if not is_regular(place):
            return False
        with place.open("rb") as file:
            start = file.read(MARK_WINDOW)
            file.seek(max(0, place.stat().st_size - MARK_WINDOW))
            end = file.read()
        return any((self.signature or self.mark.encode()) in part for part in (start, end))

    def _free_place(self) -> Path:
        """Where `path` leads to; OutputError if what is there must stay."""
        self.path.parent.stat()  # `missing/..` is no folder, whatever it is resolved to
        place = resolved(self.path)
        if not is_there(place):
            return place
        if not is_regular(place):
            kind = "a folder" if place.is_dir() else "no regular file"
            raise OutputError(f"{self.path} is {kind}.", self._remedy("Give"))
        if place.stat().st_size and not self.is_ours(place):
            raise OutputError(
                f"{self.path} is there already, and 'vitessera {self.writer}' did not write it.",
                self._remedy("Move it away, or give"),
            )
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return place

    def _remedy(self, give: str) -> str:
        _, _, option = self.writer.partition(" ")
        return f"{give} another path with {option}." if option else "Move it away."

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turns what the file system refuses into OutputError."""
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror or error}).",
                "Give a path on a disk with space, in a writable folder.",
            ) from error


@dataclass(frozen=True)
class JsonFile(OutputFile):
    """A JSON file; may also be a pipe or a device, such as /dev/stdout."""

    def check(self) -> None:
        """As OutputFile.check; a pipe is not opened before there is something to write."""
        if not is_stream(self.path):
            super().check()

    def write(self, value: Mapping[str, object]) -> None:
        """Writes `value`; OutputError when that is not possible."""
        text = json.dumps({"written_by": self.mark, **value}, indent=2) + "\n"
        if is_stream(self.path):
            with self.refusals(), open(_descriptor(self.path), "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        with self.writing() as staged:
            staged.write_text(text, encoding="utf-8")


def is_stream(path: Path) -> bool:
    """Whether it is a pipe, a character device, or the file that standard output goes to."""
    try:
        status = path.stat()
    except OSError:
        return False
    passing = stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)
    return passing or _standard_stream(status) is not None


def _descriptor(path: Path) -> int:
    """A descriptor to write to a stream by."""
    if (standard := _standard_stream(path.stat())) is not None:
        # Opening the file anew would write over what has been printed to it.
        sys.stdout.flush()
        return os.dup(standard)
    try:
        # Without O_NONBLOCK, a pipe that nobody reads would keep us waiting.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OutputError(f"Nobody reads the pipe {path}.", "Start its reader first.") from error
    os.set_blocking(descriptor, True)
    return descriptor


def _standard_stream(status: os.stat_result) -> int | None:
    """The standard stream that goes to this very file, if one does."""
    for descriptor in STANDARD_STREAMS:
        with suppress(OSError):  # it is closed
            if os.path.samestat(status, os.fstat(descriptor)):
                return descriptor
    return None


def check_outputs(*files: OutputFile | None) -> None:
    """Raises OutputError now, rather than after minutes of work, if one cannot be written."""
    given = [file for file in files if file is not None]
    places: dict[Path, OutputFile] = {}
    for file in given:
        file.check()
        other = places.setdefault(resolved(file.path), file)
        if other is not file and not is_stream(file.path):
            raise OutputError(
                f"{file.path} is named twice, for '{other.writer}' and for '{file.writer}'.",
                "Give each a path of its own.",
            )
