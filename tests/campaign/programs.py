"""Random valid programs: no network stands behind them, only what instructions may do.

Every memory has a small window whose words are all loaded at first; random instructions then read
and write anywhere in it, so that nearly every one conflicts with some before it. `synchronize`
gives them their semaphores; some programs get more than they need, which only makes units wait
longer. At the end everything in residual memory is stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from gathers import EPSILON, group_constants
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import SOFTMAX_BLOCKS, HardwareConfig, Memory
from vitessera.codegen.errors import ProgramError
from vitessera.codegen.isa import EpilogueTarget, LoadTarget, Region
from vitessera.codegen.packing import NORM_TYPE, PARAMETER_TYPE, to_dram
from vitessera.codegen.program import InputDescription, OutputDescription, Program
from vitessera.codegen.schedule import verify
from vitessera.codegen.schedule.synchronize import synchronize

Instructions = list[isa.Instruction]
LONGEST = 60  # instructions drawn, before loads and stores
EXTRA_SEMAPHORES = 12  # tried
HALF = 14  # tiles in half of an operand memory's window, more than any instruction writes


@dataclass
class Drawn:
    """A program as it grows.

    Attributes:
        config: the accelerator.
        source: of all choices.
        body: instructions without semaphores.
        weights: content of the weights buffer.
        stored: words of the output buffer so far.
        mixes: products with probabilities that are still to come, with the blocks they take.
        sums: whether statistics of groups stand, and of which groups.
    """

    config: HardwareConfig
    source: random.Random
    body: Instructions = field(default_factory=list)
    weights: bytes = b""
    stored: int = 0
    mixes: list[tuple[int, Instructions]] = field(default_factory=list)
    sums: isa.Gather | None = None

    def window(self, memory: Memory) -> int:
        """Words of `memory` that the program uses."""
        config = self.config
        tiles = {
            Memory.LEFT: 2 * HALF * config.words_per_tile,
            Memory.RIGHT: 2 * HALF * config.words_per_tile,
            Memory.PROBABILITY: 12 * config.words_per_tile,
            Memory.RESIDUAL: HALF * config.beats_per_tile,
            Memory.PARAMETER: 4 * config.beats_per_row,
            Memory.NORM: 4 * config.beats_per_row,
        }
        return min(tiles[memory], config.words(memory))

    def upto(self, highest: int) -> int:
        """1 to `highest`, mostly small."""
        return 1 + min(self.source.randrange(highest), self.source.randrange(highest))

    def place(self, room: int, *counts: int, least: Sequence[int] = ()) -> tuple[int, list[int]]:
        """A base and strides of a loop nest whose words all lie below `room`.

        Args:
            room: words.
            counts: of the loops.
            least: of each stride; by default zero.
        """
        strides = []
        left = room - 1
        floors = least or [0] * len(counts)
        for number, (count, floor) in enumerate(zip(counts, floors, strict=True)):
            later = sum(
                (c - 1) * f for c, f in list(zip(counts, floors, strict=True))[number + 1 :]
            )
            if count > 1:
                most = (left - later) // (count - 1)
                stride = floor if self.source.random() < 0.5 else self.source.randint(floor, most)
            else:
                stride = self.source.choice((floor, 0))
            strides.append(stride)
            left -= (count - 1) * stride
        return self.source.randint(0, left), strides

    def add_weights(self, words: np.ndarray, memory: Memory) -> int:
        """Their offset in the weights buffer."""
        offset = len(self.weights)
        self.weights += to_dram(words, memory, self.config)
        return offset


def random_program(config: HardwareConfig, seed: int) -> Program:
    """A program that `verify` accepts, and the same for the same seed."""
    source = random.Random(seed)
    drawn = Drawn(config, source)
    _load_everything(drawn)
    kinds = source.sample(list(KINDS), source.randint(1, len(KINDS)))
    for _ in range(source.randint(1, LONGEST)):
        KINDS[source.choice(kinds)](drawn)
    while drawn.mixes:
        _mix(drawn)
    _store(drawn, 0, drawn.window(Memory.RESIDUAL))
    return _finished(drawn)


def random_input(program: Program, seed: int) -> bytes:
    """The content of an input buffer."""
    values = np.random.default_rng(seed).integers(
        -numerics.INT16_MAX, numerics.INT16_MAX + 1, program.input.size // 2, dtype=np.int16
    )
    return values.tobytes()


# --- What instructions may do


def _constants(drawn: Drawn, memory: Memory, words: int) -> np.ndarray:
    """Random content of so many words."""
    config, rng = drawn.config, np.random.default_rng(drawn.source.randrange(1 << 32))
    count = words * config.lanes
    if memory is Memory.PARAMETER:
        values = np.zeros(count, PARAMETER_TYPE)
        values["bias"] = rng.integers(-20_000, 20_001, count)
        values["multiplier"] = rng.integers(1, 1 << 16, count)
        values["shift"] = rng.integers(10, 26, count)
        return values.reshape(words, config.lanes)
    if memory is Memory.NORM:
        values = np.zeros(count, NORM_TYPE)
        values["gamma"] = rng.integers(-9000, 9001, count)
        values["beta"] = rng.integers(-(1 << 22), 1 << 22, count)
        return values.reshape(words, config.lanes)
    if memory is Memory.RESIDUAL:
        limit = numerics.INT16_MAX
        return rng.integers(-limit, limit + 1, (words, config.lanes), dtype=np.int16)
    size = (words, config.tile, config.depth)
    return rng.integers(-numerics.INT8_MAX, numerics.INT8_MAX + 1, size, dtype=np.int8)


def _load_words(drawn: Drawn, target: LoadTarget, address: int, words: int) -> None:
    memory = Memory[target.name]
    region, offset = Region.WEIGHTS, 0
    if memory is Memory.RESIDUAL and drawn.source.random() < 0.5:
        region = Region.INPUT
        first = drawn.source.randint(0, drawn.window(memory) - words)
        offset = first * drawn.config.dram_bytes_per_word(memory)
    else:
        offset = drawn.add_weights(_constants(drawn, memory, words), memory)
    drawn.body.append(
        isa.Load(target=target, region=region, address=address, words=words, offset=offset)
    )


def _load_everything(drawn: Drawn) -> None:
    for target in drawn.source.sample(list(LoadTarget), len(LoadTarget)):
        _load_words(drawn, target, 0, drawn.window(Memory[target.name]))


def _load(drawn: Drawn) -> None:
    target = drawn.source.choice(list(LoadTarget))
    words = drawn.upto(drawn.window(Memory[target.name]))
    address = drawn.source.randint(0, drawn.window(Memory[target.name]) - words)
    _load_words(drawn, target, address, words)


def _store(drawn: Drawn, address: int, words: int) -> None:
    offset = drawn.stored * drawn.config.dram_bytes_per_word(Memory.RESIDUAL)
    drawn.stored += words
    drawn.body.append(isa.Store(region=Region.OUTPUT, address=address, words=words, offset=offset))


def _some_store(drawn: Drawn) -> None:
    words = drawn.upto(drawn.window(Memory.RESIDUAL))
    _store(drawn, drawn.source.randint(0, drawn.window(Memory.RESIDUAL) - words), words)


def _compute(
    drawn: Drawn, outer: int, inner: int, depth: int, low: dict[Memory, int] | None = None
) -> isa.Compute:
    """A product of operands anywhere; `low` has memories of which only half may be read from."""
    return isa.Compute(
        outer=outer,
        inner=inner,
        depth=depth,
        **_operand(drawn, Memory.LEFT, (outer, inner, depth), low),
        **_operand(drawn, Memory.RIGHT, (outer, inner, depth), low),
    )


def _operand(
    drawn: Drawn, memory: Memory, counts: tuple[int, int, int], low: dict[Memory, int] | None = None
) -> dict[str, int]:
    first, room = 0, drawn.window(memory)
    if low and memory in low:
        first, room = low[memory], room // 2
    base, strides = drawn.place(room, *counts)
    names = (f"{memory.value}_{level}" for level in ("outer", "inner", "step"))
    return {f"{memory.value}_base": first + base} | dict(zip(names, strides, strict=True))


def _epilogue(drawn: Drawn, outer: int, inner: int, target: EpilogueTarget) -> isa.Epilogue:
    """Requantises tiles; which words it writes is for the caller."""
    source, config = drawn.source, drawn.config
    parameter, (by_outer, by_inner) = drawn.place(
        drawn.window(Memory.PARAMETER) - config.beats_per_row + 1, outer, inner
    )
    second = source.random() < 0.5
    return isa.Epilogue(
        outer=outer,
        inner=inner,
        target=target,
        parameter=parameter,
        parameter_outer=by_outer,
        parameter_inner=by_inner,
        pre_shift=source.choice((0, 0, 1, 3)),
        function=source.choice(list(isa.ActivationCode)) if source.random() < 0.4 else 0,
        scale=source.randrange(1, 1 << 16) if second else 1,
        scale_shift=source.randint(8, 20) if second else 0,
        offset=source.choice((0, 0, 7, -100)),
    )


def _written(
    drawn: Drawn, memory: Memory, outer: int, inner: int, low: int = 0, high: int | None = None
) -> dict[str, int]:
    """Places of tiles none of which overlap, in words `low` to `high`."""
    config = drawn.config
    words = config.beats_per_tile if memory is Memory.RESIDUAL else config.words_per_tile
    room = (drawn.window(memory) if high is None else high) - low - words + 1
    address, (by_outer, by_inner) = drawn.place(room, outer, inner, least=(inner * words, words))
    # A stride between two rows of tiles must leave room for the whole row.
    by_inner = min(by_inner, by_outer // inner) if outer > 1 else by_inner
    return {"address": low + address, "outer_stride": by_outer, "inner_stride": by_inner}


def _product(drawn: Drawn) -> Instructions:
    """A COMPUTE and its EPILOGUE. It writes nothing that the COMPUTE reads: neither could end."""
    source = drawn.source
    target = source.choice((EpilogueTarget.LEFT, EpilogueTarget.RIGHT, EpilogueTarget.RESIDUAL))
    outer, inner, depth = drawn.upto(3), drawn.upto(3), drawn.upto(12)
    memory = Memory[target.name]
    if memory is Memory.RESIDUAL:
        compute = _compute(drawn, outer, inner, depth)
        where = _written(drawn, memory, outer, inner) | {"accumulate": source.randrange(2)}
    else:
        half = drawn.window(memory) // 2
        halves = source.sample((0, half), 2)
        compute = _compute(drawn, outer, inner, depth, {memory: halves[0]})
        where = _written(drawn, memory, outer, inner, halves[1], halves[1] + half)
        where["transpose"] = source.randrange(2)
    return [compute, replace(_epilogue(drawn, outer, inner, target), **where)]


def _products(drawn: Drawn) -> None:
    """One, or two whose COMPUTEs both come before the EPILOGUEs."""
    pairs = [_product(drawn) for _ in range(drawn.source.choice((1, 1, 2)))]
    drawn.body += [pair[0] for pair in pairs] + [pair[1] for pair in pairs]


def _scores(drawn: Drawn) -> None:
    """Scores of some blocks; the product with their probabilities comes later."""
    config, source = drawn.config, drawn.source
    blocks = drawn.upto(2)
    if sum(count for count, _ in drawn.mixes) + blocks > SOFTMAX_BLOCKS:
        return _mix(drawn)
    inner = drawn.upto(3)
    words = config.words_per_tile
    room = drawn.window(Memory.PROBABILITY) - words + 1
    address, (stride, _) = drawn.place(room, blocks, inner, least=(inner * words, words))
    addends = blocks * inner * config.beats_per_tile
    biased = addends <= drawn.window(Memory.RESIDUAL) and source.random() < 0.4
    drawn.body += [
        _compute(drawn, blocks, inner, drawn.upto(8)),
        replace(
            _epilogue(drawn, blocks, inner, EpilogueTarget.SOFTMAX),
            function=0,
            address=address,
            outer_stride=stride,
            inner_stride=words,
            keys=source.randint((inner - 1) * config.tile + 1, inner * config.tile),
            accumulate=int(biased),
            addend=source.randint(0, drawn.window(Memory.RESIDUAL) - addends) if biased else 0,
        ),
    ]
    drawn.mixes.append((blocks, _mixing(drawn, blocks, inner * words, address, stride)))
    return None


def _mixing(drawn: Drawn, blocks: int, depth: int, address: int, stride: int) -> Instructions:
    """The product of probabilities with some values."""
    target = drawn.source.choice((EpilogueTarget.LEFT, EpilogueTarget.RESIDUAL))
    columns = drawn.upto(2)
    return [
        isa.Compute(
            left_source=isa.LeftSource.PROBABILITY,
            outer=blocks,
            inner=columns,
            depth=depth,
            left_base=address,
            left_outer=stride,
            left_step=1,
            **_operand(drawn, Memory.RIGHT, (blocks, columns, depth)),
        ),
        replace(
            _epilogue(drawn, blocks, columns, target),
            row_scale=1,
            function=0,
            scale=0,
            scale_shift=drawn.source.randint(0, 12),
            **_written(drawn, Memory[target.name], blocks, columns),
        ),
    ]


def _mix(drawn: Drawn) -> None:
    if drawn.mixes:
        _, instructions = drawn.mixes.pop(0)
        drawn.body += instructions


def _norm(drawn: Drawn) -> None:
    config, source = drawn.config, drawn.source
    target = source.choice(list(isa.NormTarget))
    fitting = config.norm_buffer_words // config.beats_per_tile
    outer, inner = drawn.upto(3), drawn.upto(min(4, fitting))
    words = inner * config.beats_per_tile
    base, (by_outer,) = drawn.place(drawn.window(Memory.RESIDUAL) - words + 1, outer)
    channels = inner * config.tile
    drawn.body.append(
        isa.Norm(
            target=target,
            outer=outer,
            inner=inner,
            transpose=source.randrange(2),
            plain=int(source.random() < 0.3),
            base=base,
            base_outer=by_outer,
            parameter=source.randint(0, drawn.window(Memory.NORM) - inner * config.beats_per_row),
            channels=channels,
            inverse=round(2**numerics.INVERSE_BITS / channels),
            eps_mantissa=source.randrange(1 << 16),
            eps_exponent=source.randrange(20),
            shift=source.randint(14, 22),
            **_written(drawn, Memory[target.name], outer, inner),
        )
    )
    drawn.sums = None


def _gather(drawn: Drawn) -> None:
    """A window over a small map; with statistics of its own, or with those that stand."""
    config, source = drawn.config, drawn.source
    if not config.maps:
        return _norm(drawn)
    whole = config.tile.bit_length() - 1
    group = source.randint(0, whole)
    inner = source.randint(1, 2) if group == whole else 1
    again = drawn.sums is not None and source.random() < 0.5
    if again and drawn.sums is not None:
        group, inner = drawn.sums.group, drawn.sums.inner
    tiles = 2
    width, height = source.randint(1, 5), source.randint(1, 4)
    words = -(-width * height // config.tile) * tiles * config.beats_per_tile
    if words > drawn.window(Memory.RESIDUAL):
        return _norm(drawn)
    first = source.randint(0, tiles - inner) * config.beats_per_tile
    base = source.randint(0, drawn.window(Memory.RESIDUAL) - words) + first
    outer = drawn.upto(2)
    row = inner * config.words_per_tile
    room = drawn.window(Memory.LEFT) - row + 1
    address, (stride,) = drawn.place(room, outer, least=(row,))
    constants = group_constants(width * height * (inner if group == whole else 1) << group)
    gather = isa.Gather(
        outer=outer,
        inner=inner,
        tiles=tiles,
        width=width,
        height=height,
        base=base,
        group=group,
        statistics=int(not again),
        plain=int(source.random() < 0.2),
        relu=source.randrange(2),
        prefix=source.choice((0, 0, 1, 3)),
        columns=source.randint(1, 5),
        step=source.randint(1, 2),
        x=source.randint(-2, 1),
        y=source.randint(-2, 1),
        kernel_width=source.randint(1, 3),
        kernel_height=source.randint(1, 3),
        address=address,
        outer_stride=stride,
        parameter=source.randint(0, drawn.window(Memory.NORM) - inner * config.beats_per_row),
        channels=constants.channels,
        inverse=constants.inverse,
        sum_shift=constants.sum_shift,
        eps_mantissa=EPSILON[0],
        eps_exponent=EPSILON[1],
        shift=source.randint(16, 21),
    )
    drawn.body.append(gather)
    drawn.sums = drawn.sums if again else gather
    return None


KINDS: dict[str, Callable[[Drawn], None]] = {
    "load": _load,
    "store": _some_store,
    "products": _products,
    "scores": _scores,
    "mix": _mix,
    "norm": _norm,
    "gather": _gather,
}


# --- Semaphores and the rest


def _finished(drawn: Drawn) -> Program:
    config = drawn.config
    # Two COMPUTEs before their EPILOGUEs are no deadlock only if the second needs nothing of the
    # first; where verify says that they are one, each EPILOGUE follows its COMPUTE.
    for body in (drawn.body, _paired(drawn.body)):
        instructions = synchronize(body, config)
        try:
            verify(instructions, config)
        except ProgramError as error:
            refusal = error
            continue
        return _described(drawn, _with_more_semaphores(drawn, instructions))
    raise refusal


def _paired(body: Instructions) -> Instructions:
    """The same, each EPILOGUE right behind its COMPUTE."""
    epilogues = iter([entry for entry in body if isinstance(entry, isa.Epilogue)])
    rest = [entry for entry in body if not isinstance(entry, isa.Epilogue)]
    return [
        each
        for entry in rest
        for each in ((entry, next(epilogues)) if isinstance(entry, isa.Compute) else (entry,))
    ]


def _with_more_semaphores(
    drawn: Drawn, instructions: tuple[isa.Instruction, ...]
) -> tuple[isa.Instruction, ...]:
    """Some that nobody needs: units wait longer, in an order that stays possible."""
    for _ in range(drawn.source.randrange(EXTRA_SEMAPHORES)):
        first, second = sorted(drawn.source.sample(range(len(instructions)), 2))
        sender, receiver = instructions[first], instructions[second]
        if isinstance(sender, isa.End) or receiver.wait >> sender.source & 1:
            continue
        if sender.signal >> receiver.UNIT & 1:
            continue
        tried = list(instructions)
        tried[first] = replace(sender, signal=sender.signal | 1 << receiver.UNIT)
        tried[second] = replace(receiver, wait=receiver.wait | 1 << sender.source)
        try:
            verify(tried, drawn.config)
        except ProgramError:
            continue  # a race or a deadlock: pairs of the same semaphore would change partners
        instructions = tuple(tried)
    return instructions


def _described(drawn: Drawn, instructions: tuple[isa.Instruction, ...]) -> Program:
    config = drawn.config
    size = drawn.window(Memory.RESIDUAL) * config.dram_bytes_per_word(Memory.RESIDUAL)
    return Program(
        config=config,
        instructions=instructions,
        labels=tuple(type(entry).__name__ for entry in instructions),
        weights=drawn.weights,
        input=InputDescription("input", (1, 1, 1), (1, 1, 1), 0, 1, 1, (1.0,), size),
        outputs=(OutputDescription("stored", 0, drawn.stored, 1, 1, 0, (1.0,), 0),),
    )
