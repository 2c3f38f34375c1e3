"""Where matrices stand: which memory a value is needed in, and how its words follow each other.

A value can be needed in several places (the rows of a product, the keys of an attention, ...);
its producer then runs once for each. Demands are collected from consumers, so nothing here knows
the shape of a transformer block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ..config import HardwareConfig, Memory
from ..errors import CapacityError, UnsupportedModelError, missing_case
from ..packing import round_up
from ..quantgraph import (
    Arrange,
    Attention,
    Constant,
    Gather,
    Norm,
    PatchInput,
    Pool,
    Product,
    QuantGraph,
    QuantNode,
    SelectToken,
)

ANOTHER_TILE = "Choose a tile side, in a --config, that divides the channels of a head or group."


class Place(Enum):
    """A memory and the packing of words in it."""

    LEFT_ROWS = "left operand"
    RIGHT_ROWS = "right operand"
    RIGHT_COLUMNS = "transposed right operand"
    RESIDUAL = "residual stream"

    @property
    def memory(self) -> Memory:
        """The memory."""
        if self is Place.LEFT_ROWS:
            return Memory.LEFT
        return Memory.RESIDUAL if self is Place.RESIDUAL else Memory.RIGHT

    @property
    def transposed(self) -> bool:
        """Whether words hold T channels of V tokens."""
        return self is Place.RIGHT_COLUMNS

    @property
    def bits(self) -> int:
        """Bits of a value that stands here."""
        return 16 if self is Place.RESIDUAL else 8


@dataclass(frozen=True)
class Channels:
    """How a value's channels are padded: each of `heads` groups to whole tiles.

    Attributes:
        count: true channels.
        heads: groups that are padded on their own; 1 when heads are whole tiles anyway.
        tile: T.
    """

    count: int
    heads: int
    tile: int

    @property
    def head(self) -> int:
        """Padded channels of one group."""
        return round_up(self.count // self.heads, self.tile)

    @property
    def padded(self) -> int:
        """Padded channels of all groups."""
        return self.heads * self.head

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Where each true channel stands among the padded ones."""
        size = self.count // self.heads
        starts = np.arange(self.heads, dtype=np.int64)[:, None] * self.head
        return (starts + np.arange(size, dtype=np.int64)).reshape(-1)

    def spread(self, values: npt.NDArray[np.generic], axis: int = 0) -> npt.NDArray[np.generic]:
        """`values` with zeros at the padding channels of `axis`."""
        shape = list(values.shape)
        shape[axis] = self.padded
        spread = np.zeros(shape, values.dtype)
        np.moveaxis(spread, axis, 0)[self.positions] = np.moveaxis(values, axis, 0)
        return spread


@dataclass(frozen=True)
class Grid:
    """A matrix of tiles in one memory.

    Attributes:
        place: memory and packing.
        row_tiles, column_tiles: size in tiles; rows are tokens, columns are channels.
        config: tells the size of tiles in words.
    """

    place: Place
    row_tiles: int
    column_tiles: int
    config: HardwareConfig

    @property
    def tile_words(self) -> int:
        """Words of one tile."""
        residual = self.place is Place.RESIDUAL
        return self.config.beats_per_tile if residual else self.config.words_per_tile

    @property
    def row_stride(self) -> int:
        """Words from one row tile to the next."""
        return self.tile_words * (1 if self.place.transposed else self.column_tiles)

    @property
    def column_stride(self) -> int:
        """Words from one column tile to the next."""
        return self.tile_words * (self.row_tiles if self.place.transposed else 1)

    @property
    def words(self) -> int:
        """Words of the whole matrix."""
        return self.tile_words * self.row_tiles * self.column_tiles


def demands(graph: QuantGraph) -> dict[str, tuple[Place, ...]]:
    """For each value, the places that its consumers need it in.

    Raises:
        UnsupportedModelError: a consumer needs a value in other bits than it has.
    """
    found: dict[str, list[Place]] = {node.name: [] for node in graph}
    for _, name in graph.outputs:
        found[name].append(Place.RESIDUAL)
    for node in reversed(graph.nodes):
        for name, places in _reads(node, tuple(found[node.name])):
            found[name] += [place for place in places if place not in found[name]]
    for node in graph:
        _check_bits(node, found[node.name])
    return {name: tuple(places) for name, places in found.items()}


def _reads(node: QuantNode, wanted: tuple[Place, ...]) -> list[tuple[str, tuple[Place, ...]]]:
    """What `node` needs its inputs as, when its own value is needed in `wanted`."""
    if not wanted:
        return []
    places: tuple[tuple[Place, ...], ...]
    match node:
        case Product():
            places = ((Place.LEFT_ROWS,), (Place.RESIDUAL,))
        case Attention():
            places = ((Place.LEFT_ROWS,), (Place.RIGHT_ROWS,), (Place.RIGHT_COLUMNS,))
        case Pool() | Arrange():
            places = ((Place.RIGHT_COLUMNS,),)
        case Norm() | Gather():
            places = ((Place.RESIDUAL,),)
        case SelectToken():
            places = (wanted,)
        case PatchInput() | Constant():
            places = ()
        case _:
            raise missing_case(node, "The layout")
    return list(zip(node.inputs, places, strict=False))


