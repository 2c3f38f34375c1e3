"""Standard output and standard error, guarded: what comes from files cannot command the terminal.

`main` puts a guard before both, so that a command need not think of it: names in models, class
names and names of files may hold escape codes, which would hide or fake what a command says.
Progress in one line goes through `show_progress`, which guards the text and lets through what takes
the cursor back.

A name with a line end would still begin a line of its own: `printable` (host/text.py) shows a name
on one line.
"""

from __future__ import annotations

import codecs
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from vitessera.host.text import printable

LINES = "\n\t"  # of what a terminal obeys, what text may hold


# What our own texts hold beyond ASCII, and how a stream shows it that has no such character.
PLAIN = {
    **{"×": "x", "−": "-", "·": "*", "→": "->", "√": "sqrt", "π": "pi", "½": "1/2", "³": "^3"},
    **{"µ": "u", "…": "..."},
}
UNENCODABLE = "vitessera.plain"  # name of the error handler


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands in for characters that a stream's encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (each.encode("ascii", "backslashreplace").decode() for each in lacking)
    shown = (PLAIN.get(each, code) for each, code in zip(lacking, escaped, strict=True))
    return "".join(shown), error.end


codecs.register_error(UNENCODABLE, _plain)


class GuardedStream(io.TextIOBase):
    """Text for `stream`, with all that a terminal would obey escaped, but for line ends and tabs.

    Attributes:
        stream: what is written to, as it was.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self.stream.encoding

    def write(self, text: str) -> int:
        """Writes `text`; the number of its characters."""
        self.stream.write(printable(text, keep=LINES))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Writes each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Of the stream."""
        self.stream.flush()

    def fileno(self) -> int:
        """Of the stream."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.stream.isatty()

    def writable(self) -> bool:
        """It is."""
        return True


@contextmanager
def guarded() -> Iterator[None]:
    """Guards standard output and standard error for the time of the block."""
    before = sys.stdout, sys.stderr
    with ExitStack() as opened:
        # Closed by the shell (>&-): Python has none then.
        nowhere = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
        for stream in filter(None, before):
            if isinstance(stream, io.TextIOWrapper):
                # Stages go to standard error; in a file or pipe both must keep their order. What
                # the locale has no character for is written in others.
                stream.reconfigure(line_buffering=True, errors=UNENCODABLE)
        sys.stdout, sys.stderr = (GuardedStream(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def line_width() -> int | None:
    """Characters of a line of the terminal; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _unguarded(stream: TextIO) -> TextIO:
    return stream.stream if isinstance(stream, GuardedStream) else stream


def progress_width() -> int:
    """Characters that progress in one line has room for."""
    return shutil.get_terminal_size().columns - 1


def show_progress(text: str) -> None:
    """Shows `text` on standard error until the next line is written; for terminals.

    It is cut off where the terminal ends: what is wrapped would not be overwritten.
    """
    stream = _unguarded(sys.stderr)
    stream.write(printable(text)[: progress_width()] + "\r")
    stream.flush()
