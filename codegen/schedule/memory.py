"""Tensors get their addresses.

Each on-chip memory has two parts. Streamed tensors (weights and their parameters, chunk by chunk)
pass through the low part, a ring; see stages.py. All others stand in the high part, each from the
first operation that touches it to the last, where it is free for so long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..config import HardwareConfig, Memory
from ..errors import CapacityError
from ..isa import Compute
from .stages import Operation, Tensor


@dataclass(frozen=True)
class Lifetime:
    """Indices of the first and the last operation that touch a tensor."""

    tensor: Tensor
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at once."""
        return self.first <= other.last and other.first <= self.last


Places = Mapping[Tensor, int]


def lifetimes(operations: Sequence[Operation]) -> list[Lifetime]:
    """Lifetimes of all tensors, by first use."""
    seen: dict[Tensor, tuple[int, int]] = {}
    for index, operation in enumerate(operations):
        # What a COMPUTE reads must outlive its EPILOGUE: they run at the same time.
        last = index + isinstance(operation.instruction, Compute)
        for _, tensor in operation.operands:
            seen[tensor] = (seen.get(tensor, (index, 0))[0], last)
    return [Lifetime(tensor, first, last) for tensor, (first, last) in seen.items()]


def ring_words(alive: Sequence[Lifetime], config: HardwareConfig) -> dict[Memory, int]:
    """The words of each memory that are left for streamed tensors.

    Raises:
        CapacityError: not even the other tensors fit; names one and both depths.
    """
    return {memory: _words_left(alive, memory, config) for memory in Memory}


def allocate(alive: Sequence[Lifetime], config: HardwareConfig, streamed: Places) -> Places:
    """The first word of every tensor, given those of the streamed ones.

    Raises:
        CapacityError: a memory is too small; names a tensor and both depths.
    """
    places = dict(streamed)
    for memory in Memory:
        left = _words_left(alive, memory, config)
        places |= {
            tensor: config.words(memory) - place - tensor.words
            for tensor, place in _pack(alive, memory).items()
        }
        ends = [t.words + place for t, place in streamed.items() if t.memory is memory]
        # Order depends on chunks only where nothing else does; so does what is left.
        assert max(ends, default=0) <= left, f"streams reach into the rest of {memory.value}"
    return places


def _words_left(alive: Sequence[Lifetime], memory: Memory, config: HardwareConfig) -> int:
    """Words of `memory` that the tensors which are not streamed leave."""
    depth = config.words(memory)
    places = _pack(alive, memory)
    highest = max(places, key=lambda tensor: places[tensor] + tensor.words, default=None)
    if highest is None:
        return depth
    needed = places[highest] + highest.words
    if needed > depth:
        raise CapacityError(
            f"{highest.name} ({highest.words} words) does not fit the {memory.value} memory: "
            f"with what is there at the same time it takes {needed} words, the memory has {depth}.",
            f"Raise {memory.value}_words to at least {needed}, or use a smaller model.",
        )
    return depth - needed


def _pack(alive: Sequence[Lifetime], memory: Memory) -> Places:
    """Places of the tensors of `memory` that are not streamed, from 0 up."""
    candidates = [
        life for life in alive if life.tensor.memory is memory and not life.tensor.streamed
    ]
    orders: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
        lambda life: (life.first,),
        lambda life: (-life.tensor.words, life.first),
    )
    packings = [_first_fit(sorted(candidates, key=order)) for order in orders]
    return min(packings, key=_height)


def _height(places: Places) -> int:
    return max((place + tensor.words for tensor, place in places.items()), default=0)


def _first_fit(ordered: Iterable[Lifetime]) -> Places:
    placed: list[tuple[Lifetime, int]] = []
    for life in ordered:
        taken = sorted(
            (place, place + other.tensor.words) for other, place in placed if other.meets(life)
        )
        placed.append((life, _gap(taken, life.tensor.words)))
    return {life.tensor: place for life, place in placed}


def _gap(taken: Iterable[tuple[int, int]], words: int) -> int:
    """The lowest place for `words` beside the intervals `taken`, which ascend."""
    place = 0
    for start, stop in taken:
        if place + words <= start:
            return place
        place = max(place, stop)
    return place