def _check_bits(node: QuantNode, places: list[Place]) -> None:
    for place in places:
        if place.bits != node.value.bits:
            raise UnsupportedModelError(
                f"{node.name} is an int{node.value.bits} value, but is used as {place.value}, "
                f"which takes int{place.bits}.",
                "This is the quantiser's to decide; please report the model.",
            )


def channel_layouts(graph: QuantGraph, config: HardwareConfig) -> dict[str, Channels]:
    """The padding of every value's channels.

    Raises:
        CapacityError: heads or groups need a padding that the producer cannot give.
    """
    heads: dict[str, int] = {}
    for node in graph:
        if isinstance(node, Attention):
            for name in (*node.inputs, node.name):
                channels = graph[name].value.channels
                _require_heads(graph, heads, name, _padded_heads(channels, node.heads, config))
    gathers = [node for node in graph if isinstance(node, Gather)]
    for gather in gathers:
        if not gather.constants.plain and _splits_tiles(gather, graph, config):
            _require_heads(graph, heads, gather.inputs[0], gather.groups)
    for gather in gathers:
        _check_groups(gather, heads.get(gather.inputs[0], 1))
        # Of each pixel of the kernel whole column tiles are gathered.
        parts = math.prod(gather.unfold.kernel) * heads.get(gather.inputs[0], 1)
        padded = _padded_heads(gather.value.channels, parts, config)
        _require_heads(graph, heads, gather.name, padded)
    for node in graph:
        if isinstance(node, SelectToken | Arrange | Pool):
            heads.setdefault(node.name, heads.get(node.inputs[0], 1))
    layouts = {
        node.name: Channels(node.value.channels, heads.get(node.name, 1), config.tile)
        for node in graph
    }
    _check_producers(graph, layouts)
    return layouts


def _splits_tiles(node: Gather, graph: QuantGraph, config: HardwareConfig) -> bool:
    """Whether a group neither is made of whole column tiles nor is one of several that fill one."""
    group = graph[node.inputs[0]].value.channels // node.groups
    return bool(group % config.tile and config.tile % group)


def _check_groups(node: Gather, heads: int) -> None:
    """CapacityError if groups overlap with the `heads` groups that are padded on their own."""
    if not node.constants.plain and heads % node.groups and node.groups % heads:
        raise CapacityError(
            f"{node.name} normalises {node.groups} groups of channels of {node.inputs[0]}, which "
            f"also is read with {heads} groups; neither are made of whole tiles.",
            ANOTHER_TILE,
        )


def _padded_heads(channels: int, heads: int, config: HardwareConfig) -> int:
    return heads if channels // heads % config.tile else 1


def _require_heads(graph: QuantGraph, heads: dict[str, int], name: str, count: int) -> None:
    """Notes that `name` has `count` separately padded heads; what picks tokens has its input's."""
    if heads.setdefault(name, count) != count:
        raise CapacityError(
            f"{name} is read with {heads[name]} and with {count} heads or groups of channels.",
            ANOTHER_TILE,
        )
    if isinstance(graph[name], SelectToken | Arrange):
        _require_heads(graph, heads, graph[name].inputs[0], count)


def _is_only_gathered(graph: QuantGraph, node: QuantNode) -> bool:
    """Whether the product's int16 result is a map that is read by nothing but GATHER."""
    outputs = {value for _, value in graph.outputs}
    readers = graph.consumers(node.name)
    gathered = bool(readers) and all(isinstance(reader, Gather) for reader in readers)
    return len(node.inputs) == 1 and gathered and node.name not in outputs


# What can give channels in groups that are padded on their own.
ARRANGING = Product | Attention | SelectToken | Arrange | Pool | Gather


def _check_producers(graph: QuantGraph, layouts: dict[str, Channels]) -> None:
    for node in graph:
        arranges = isinstance(node, ARRANGING)
        alone = node.value.bits == 8 or _is_only_gathered(graph, node)
        if layouts[node.name].heads > 1 and not (arranges and alone):
            raise CapacityError(
                f"{node.name} gives heads or groups, whose {node.value.channels} channels are no "
                f"whole tiles, but {type(node).__name__} cannot pad them where it stands.",
                ANOTHER_TILE,
            )
        if isinstance(node, PatchInput | Constant) and node.inputs:
            raise UnsupportedModelError(f"{node.name} has inputs.", "It must have none.")
