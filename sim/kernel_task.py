"""What kernel.py hands to the simulator; apart from it, so that a simulation starts quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """The n-th word of one stream must not pass before the (n * words)-th of another.

    Attributes:
        later, earlier: channels.
        words: of `earlier` for each of `later`.
    """

    later: str
    earlier: str
    words: int


@dataclass(frozen=True)
class KernelRun:
    """What the bench is to do; crosses to the simulator as a pickle.

    Attributes:
        kernel: name of the kernel.
        inputs: channel → words to send, in order.
        outputs: channel → words that must come, in order.
        stall: probability, per stream and cycle, that its far side is not ready.
        seed: of the random stalls.
        orders: what is checked besides the words themselves.
    """

    kernel: str
    inputs: Mapping[str, Sequence[int]]
    outputs: Mapping[str, Sequence[int]]
    stall: float
    seed: int
    orders: Sequence[Order] = ()
