"""What kernel.py hands to the simulator; apart from it, so that a simulation starts quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KernelRun:
    """What the bench is to do; crosses to the simulator as a pickle.

    Attributes:
        kernel: name of the kernel.
        inputs: channel → words to send, in order.
        outputs: channel → words that must come, in order.
        stall: probability, per stream and cycle, that its far side is not ready.
        seed: of the random stalls.
    """

    kernel: str
    inputs: Mapping[str, Sequence[int]]
    outputs: Mapping[str, Sequence[int]]
    stall: float
    seed: int
