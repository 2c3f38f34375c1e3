"""Tensors get their addresses.

Each on-chip memory has two parts. Streamed tensors (weights and their parameters, chunk by chunk)
alternate between the two ends of the low part: a double buffer without fragmentation. All others
stand in the high part, each from the first operation that touches it to the last, at the lowest
place that is free for so long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..config import HardwareConfig, Memory
from ..errors import CapacityError
from ..isa import Compute
from .lower import Budget
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


Places = dict[Tensor, int]


def lifetimes(operations: Sequence[Operation]) -> list[Lifetime]:
    """Lifetimes of all tensors, by first use."""
    seen: dict[Tensor, tuple[int, int]] = {}
    for index, operation in enumerate(operations):
        # What a COMPUTE reads must outlive its EPILOGUE: they run at the same time.
        last = index + isinstance(operation.instruction, Compute)
        for _, tensor in operation.operands:
            seen[tensor] = (seen.get(tensor, (index, 0))[0], last)
    return [Lifetime(tensor, first, last) for tensor, (first, last) in seen.items()]


def stream_budget(
    operations: Sequence[Operation], config: HardwareConfig, resident: bool
) -> Budget:
    """How large column chunks may be, given what the other tensors take.

    Args:
        operations: lowered with any chunks; only the other tensors matter.
        config: the accelerator.
        resident: whether products stay in one piece, without a double buffer.
    """
    alive = lifetimes(operations)
    halves = 1 if resident else 2
    right, parameter = (
        _stream_words(alive, memory, config) // halves
        for memory in (Memory.RIGHT, Memory.PARAMETER)
    )
    return Budget(right, parameter)


def allocate(alive: Sequence[Lifetime], config: HardwareConfig) -> Places:
    """The first word of every tensor.

    Raises:
        CapacityError: a memory is too small; names the tensor and both depths.
    """
    places: Places = {}
    for memory in Memory:
        area = _stream_words(alive, memory, config)
        places |= {
            tensor: config.words(memory) - place - tensor.words
            for tensor, place in _pack_resident(alive, memory).items()
        }
        streamed = [life for life in alive if _streams_in(life, memory)]
        places |= {life.tensor: _stream_place(life.tensor, area) for life in streamed}
        _check_streams(streamed, places, area)
    return places


def _streams_in(life: Lifetime, memory: Memory) -> bool:
    return life.tensor.memory is memory and life.tensor.stream is not None


def _stream_place(tensor: Tensor, area: int) -> int:
    assert tensor.stream is not None
    return area - tensor.words if tensor.stream % 2 else 0


def _stream_words(alive: Sequence[Lifetime], memory: Memory, config: HardwareConfig) -> int:
    """Words of `memory` that the tensors which are not streamed leave."""
    depth = config.words(memory)
    places = _pack_resident(alive, memory)
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


def _pack_resident(alive: Sequence[Lifetime], memory: Memory) -> Places:
    """Places of the tensors of `memory` that are not streamed, from 0 up."""
    candidates = [
        life for life in alive if life.tensor.memory is memory and life.tensor.stream is None
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


def _check_streams(streamed: Sequence[Lifetime], places: Places, area: int) -> None:
    for index, life in enumerate(streamed):
        for other in streamed[index + 1 :]:
            if other.first > life.last:
                break
            start = max(places[life.tensor], places[other.tensor])
            stop = min(
                places[life.tensor] + life.tensor.words, places[other.tensor] + other.tensor.words
            )
            if start < stop or places[life.tensor] < 0:
                memory = life.tensor.memory.value
                needed = life.tensor.words + other.tensor.words
                raise CapacityError(
                    f"{life.tensor.name} and {other.tensor.name} take {needed} words of the "
                    f"{memory} memory at once, of which {area} are left for them.",
                    f"Raise {memory}_words by at least {needed - area}.",
                )
