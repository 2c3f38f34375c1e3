"""Operations before they have addresses and semaphores, and their order.

A stage is a piece of work and the loads it needs. Constant operands (weights and parameters) stream
through rings, one in each memory: they are loaded ahead of the work that hides the transfer, as
far as the ring has room and DRAM has time. Software pipelining, in other words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config import HardwareConfig, Memory
from ..errors import CapacityError, missing_case
from ..isa import Compute, Epilogue, Gather, Instruction, Load, LoadTarget, Norm, Store

# A ring begins anew after so many tensors, however much room there is. A load waits only for whom
# it overwrites: in an endless ring loads could outrun what semaphores count.
TENSORS_IN_LAP = 64


@dataclass(frozen=True)
class Tensor:
    """A block of words in one memory.

    Attributes:
        name: unique in its memory.
        memory: where.
        words: how many.
        streamed: it passes through the memory's ring.
    """

    name: str
    memory: Memory
    words: int
    streamed: bool = False


@dataclass(frozen=True, eq=False)
class Operation:
    """An instruction whose addresses count from the start of tensors.

    Attributes:
        instruction: without semaphores.
        operands: (address field, tensor it counts from).
        layer: name of the QuantNode it belongs to.
        group: among loads, which row group they serve; loads of lower groups go first.
    """

    instruction: Instruction
    operands: tuple[tuple[str, Tensor], ...]
    layer: str
    group: int = -1


@dataclass
class Stage:
    """A piece of work.

    Attributes:
        loads: what it needs that does not stream: the input, the residual stream's start.
        body: its operations.
        streams: loads of its streamed operands.
    """

    loads: list[Operation] = field(default_factory=list)
    body: list[Operation] = field(default_factory=list)
    streams: list[Operation] = field(default_factory=list)

    @property
    def streamed(self) -> list[Tensor]:
        """What the stage takes from rings."""
        return [tensor for load in self.streams for _, tensor in load.operands]


@dataclass(frozen=True)
class Pipeline:
    """Operations in program order, and where the streamed tensors stand in their rings."""

    operations: tuple[Operation, ...]
    places: Mapping[Tensor, int]


def _last_uses(stages: Sequence[Stage]) -> list[list[Tensor]]:
    """For each stage, the streamed tensors that no later one uses, in the order of their loads."""
    last: dict[Tensor, int] = {}
    for index, stage in enumerate(stages):
        last |= dict.fromkeys(stage.streamed, index)
        used = {tensor for operation in stage.body for _, tensor in operation.operands}
        last |= dict.fromkeys(used & last.keys(), index)
    done: list[list[Tensor]] = [[] for _ in stages]
    for tensor, index in last.items():
        done[index].append(tensor)
    return done


class Ring:
    """Words of one memory that tensors occupy one behind the other, and leave in the same order."""

    def __init__(self, words: int) -> None:
        self.words = words
        # (first word, past the last, tensors since the first word of the ring was last taken)
        self._alive: deque[tuple[int, int, int]] = deque()

    def find(self, words: int) -> int | None:
        """Where the next tensor can stand; None when there is no room yet."""
        if not self._alive:
            return 0 if words <= self.words else None
        oldest, (_, newest, lap) = self._alive[0][0], self._alive[-1]
        begins_anew = words <= oldest
        if newest > oldest:
            ends = lap >= TENSORS_IN_LAP and begins_anew
            if newest + words <= self.words and not ends:
                return newest
            return 0 if begins_anew else None
        return newest if newest + words <= oldest else None

    def push(self, place: int, words: int) -> None:
        """Takes the words of a tensor."""
        lap = self._alive[-1][2] + 1 if place else 1
        self._alive.append((place, place + words, lap))

    def pop(self) -> None:
        """Frees the oldest tensor."""
        self._alive.popleft()

    def drop(self) -> None:
        """Takes the newest tensor back."""
        self._alive.pop()


def pipeline(
    stages: Sequence[Stage], rings: Mapping[Memory, int], config: HardwareConfig
) -> Pipeline:
    """The operations of `stages` in program order.

    Args:
        stages: in execution order.
        rings: for each memory, the words of its ring.
        config: tells how long things take.

    Raises:
        CapacityError: a stage's operands do not fit a ring at once.
    """
    stages = [*_with_loads_ahead(stages)]
    streams = _Streams(stages, rings, config)
    order: list[Operation] = []
    for index, stage in enumerate(stages):
        order += streams.due(index)
        order += sorted(stage.loads, key=lambda load: load.group)
        order += streams.woven(index)
    return Pipeline(tuple(order), streams.places)


def _with_loads_ahead(stages: Sequence[Stage]) -> list[Stage]:
    """Stages without those that only load; their loads go to the next one that works."""
    working: list[Stage] = []
    waiting: list[Operation] = []
    for stage in stages:
        waiting += stage.loads
        if stage.body:
            working.append(Stage(waiting, list(stage.body), stage.streams))
            waiting = []
    if working:
        _interleave(working[0])
    return working


def _is_load(operation: Operation) -> bool:
    return isinstance(operation.instruction, Load)


def _interleave(stage: Stage) -> None:
    """Puts the input's row groups between the computes that read them.

    Dispatch is in order and stops at a full queue: behind the loads of the whole input, the first
    COMPUTE would start late.
    """
    computes = [
        index
        for index, operation in enumerate(stage.body)
        if isinstance(operation.instruction, Compute)
    ]
    groups = 1 + max((load.group for load in stage.loads), default=0)
    if groups != len(computes):
        return
    late = [load for load in stage.loads if load.group > 0]
    stage.loads = [load for load in stage.loads if load.group <= 0]
    for group in range(groups - 1, 0, -1):
        # One group ahead of the compute that reads it.
        at = computes[group - 1]
        stage.body[at:at] = [load for load in late if load.group == group]


class _Streams:
    """Decides when streamed operands are loaded, and where to."""

    def __init__(
        self, stages: Sequence[Stage], rings: Mapping[Memory, int], config: HardwareConfig
    ) -> None:
        self.places: dict[Tensor, int] = {}
        self._stages = stages
        self._done = _last_uses(stages)
        self._rings = {memory: Ring(words) for memory, words in rings.items()}
        self._config = config
        self._loaded = 0  # stages whose operands have their place
        self._bus_free = 0  # estimated cycle at which all loads so far are done
        self._clock = 0  # estimated cycle at which the engine is where the order is

    def due(self, index: int) -> list[Operation]:
        """Loads that must stand before stage `index`; earlier stages are consumed."""
        if index:
            for tensor in self._done[index - 1]:
                self._rings[tensor.memory].pop()
        if self._loaded > index:
            return []
        loads = self._load_next()
        if loads is None:
            raise self._too_small(self._stages[index])
        self._clock = max(self._clock, self._bus_free)
        return loads

    def woven(self, index: int) -> list[Operation]:
        """The body of stage `index` with the loads that it can hide.

        The next stage's loads go first, behind the stage's own; later ones' in front of the
        compute during which the bus is free for them. Earlier they would wait in the load unit's
        queue, and a full queue holds up dispatch of everything behind.
        """
        stage = self._stages[index]
        own = [i for i, entry in enumerate(stage.body) if _is_load(entry)]
        ahead = own[-1] + 1 if own else 0
        for load in (*stage.loads, *(stage.body[i] for i in own)):
            self._take_bus(load)
        order = stage.body[:ahead]
        if self._loaded == index + 1:
            order += self._load_next() or []
        self._clock += sum(self._cycles(entry) for entry in order if not _is_load(entry))
        for operation in stage.body[ahead:]:
            if isinstance(operation.instruction, Compute):  # nothing comes before its EPILOGUE
                self._clock += self._cycles(operation)
                while self._bus_free < self._clock and (loads := self._load_next()):
                    order += loads
            order.append(operation)
        return order

    def _take_bus(self, load: Operation) -> None:
        self._bus_free = max(self._bus_free, self._clock) + self._cycles(load)

    def _cycles(self, operation: Operation) -> int:
        """What the bus or the engine takes for it."""
        match operation.instruction:
            case Load(target=target, words=words):
                return words * self._config.beats_per_word(Memory[LoadTarget(target).name])
            case Compute(outer=outer, inner=inner, depth=depth):
                return outer * inner * depth
            case Store() | Epilogue() | Norm() | Gather():
                return 0
            case _:
                raise missing_case(operation.instruction, "The order of loads")

    def _load_next(self) -> list[Operation] | None:
        """Finds room for the next stage's operands; None when there is none yet, or no stage."""
        if self._loaded == len(self._stages):
            return None
        stage = self._stages[self._loaded]
        taken: list[Ring] = []
        for tensor in stage.streamed:
            ring = self._rings[tensor.memory]
            place = ring.find(tensor.words)
            if place is None:
                for other in taken:
                    other.drop()
                return None
            ring.push(place, tensor.words)
            taken.append(ring)
            self.places[tensor] = place
        self._loaded += 1
        for load in stage.streams:
            self._take_bus(load)
        return stage.streams

    def _too_small(self, stage: Stage) -> CapacityError:
        def excess(tensor: Tensor) -> int:
            together = sum(t.words for t in stage.streamed if t.memory is tensor.memory)
            return together - self._rings[tensor.memory].words

        tensor = max(stage.streamed, key=excess)
        memory, ring = tensor.memory.value, self._rings[tensor.memory].words
        needed = excess(tensor) + ring
        return CapacityError(
            f"{tensor.name} does not fit the {memory} memory: it has "
            f"{self._config.words(tensor.memory)} words, of which {ring} are left for constant "
            f"operands, and {needed} are needed at once.",
            f"Raise {memory}_words by at least {needed - ring}, better three times that.",
        )
