"""Which accelerator is built for a model on a board: the fastest that fits.

Candidates are shapes of the engine, largest first. For each, the memories are made as deep as the
model's schedule needs, and weights get what block RAM is left. Only if none fits, hidden layers are
cut into parts (schedule/split.py). The board's standard accelerator is taken in place of the
fastest where that costs little: models that share it share a bitstream. Speed is the schedule's
estimate (schedule/timing.py), size the model of resources.py; both are held against RTL and Yosys
by tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from . import isa
from .boards import BOARDS, Board, Resources
from .config import ADDRESS_BITS, HardwareConfig, Memory
from .errors import CapacityError
from .program import Allocation, Program
from .quantgraph import QuantGraph
from .report import most_alive, report
from .resources import estimate_resources
from .schedule import schedule
from .schedule.lower import CHUNKS_IN_RING
from .schedule.split import PARTS, split
from .schedule.timing import estimate

# Tile, depth, lanes; tests/accelerator runs each. Where half the lanes are enough, they save LUTs
# and DSPs.
SHAPES = (
    (16, 8, 16),
    (16, 4, 16),
    (8, 8, 8),
    (8, 4, 4),
    (8, 4, 8),
    (4, 4, 4),
    (4, 2, 2),
)
STANDARD_SPEED = 0.95  # of the fastest one's, that makes the standard accelerator worth having
GAIN = 1.03  # that a further shape must promise to be looked at
# Of the part, so that Vivado can still place and route at the clock. LUTs are Yosys's, which packs
# them less tightly than Vivado.
HEADROOM = {"luts": 0.85, "flip_flops": 0.85, "bram36": 0.9, "uram": 0.95, "dsp": 0.9}
GRAIN = 512  # words; what a block RAM holds at its widest
ROOMY = 1 << (ADDRESS_BITS - 1)  # words; where a schedule shows what it needs
WEIGHT_WORDS = (32768, 24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1024)
STREAMED = ("parameter_words", "norm_words")
BUFFERED_ROW_TILES = 2  # LayerNorm reads one while it writes the other


@dataclass(frozen=True)
class Pick:
    """An accelerator for one model on one board.

    Attributes:
        board: that it fits.
        program: the model's, for it.
        cycles: predicted, of an image.
        resources: predicted.
    """

    board: Board
    program: Program
    cycles: int
    resources: Resources

    @property
    def config(self) -> HardwareConfig:
        """The accelerator."""
        return self.program.config

    @property
    def images_per_second(self) -> float:
        """Predicted, at the board's clock."""
        return self.config.clock_mhz * 1e6 / self.cycles

    def shares(self) -> dict[str, float]:
        """Kind of resource → share of the part's; those that the part has none of left out."""
        return dict(_shares(self.resources, self.board))


def pick(graph: QuantGraph, board: Board) -> Pick:
    """The accelerator for `graph` on `board`: the standard one, or the fastest that fits.

    Raises:
        CapacityError: none fits; names the tensor and memory that did not, in the smallest.
        UnsupportedModelError: a combination of nodes that has no instructions.
    """
    standard = _standard(graph, board)
    refusal: CapacityError | None = None
    for parts in PARTS:
        try:
            fastest = _fastest(_Cut(graph, parts), board)
        except CapacityError as error:
            refusal = refusal or error
        else:
            return _better(standard, fastest)
        if standard is not None:  # what is cut into parts is slower
            return standard
    assert refusal is not None
    raise refusal


def _standard(graph: QuantGraph, board: Board) -> Pick | None:
    """The board's standard accelerator, if the whole graph fits it and it fits the board."""
    if graph.gathers_maps and not board.config.maps:
        return None
    try:
        _check(board.config, board)
        return _picked(schedule(graph, board.config), board)
    except CapacityError:
        return None


def _better(standard: Pick | None, fastest: Pick) -> Pick:
    worth = STANDARD_SPEED * fastest.images_per_second
    if standard is not None and standard.images_per_second >= worth:
        return standard
    return fastest


def _fastest(cut: _Cut, board: Board) -> Pick:
    best: Pick | None = None
    refusal: CapacityError | None = None
    for shape in SHAPES:
        base = _base(board, *shape, maps=cut.maps)
        if best is not None and _bound(best, base) < GAIN * best.images_per_second:
            continue
        try:
            found = _fit(cut, base, board)
        except CapacityError as error:
            refusal = error
            continue
        if best is None or found.images_per_second > best.images_per_second:
            best = found
    if best is None:
        assert refusal is not None
        raise refusal
    return best


