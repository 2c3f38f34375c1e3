"""Long work tells how far it is: to whoever listens in this context, or to nobody.

What takes minutes lies many calls below the command that shows it, and most of the calls between
have nothing to do with it. So it is not handed from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """How far a piece of work is.

    Attributes:
        work: what is done, such as "compile HLS kernels".
        done, total: of its parts; zero both where there are none to count.
        unit: what the parts are, such as "kernels".
        part: the one that is being done; empty where several are, or it has no name.
    """

    work: str
    done: int = 0
    total: int = 0
    unit: str = ""
    part: str = ""


Listener = Callable[[Step], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(step: Step) -> None:
    """Tells whoever listens."""
    listener = _listener.get()
    if listener is not None:
        listener(step)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Has `listener` told of every step in the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
