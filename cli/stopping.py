"""Signals that ask a process to end: as with Ctrl-C, nothing stays behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 0.05


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def signal_of(stop: BaseException) -> signal.Signals:
    """The signal that raised a KeyboardInterrupt: what Stopped says, or that of Ctrl-C."""
    return stop.number if isinstance(stop, Stopped) else signal.SIGINT


@contextmanager
def stoppable() -> Iterator[None]:
    """Raises Stopped in the block when such a signal arrives; one that is ignored stays so.

    A signal's exception is raised wherever the program happens to be. Where that is a destructor
    or a callback of fork, Python prints the exception and drops it, and the program would go on.
    So the signal is sent again then, a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    show_dropped = sys.unraisablehook

    def listen() -> None:
        for number in taken:
            signal.signal(number, stop)

    def stop(number: int, _: FrameType | None) -> None:
        for each in taken:  # once is enough: from now on things are tidied up
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def dropped(unraisable: Any) -> None:  # noqa: ANN401 - sys.UnraisableHookArgs is for stubs alone
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            show_dropped(unraisable)
            return
        listen()
        send = (os.getpid(), signal_of(unraisable.exc_value))
        again = threading.Timer(AGAIN_SECONDS, os.kill, send)
        again.daemon = True
        again.start()

    try:
        sys.unraisablehook = dropped
        listen()
        yield
    finally:
        sys.unraisablehook = show_dropped
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