def boards_that_would_do(graph: QuantGraph) -> list[str]:
    """Names of the boards that an accelerator for `graph` fits, by the depth of its memories."""
    cuts = [_Cut(graph, parts) for parts in PARTS]
    return [board.name for board in BOARDS.values() if _would_do(board, cuts)]


def _would_do(board: Board, cuts: Sequence[_Cut]) -> bool:
    return any(
        _could_fit(cut, base, board)
        for shape in SHAPES
        for cut in cuts
        for base in (_base(board, *shape, maps=cut.maps),)
    )


def _could_fit(cut: _Cut, base: HardwareConfig, board: Board) -> bool:
    try:
        return not _excess(_deep(base, cut.about(base)), board)
    except CapacityError:
        return False


class _Cut:
    """A graph in parts, and how deep its memories must be, without a schedule for each shape.

    One schedule, for the shape that takes least time, tells the bytes; other shapes pack the same
    bytes into other words. Where groups of a map's channels are padded to tiles, it takes one for
    each tile side.

    Attributes:
        parts: at most so many.
        maps: whether it takes an accelerator that gathers them.
    """

    def __init__(self, graph: QuantGraph, parts: int) -> None:
        self._whole = graph
        self.parts = parts
        self.maps = graph.gathers_maps
        self._schedules: dict[tuple[int, int, int], tuple[HardwareConfig, dict[str, int]]] = {}

    @cached_property
    def graph(self) -> QuantGraph:
        """What is scheduled."""
        return split(self._whole, self.parts)

    def _known(self, tile: int) -> tuple[HardwareConfig, dict[str, int]]:
        shape = next(shape for shape in SHAPES if shape[0] == tile or not self.maps)
        if shape not in self._schedules:
            config = _base(next(iter(BOARDS.values())), *shape, maps=self.maps)
            self._schedules[shape] = config, _used(schedule(self.graph, config))
        return self._schedules[shape]

    def about(self, config: HardwareConfig) -> dict[str, int]:
        """Depths for `config`: at least that, a little padding aside.

        Raises:
            CapacityError: instructions cannot address that many words.
        """
        known, depths = self._known(config.tile)
        rough = {
            name: depth * _bits(known, name) // _bits(config, name)
            for name, depth in depths.items()
        }
        depths = {name: max(1, depth * 4 // 5) for name, depth in rough.items()}
        for name, depth in depths.items():
            if depth > 1 << ADDRESS_BITS:
                memory = name.removesuffix("_words")
                raise CapacityError(
                    f"The {memory} memory would need some {depth} words of "
                    f"{_bits(config, name)} bits; instructions address {1 << ADDRESS_BITS}.",
                    "Use a smaller model: fewer tokens (frames, a smaller image, larger patches) "
                    "or channels.",
                )
        return depths | dict.fromkeys((*STREAMED, "right_words"), GRAIN)


def _bits(config: HardwareConfig, name: str) -> int:
    """Of a word of the memory whose depth is called `name`."""
    memory = name.removesuffix("_words")
    return config.word_bits(Memory.RESIDUAL if memory == "norm_buffer" else Memory(memory))


def plan(graph: QuantGraph, program: Program) -> str:
    """What to expect of `program`, in a sentence or two; and what cutting `graph` up costs."""
    config, cycles = program.config, estimate(program).cycles
    speed = config.clock_mhz * 1e6 / cycles
    text = (
        f"Predicted: {cycles:,} cycles an image, {speed:,.1f} images a second at "
        f"{config.clock_mhz} MHz."
    )
    if program.parts == 1:
        return text
    roomy = _deep(config, dict.fromkeys(_depths(config), ROOMY))
    whole = estimate(schedule(graph, roomy)).cycles
    return (
        f"{text}\nHidden layers are cut into up to {program.parts} parts, since they do not fit on "
        f"chip at once; that costs {cycles / whole - 1:.1%} of the cycles ({whole:,} with more "
        "memory) and some accuracy, for the residual stream is rounded after each part."
    )


def _base(board: Board, tile: int, depth: int, lanes: int, *, maps: bool) -> HardwareConfig:
    shape = replace(
        board.config,
        tile=tile,
        depth=depth,
        lanes=lanes,
        bus_bits=board.memory_port_bits,
        maps=maps,
        board=board.name,
    )
    return _deep(shape, dict.fromkeys(_depths(shape), ROOMY))


def _deep(config: HardwareConfig, depths: Mapping[str, Any]) -> HardwareConfig:
    return replace(config, **depths)


def _bound(best: Pick, base: HardwareConfig) -> float:
    """Images a second that `base` cannot exceed."""
    macs = sum(layer.macs for layer in best.program.layers)
    return base.clock_mhz * 1e6 * base.macs / macs


def _fit(cut: _Cut, base: HardwareConfig, board: Board) -> Pick:
    """The engine of `base` with memories that suit graph and board."""
    _check(_deep(base, dict.fromkeys(_depths(base), GRAIN)), board)  # the logic alone
    _check(_deep(base, cut.about(base)), board)
    used = _used(schedule(cut.graph, base))
    needed = {name: -(-depth // GRAIN) * GRAIN for name, depth in used.items()}
    # What streams through gets by with little, as a rule.
    little = needed | dict.fromkeys(STREAMED, GRAIN)
    try:
        config = _with_weights(_deep(base, little), board)
        program = schedule(cut.graph, config)
    except CapacityError:
        config = _with_weights(_deep(base, needed), board)
        program = schedule(cut.graph, config)
    return _picked(replace(program, parts=cut.parts), board)


def _picked(program: Program, board: Board) -> Pick:
    resources = estimate_resources(program.config, board)
    return Pick(board, program, estimate(program).cycles, resources)


def _depths(config: HardwareConfig) -> Iterator[str]:
    return (field.name for field in fields(config) if field.name.endswith("_words"))


def _used(program: Program) -> dict[str, int]:
    """Words used of each memory but that of the weights, by its name in HardwareConfig."""
    used = {entry.memory: entry.used for entry in report(program).memories}
    depths = {
        f"{memory.value}_words": used[memory.value]
        for memory in Memory
        if memory is not Memory.RIGHT
    }
    depths["residual_words"] = _residual_words(program.allocations)
    beats = program.config.beats_per_tile
    norms = [i.inner * beats for i in program.instructions if isinstance(i, isa.Norm)]
    depths["norm_buffer_words"] = BUFFERED_ROW_TILES * max(norms, default=1)
    return depths


def _residual_words(allocations: Sequence[Allocation]) -> int:
    """What stands there at once, and room for what streams: it gets by with little."""
    entries = [entry for entry in allocations if entry.memory is Memory.RESIDUAL]
    standing = [entry for entry in entries if not entry.streamed]
    chunk = max((entry.words for entry in entries if entry.streamed), default=0)
    return most_alive(standing) + CHUNKS_IN_RING * chunk


def _with_weights(config: HardwareConfig, board: Board) -> HardwareConfig:
    """`config` with the deepest memory for weights, keys and values that fits the board."""
    for words in WEIGHT_WORDS:
        candidate = replace(config, right_words=words)
        if not _excess(candidate, board):
            return candidate
    _check(replace(config, right_words=WEIGHT_WORDS[-1]), board)
    raise AssertionError("the last one was refused above")


def _check(config: HardwareConfig, board: Board) -> None:
    if excess := _excess(config, board):
        depths = ", ".join(f"{name} {getattr(config, name)}" for name in _depths(config))
        raise CapacityError(
            f"An accelerator of {config.macs} MACs with {depths} takes {', '.join(excess)} of what "
            f"{board.name} has.",
            "Use a larger board, or a smaller model.",
        )


def fits(config: HardwareConfig, board: Board) -> bool:
    """Whether the accelerator goes onto the board, at its clock and beside its memory port."""
    slow_enough = config.clock_mhz <= board.config.clock_mhz
    narrow_enough = config.bus_bits <= board.memory_port_bits
    return slow_enough and narrow_enough and not _excess(config, board)


def _excess(config: HardwareConfig, board: Board) -> list[str]:
    """The resources of which `config` takes more than it may, in words."""
    shares = _shares(estimate_resources(config, board), board)
    return [
        f"{share:.0%} of the {name.replace('_', ' ')}"
        for name, share in shares
        if share > HEADROOM[name]
    ]


def _shares(resources: Resources, board: Board) -> Iterator[tuple[str, float]]:
    for name in HEADROOM:
        taken, there = getattr(resources, name), getattr(board.resources, name)
        if there:
            yield name, taken / there
        elif taken:
            yield name, float("inf")
