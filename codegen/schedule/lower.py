"""From the quantised network to stages of operations.

Every node becomes instructions whose addresses count from tensors; memory.py gives the tensors
their places and synchronize.py the instructions their semaphores.

**Row groups.** Work on rows is cut into a few groups of row tiles, so that LayerNorm of one group
runs beside the product of the next, and the next layer starts when its first group is there.

**Column chunks.** A product's weights and parameters stream through rings (see stages.py) in chunks
of whole column tiles. Each chunk meets all row groups before the next one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import isa
from ..config import HardwareConfig, Memory
from ..errors import CapacityError, UnsupportedModelError, missing_case
from ..graph import OUTSIDE
from ..packing import (
    pack_norm,
    pack_operand,
    pack_parameters,
    pack_residual,
    round_up,
    to_dram,
)
from ..program import Layer
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
    Requantization,
    SelectToken,
)
from .layout import Channels, Grid, Place, channel_layouts, demands
from .stages import Operation, Stage, Tensor

# Beside the chunk in use, wherever it stands, a ring of three chunks has room for the next one.
CHUNKS_IN_RING = 3

Rings = Mapping[Memory, int]  # words for streamed tensors

# That one GATHER reads.
MOST_COLUMN_TILES = isa.highest(isa.Gather, "inner")
# What the fields of GATHER that a model's geometry decides are called in messages.
WINDOW_LIMITS = {
    "outer": "row tiles that are gathered:",
    "inner": "column tiles of a group:",
    "tiles": "column tiles of the map:",
    "width": "pixels in a line of the map:",
    "height": "lines of the map:",
    "columns": "results in a line:",
    "step": "pixels from one result to the next:",
    "x": "the kernel begins at column",
    "y": "the kernel begins at line",
    "kernel_width": "pixels across of a max pool:",
    "kernel_height": "pixels down of a max pool:",
    "prefix": "class and register tokens:",
}
AS_IT_IS_SHIFT = 15  # of a multiplier that stands for one
CODES = {function: code for code, function in isa.FUNCTIONS.items()}


@dataclass(frozen=True)
class Tuning:
    """Choices that change the speed of a schedule, never its result.

    Attributes:
        row_groups: into how many groups rows are cut at most.
        first_chunks: into how many chunks the product of the input is cut at least: nothing else
            hides the loads of the first.
        resident: load all of every product's operands before it starts, and run it as one
            instruction; for benchmarks of the engine.
    """

    row_groups: int = 8
    first_chunks: int = 3
    resident: bool = False


@dataclass(frozen=True)
class Placement:
    """Where a value stands.

    Attributes:
        tensor: the block of words.
        start: word of the tensor that its first row tile begins at.
        grid: how words follow each other.
        row: row of the first row tile that is the value's first.
        tokens: true rows.
        channels: see Channels.
    """

    tensor: Tensor
    start: int
    grid: Grid
    row: int
    tokens: int
    channels: Channels

    def word(self, row_tile: int, column_tile: int = 0) -> int:
        """First word of a tile, counted from the tensor's start."""
        grid = self.grid
        return self.start + row_tile * grid.row_stride + column_tile * grid.column_stride


@dataclass(frozen=True)
class Stored:
    """A value that can be observed once `operation` is done."""

    name: str
    placement: Placement
    operation: Operation


@dataclass(frozen=True)
class Lowered:
    """What lower() makes of a network."""

    stages: tuple[Stage, ...]
    weights: bytes
    input: PatchInput
    input_size: int
    outputs: tuple[tuple[str, Placement, int], ...]  # name in the ONNX file, where, first byte
    layers: tuple[Layer, ...]
    values: tuple[Stored, ...]


@dataclass
class _Image:
    """The weights buffer while it is being filled; equal blocks are kept once."""

    config: HardwareConfig
    data: bytearray = field(default_factory=bytearray)
    offsets: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, words: npt.NDArray[Any], memory: Memory) -> int:
        """First byte of `words`; a known `key` is not added again."""
        if key not in self.offsets:
            self.offsets[key] = len(self.data)
            self.data += to_dram(words, memory, self.config)
        return self.offsets[key]


def split(count: int, pieces: int) -> list[range]:
    """`count` cut into `pieces` ranges of nearly equal length, none empty."""
    pieces = max(1, min(pieces, count))
    bounds = [count * i // pieces for i in range(pieces + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


def lower(graph: QuantGraph, config: HardwareConfig, tuning: Tuning, rings: Rings) -> Lowered:
    """The stages of `graph`; chunks are as large as `rings` allow.

    Raises:
        UnsupportedModelError: a combination of nodes that has no instructions.
        CapacityError: not even one column tile of a product fits.
    """
    return _Lowering(graph, config, tuning, rings).run()


class _Lowering:
    """Walks over the nodes and collects stages."""

    def __init__(
        self, graph: QuantGraph, config: HardwareConfig, tuning: Tuning, rings: Rings
    ) -> None:
        self._graph = graph
        self._config = config
        self._tuning = tuning
        self._rings = rings
        self._demands = demands(graph)
        self._channels = channel_layouts(graph, config)
        self._image = _Image(config)
        self._stages: list[Stage] = []
        self._placements: dict[tuple[str, Place], Placement] = {}
        self._overwritten: dict[tuple[str, Place], str] = {}  # and by which node
        self._chunk_count = 0
        self._values: dict[str, Stored] = {}
        self._outputs: list[tuple[str, Placement, int]] = []
        self._copies = 0
        self._input_size = 0

    def run(self) -> Lowered:
        """Lowers all nodes in order."""
        source = self._graph.source
        for node in self._graph:
            self._lower(node)
            self._store_outputs(node)
        return Lowered(
            stages=tuple(self._stages),
            weights=bytes(self._image.data),
            input=source,
            input_size=self._input_size,
            outputs=self._ordered_outputs(),
            layers=tuple(_layer(node, self._graph) for node in self._graph),
            values=tuple(self._values.values()),
        )

    def _lower(self, node: QuantNode) -> None:
        for place in self._demands[node.name]:
            match node:
                case PatchInput():
                    self._patch_input(node, place)
                case Constant():
                    pass  # loaded where it is read: what is added to it destroys it
                case Product():
                    self._product(node, place)
                case Attention():
                    self._attention(node, place)
                case Norm():
                    self._norm(node, place)
                case Gather():
                    self._gather(node, place)
                case SelectToken() | Arrange():
                    self._pick(node, place)
                case Pool():
                    self._pool(node, place)
                case _:
                    raise missing_case(node, "The scheduler")

    # --- Values and their places

    def _grid(self, place: Place, tokens: int, channels: int) -> Grid:
        tile = self._config.tile
        return Grid(place, round_up(tokens, tile) // tile, channels // tile, self._config)

    def _new(self, node: QuantNode, place: Place, tokens: int, row: int = 0) -> Placement:
        """A new block of words for the value of `node`."""
        channels = self._channels[node.name]
        grid = self._grid(place, tokens, channels.padded)
        suffix = "" if place is self._demands[node.name][0] else f" ({place.value})"
        tensor = Tensor(node.name + suffix, place.memory, grid.words)
        return Placement(tensor, 0, grid, row, node.value.tokens, channels)

    def _define(self, node: QuantNode, place: Place, where: Placement, last: Operation) -> None:
        self._placements[node.name, place] = where
        self._values.setdefault(node.name, Stored(node.name, where, last))

    def _read(self, name: str, place: Place, reader: str) -> Placement:
        """Where `reader` finds the value `name`."""
        source = self._graph[name]
        if isinstance(source, Constant) and (name, place) not in self._placements:
            self._placements[name, place] = self._constant(source)
        writer = self._overwritten.get((name, place))
        if writer is not None:
            raise UnsupportedModelError(
                f"{reader} reads {name} after {writer} has added to it in place.",
                "Let everything that reads the sum's first operand come before the addition.",
            )
        return self._placements[name, place]

    def _groups(self, grid: Grid) -> list[range]:
        """Row tiles in groups; see Tuning."""
        return split(grid.row_tiles, 1 if self._tuning.resident else self._tuning.row_groups)

    # --- Loads

    def _load(
        self,
        tensor: Tensor,
        layer: str,
        region: isa.Region,
        offset: int,
        words: range,
        group: int = -1,
    ) -> Operation:
        """LOAD of some words of a tensor whose first word lies at byte `offset`."""
        stride = self._config.dram_bytes_per_word(tensor.memory)
        load = isa.Load(
            target=isa.LoadTarget[tensor.memory.name],
            region=region,
            address=words.start,
            words=len(words),
            offset=offset + words.start * stride,
        )
        return Operation(load, (("address", tensor),), layer, group)

    def _load_all(self, tensor: Tensor, layer: str, offset: int) -> Operation:
        return self._load(tensor, layer, isa.Region.WEIGHTS, offset, range(tensor.words))

    def _load_groups(
        self, where: Placement, layer: str, region: isa.Region, offset: int
    ) -> list[Operation]:
        """One LOAD for each row group."""
        stride = where.grid.row_stride
        return [
            self._load(
                where.tensor,
                layer,
                region,
                offset,
                range(rows.start * stride, rows.stop * stride),
                group,
            )
            for group, rows in enumerate(self._groups(where.grid))
        ]

    def _patch_input(self, node: PatchInput, place: Place) -> None:
        if place.transposed or place is Place.RESIDUAL:
            raise UnsupportedModelError(
                f"The patches {node.name} are used as {place.value}.",
                "They can only be an operand that is not transposed.",
            )
        where = self._new(node, place, node.value.tokens)
        loads = self._load_groups(where, node.name, isa.Region.INPUT, 0)
        self._input_size = where.grid.words * self._config.dram_bytes_per_word(place.memory)
        self._stages.append(Stage(loads=loads))
        self._define(node, place, where, loads[-1])

    def _constant(self, node: Constant) -> Placement:
        """Loads a copy of the constant."""
        where = self._new(node, Place.RESIDUAL, node.value.tokens)
        if self._copies:
            tensor = Tensor(f"{node.name}#{self._copies}", where.tensor.memory, where.tensor.words)
            where = Placement(tensor, 0, where.grid, 0, where.tokens, where.channels)
        self._copies += 1
        words = pack_residual(node.data, self._config)
        offset = self._image.add(node.name, words, Memory.RESIDUAL)
        loads = self._load_groups(where, node.name, isa.Region.WEIGHTS, offset)
        self._stages.append(Stage(loads=loads))
        return where

    # --- Products

    def _product(self, node: Product, place: Place) -> None:
        left = self._read(node.inputs[0], Place.LEFT_ROWS, node.name)
        target = self._product_target(node, place, left)
        weight = self._padded_weight(node)
        steps = left.channels.padded // self._config.depth
        offset = self._image.add(
            f"{node.name}/weight", pack_operand(weight, self._config), Memory.RIGHT
        )
        parameters = self._parameters(node.name, node.requantization, target.channels)
        chunks = self._chunks(node, target, steps)
        for columns in chunks:
            tensor = self._streamed(f"{node.name}/weight", Memory.RIGHT, len(columns) * steps)
            start = offset + columns.start * steps * self._config.dram_bytes_per_word(Memory.RIGHT)
            streams = [self._load_all(tensor, node.name, start)]
            body = self._product_chunk(
                node, left, (tensor, steps), target, columns, (parameters, streams)
            )
            self._stages.append(Stage([], body, streams))
        self._define(node, place, target, self._stages[-1].body[-1])

    def _product_target(self, node: Product, place: Place, left: Placement) -> Placement:
        self._check_padding(node, place)
        if place is not Place.RESIDUAL or len(node.inputs) < 2:
            return self._new(node, place, left.grid.row_tiles * self._config.tile, left.row)
        base = self._read(node.inputs[1], Place.RESIDUAL, node.name)
        if (base.row, base.grid.row_tiles) != (left.row, left.grid.row_tiles):
            raise UnsupportedModelError(
                f"{node.name} adds row {base.row} of {node.inputs[1]} to row {left.row} of a "
                "product: they stand at different places in their tiles.",
                "Select the same token on both sides.",
            )
        if isinstance(self._graph[node.inputs[1]], Constant):
            del self._placements[node.inputs[1], Place.RESIDUAL]  # another reader loads its own
        for key, where in self._placements.items():
            if where.tensor == base.tensor:
                self._overwritten[key] = node.name
        return base

    def _check_padding(self, node: Product, place: Place) -> None:
        """LayerNorm sums over padding channels, which must be zero."""
        padded = self._channels[node.name].padded != node.value.channels
        readers = self._graph.consumers(node.name)
        normed = any(isinstance(reader, Norm | Gather) for reader in readers)
        if place is Place.RESIDUAL and node.requantization.offset and padded and normed:
            raise UnsupportedModelError(
                f"{node.name} has an offset, and LayerNorm reads its padding channels.",
                "Give int16 values no offset.",
            )

    def _padded_weight(self, node: Product) -> npt.NDArray[np.int8]:
        rows, columns = self._channels[node.name], self._channels[node.inputs[0]]
        padded = columns.spread(rows.spread(node.weight, 0), 1)
        return np.asarray(padded, np.int8)

    def _parameters(self, layer: str, step: Requantization, channels: Channels) -> int:
        """Puts parameter words of all channels into the weights buffer; the first byte."""
        bias, multiplier, shift = (
            channels.spread(np.broadcast_to(values, channels.count))
            for values in (step.bias, step.multiplier, step.shift)
        )
        words = pack_parameters(bias, multiplier, shift, self._config)
        return self._image.add(f"{layer}/parameters", words, Memory.PARAMETER)

    def _chunks(self, node: QuantNode, target: Placement, steps: int) -> list[range]:
        """Column tiles of `target` in chunks that fit the rings."""
        columns = target.grid.column_tiles
        if self._tuning.resident:
            return [range(columns)]
        fits = self._tiles_that_fit(node, Memory.PARAMETER, self._config.beats_per_row)
        if steps:
            fits = min(fits, self._tiles_that_fit(node, Memory.RIGHT, steps))
        first = isinstance(self._graph[node.inputs[0]], PatchInput)
        at_least = self._tuning.first_chunks if first else 1
        return split(columns, max(-(-columns // fits), at_least))

    def _tiles_that_fit(self, node: QuantNode, memory: Memory, words: int) -> int:
        """Column tiles of `words` words each that a chunk may hold, at least one."""
        ring = self._rings[memory]
        if words > ring:
            raise CapacityError(
                f"The {memory.value} memory has {self._config.words(memory)} words, of which "
                f"{ring} are left for operands that stream; one column tile of {node.name} takes "
                f"{words}.",
                f"Raise {memory.value}_words by at least {words - ring}, better three times that.",
            )
        return max(1, ring // CHUNKS_IN_RING // words)

    def _streamed(self, name: str, memory: Memory, words: int) -> Tensor:
        self._chunk_count += 1
        return Tensor(f"{name}[{self._chunk_count}]", memory, words, streamed=True)

    def _product_chunk(
        self,
        node: Product | Pool,
        left: Placement,
        right: tuple[Tensor, int],
        target: Placement,
        columns: range,
        parameters: tuple[int, list[Operation]],
    ) -> list[Operation]:
        """COMPUTE and EPILOGUE of some column tiles, for each row group.

        Args:
            node: what they belong to.
            left: left operand.
            right: tensor of the right operand, words from one column tile to the next.
            target: where results go.
            columns: column tiles of the target.
            parameters: first byte of the node's parameters in the weights buffer; the stage's
                streams, which their load is added to.
        """
        offset, streams = parameters
        streams.append(self._parameter_chunk(node.name, offset, columns))
        ((_, tensor),) = streams[-1].operands
        body = []
        for rows in self._groups(left.grid):
            compute = isa.Compute(
                outer=len(rows),
                inner=len(columns),
                depth=left.grid.column_tiles * self._config.words_per_tile,
                left_base=left.word(rows.start),
                left_outer=left.grid.row_stride,
                left_step=1,
                right_base=0 if right[0].streamed else columns.start * right[1],
                right_inner=right[1],
                right_step=1,
            )
            operands = (("left_base", left.tensor), ("right_base", right[0]))
            body.append(Operation(compute, operands, node.name))
            epilogue = self._epilogue(node.requantization, target, rows, columns)
            accumulate = int(isinstance(node, Product) and len(node.inputs) > 1)
            body.append(self._epilogue_operation(node.name, epilogue, target, tensor, accumulate))
        return body

    def _epilogue(
        self, step: Requantization, target: Placement, rows: range, columns: range
    ) -> dict[str, int]:
        """Fields of the EPILOGUE that writes a block of tiles of `target`."""
        grid = target.grid
        writes_to = {Place.LEFT_ROWS: "LEFT", Place.RESIDUAL: "RESIDUAL"}.get(grid.place, "RIGHT")
        return {
            "outer": len(rows),
            "inner": len(columns),
            "target": isa.EpilogueTarget[writes_to],
            "transpose": int(grid.place.transposed),
            "address": target.word(rows.start, columns.start),
            "outer_stride": grid.row_stride,
            "inner_stride": grid.column_stride,
            "parameter_inner": self._config.beats_per_row,
            **_rescaling(step),
        }

    @staticmethod
    def _epilogue_operation(
        layer: str, fields: dict[str, int], target: Placement, parameters: Tensor, accumulate: int
    ) -> Operation:
        operands = (("address", target.tensor), ("parameter", parameters))
        return Operation(isa.Epilogue(**fields, accumulate=accumulate), operands, layer)

    # --- Pooling and selection

    def _pool(self, node: Pool, place: Place) -> None:
        """A product of a row of ones and zeros with the transposed tokens."""
        right = self._read(node.inputs[0], Place.RIGHT_COLUMNS, node.name)
        tokens = right.grid.row_tiles * self._config.tile
        ones = np.zeros((1, tokens), np.int8)
        ones[0, right.row + node.start : right.row + node.stop] = 1
        offset = self._image.add(f"{node.name}/ones", pack_operand(ones, self._config), Memory.LEFT)
        grid = self._grid(Place.LEFT_ROWS, 1, tokens)
        tensor = Tensor(f"{node.name}/ones", Memory.LEFT, grid.words)
        left = Placement(tensor, 0, grid, 0, 1, Channels(tokens, 1, self._config.tile))
        target = self._new(node, place, 1)
        parameters = self._parameters(node.name, node.requantization, target.channels)
        self._stages.append(Stage(loads=[self._load_all(tensor, node.name, offset)]))
        for columns in self._chunks(node, target, 0):
            streams: list[Operation] = []
            body = self._product_chunk(
                node,
                left,
                (right.tensor, right.grid.column_stride),
                target,
                columns,
                (parameters, streams),
            )
            self._stages.append(Stage([], body, streams))
        self._define(node, place, target, self._stages[-1].body[-1])

    def _arrange(self, node: Arrange, place: Place) -> None:
        """A product of rows that hold a one, or nothing, with the transposed tokens.

        Each row tile reads only the tokens between its first and its last.
        """
        right = self._read(node.inputs[0], Place.RIGHT_COLUMNS, node.name)
        target = self._new(node, place, len(node.rows))
        parts = list(_picked_tokens(node, right, target.grid.row_tiles, self._config.tile))
        words = [pack_operand(part.ones, self._config) for part in parts]
        offset = self._image.add(f"{node.name}/ones", np.concatenate(words), Memory.LEFT)
        ones = Tensor(f"{node.name}/ones", Memory.LEFT, sum(map(len, words)))
        parameters = self._parameters(node.name, _as_it_is(node.value.channels), target.channels)
        self._stages.append(Stage(loads=[self._load_all(ones, node.name, offset)]))
        starts = [0, *itertools.accumulate(map(len, words))]
        for columns in self._chunks(node, target, 0):
            stream = self._parameter_chunk(node.name, parameters, columns)
            ((_, tensor),) = stream.operands
            body: list[Operation] = []
            for row_tile, part in enumerate(parts):
                compute = isa.Compute(
                    outer=1,
                    inner=len(columns),
                    depth=len(words[row_tile]),
                    left_base=starts[row_tile],
                    left_step=1,
                    right_base=right.word(part.first, columns.start),
                    right_inner=right.grid.column_stride,
                    right_step=1,
                )
                operands = (("left_base", ones), ("right_base", right.tensor))
                body.append(Operation(compute, operands, node.name))
                rows = range(row_tile, row_tile + 1)
                fields = self._epilogue(_as_it_is(node.value.channels), target, rows, columns)
                body.append(self._epilogue_operation(node.name, fields, target, tensor, 0))
            self._stages.append(Stage([], body, [stream]))
        self._define(node, place, target, self._stages[-1].body[-1])

    def _parameter_chunk(self, layer: str, offset: int, columns: range) -> Operation:
        """The LOAD of the parameters, which begin at byte `offset`, of some column tiles."""
        beats = self._config.beats_per_row
        tensor = self._streamed(f"{layer}/parameters", Memory.PARAMETER, len(columns) * beats)
        stride = self._config.dram_bytes_per_word(Memory.PARAMETER)
        return self._load_all(tensor, layer, offset + columns.start * beats * stride)

    def _pick(self, node: SelectToken | Arrange, place: Place) -> None:
        if isinstance(node, SelectToken):
            self._select(node, place)
        else:
            self._arrange(node, place)

    def _select(self, node: SelectToken, place: Place) -> None:
        """A view: the row stays where it is."""
        source = self._read(node.inputs[0], place, node.name)
        row_tile, row = divmod(source.row + node.index, self._config.tile)
        if place is not Place.LEFT_ROWS and place is not Place.RESIDUAL:
            raise UnsupportedModelError(
                f"{node.name} selects a token of {node.inputs[0]} as {place.value}.",
                "A selected token can only be a query, the rows of a product, or residual.",
            )
        grid = self._grid(place, 1, source.channels.padded)
        view = Placement(source.tensor, source.word(row_tile), grid, row, 1, source.channels)
        self._placements[node.name, place] = view

    # --- LayerNorm

    def _norm(self, node: Norm, place: Place) -> None:
        source = self._read(node.inputs[0], Place.RESIDUAL, node.name)
        target = self._new(node, place, source.grid.row_tiles * self._config.tile, source.row)
        self._check_norm_buffer(node, source.grid.column_tiles)
        load = self._norm_parameters(node, source)
        ((_, tensor),) = load.operands
        body = [
            self._norm_operation(node, source, target, tensor, rows)
            for rows in self._groups(source.grid)
        ]
        self._place_norm(node, Stage([], body, [load]))
        self._define(node, place, target, body[-1])

    def _norm_parameters(self, node: Norm | Gather, source: Placement) -> Operation:
        """The LOAD of gamma and beta of all channels."""
        gamma, beta = source.channels.spread(node.gamma), source.channels.spread(node.beta)
        words = pack_norm(gamma, beta, self._config)
        offset = self._image.add(f"{node.name}/norm", words, Memory.NORM)
        tensor = self._streamed(f"{node.name}/norm", Memory.NORM, len(words))
        return self._load_all(tensor, node.name, offset)

    def _check_norm_buffer(self, node: Norm, column_tiles: int) -> None:
        words = column_tiles * self._config.beats_per_tile
        if words > self._config.norm_buffer_words:
            raise CapacityError(
                f"A row tile of {node.name} takes {words} words, the norm buffer has "
                f"{self._config.norm_buffer_words}.",
                f"Raise norm_buffer_words to {words}.",
            )

    @staticmethod
    def _norm_operation(
        node: Norm, source: Placement, target: Placement, parameters: Tensor, rows: range
    ) -> Operation:
        constants = node.constants
        norm = isa.Norm(
            outer=len(rows),
            inner=source.grid.column_tiles,
            target=isa.NormTarget[target.tensor.memory.name],
            transpose=int(target.grid.place.transposed),
            plain=int(constants.plain),
            base=source.word(rows.start),
            base_outer=source.grid.row_stride,
            address=target.word(rows.start),
            outer_stride=target.grid.row_stride,
            inner_stride=target.grid.column_stride,
            channels=constants.channels,
            inverse=constants.inverse,
            eps_mantissa=constants.eps_mantissa,
            eps_exponent=constants.eps_exponent,
            shift=constants.shift,
        )
        operands = (
            ("base", source.tensor),
            ("address", target.tensor),
            ("parameter", parameters),
        )
        return Operation(norm, operands, node.name)

    def _place_norm(self, node: Norm, stage: Stage) -> None:
        """Appends `stage`, row group by row group among the product that makes its input."""
        product = self._stages[-1] if self._stages else Stage()
        epilogues = [
            index
            for index, operation in enumerate(product.body)
            if operation.layer == node.inputs[0] and isinstance(operation.instruction, isa.Epilogue)
        ]
        if len(epilogues) != len(stage.body):
            self._stages.append(stage)
            return
        product.streams += stage.streams
        for index, operation in reversed(list(zip(epilogues, stage.body, strict=True))):
            product.body.insert(index + 1, operation)

    # --- Maps

    def _gather(self, node: Gather, place: Place) -> None:
        source = self._read(node.inputs[0], Place.RESIDUAL, node.name)
        if place is not Place.LEFT_ROWS or source.row:
            raise UnsupportedModelError(
                f"{node.name} gathers row {source.row} and later ones of {node.inputs[0]} as "
                f"{place.value}.",
                "What is gathered can only be the rows of a product.",
            )
        if not self._config.maps:
            raise CapacityError(
                f"{node.name} gathers a map, and the configuration has maps = false.",
                "Set maps = true there, or choose a --board.",
            )
        target = self._new(node, place, node.value.tokens)
        load = self._norm_parameters(node, source)
        ((_, parameters),) = load.operands
        gathering = _Gathering(node, self._config, source, target, parameters)
        body = list(gathering.operations())
        self._stages.append(Stage([], body, [load]))
        self._define(node, place, target, body[-1])

    # --- Attention

    def _attention(self, node: Attention, place: Place) -> None:
        query = self._read(node.inputs[0], Place.LEFT_ROWS, node.name)
        target = self._new(node, place, query.grid.row_tiles * self._config.tile, query.row)
        tile = self._config.tile
        parameters = (
            self._attention_parameters(node, "scores", node.scores, Channels(tile, 1, tile)),
            self._attention_parameters(node, "mix", node.mix, self._channels[node.inputs[2]]),
        )
        (scores, _), (mix, _) = parameters
        heads = _Heads(
            node=node,
            config=self._config,
            query=query,
            key=self._read(node.inputs[1], Place.RIGHT_ROWS, node.name),
            value=self._read(node.inputs[2], Place.RIGHT_COLUMNS, node.name),
            target=target,
            score_parameters=scores,
            mix_parameters=mix,
            biases=tuple(self._bias_loads(node, query)),
        )
        heads.check(self._graph)
        steps = heads.steps(self._epilogue(node.mix, target, range(1), range(1)))
        loads = [self._load_all(tensor, node.name, offset) for tensor, offset in parameters]
        self._stages += _joined(Stage(streams=loads), steps)
        self._define(node, place, target, self._stages[-1].body[-1])

    def _attention_parameters(
        self, node: Attention, name: str, step: Requantization, channels: Channels
    ) -> tuple[Tensor, int]:
        """Tensor of one of an attention's requantisations, its first byte in the weights buffer."""
        offset = self._parameters(f"{node.name}/{name}", step, channels)
        words = channels.padded // self._config.lanes
        return self._streamed(f"{node.name}/{name}", Memory.PARAMETER, words), offset

    def _bias_loads(self, node: Attention, query: Placement) -> Iterator[Operation]:
        """A LOAD for each block: what is added to its scores, if the attention has a bias."""
        rows = query.grid.row_tiles * self._config.tile
        stride = self._config.dram_bytes_per_word(Memory.RESIDUAL)
        for head in () if node.bias is None else node.bias:
            padded = np.zeros((rows, head.shape[1]), np.int16)
            padded[query.row : query.row + len(head)] = head
            packed = pack_residual(padded, self._config)
            # Layers that share a bias, and heads that do, find it at one place.
            digest = hashlib.blake2b(packed.tobytes()).hexdigest()
            offset = self._image.add(f"bias/{digest}", packed, Memory.RESIDUAL)
            words = len(packed) // query.grid.row_tiles
            for block in range(query.grid.row_tiles):
                tensor = self._streamed(f"{node.name}/bias", Memory.RESIDUAL, words)
                yield self._load_all(tensor, node.name, offset + block * words * stride)

    # --- Outputs

    def _store_outputs(self, node: QuantNode) -> None:
        """Stores a result as soon as it is there: later layers may add to it in place."""
        for name, value in self._graph.outputs:
            if value != node.name:
                continue
            where = self._read(value, Place.RESIDUAL, f"output {name}")
            stride = self._config.dram_bytes_per_word(Memory.RESIDUAL)
            start = sum(placement.grid.words for _, placement, _ in self._outputs) * stride
            store = isa.Store(
                region=isa.Region.OUTPUT,
                address=where.start,
                words=where.grid.words,
                offset=start,
            )
            operation = Operation(store, (("address", where.tensor),), node.name)
            self._stages.append(Stage(body=[operation]))
            self._outputs.append((name, where, start))

    def _ordered_outputs(self) -> tuple[tuple[str, Placement, int], ...]:
        order = [name for name, _ in self._graph.outputs]
        return tuple(sorted(self._outputs, key=lambda output: order.index(output[0])))


def _joined(first: Stage, steps: Iterable[Stage]) -> Iterator[Stage]:
    """`first` and the steps after it; those that stream nothing join the stage before them."""
    stage = first
    for step in steps:
        if step.streams and stage.body:
            yield stage
            stage = Stage()
        stage.streams += step.streams
        stage.body += step.body
    yield stage


@dataclass(frozen=True)
class _Picked:
    """What one row tile takes of tokens.

    Attributes:
        first: the row tile of the tokens that holds the first it takes.
        ones: int8 [tile, tokens from there on], a one in the row that takes the token.
    """

    first: int
    ones: npt.NDArray[np.int8]


def _picked_tokens(
    node: Arrange, tokens: Placement, row_tiles: int, tile: int
) -> Iterator[_Picked]:
    """What each row tile of `node` takes of `tokens`."""
    rows = np.full(row_tiles * tile, OUTSIDE)
    rows[: len(node.rows)] = node.rows
    for taken in rows.reshape(row_tiles, tile):
        places = np.flatnonzero(taken != OUTSIDE)
        numbers = tokens.row + taken[places]
        first, last = (
            (int(n) // tile for n in (numbers.min(), numbers.max())) if len(places) else (0, 0)
        )
        ones = np.zeros((tile, (last - first + 1) * tile), np.int8)
        ones[places, numbers - first * tile] = 1
        yield _Picked(first, ones)


def _as_it_is(channels: int) -> Requantization:
    """The epilogue that gives int8 accumulators as they are."""
    multiplier = np.full(channels, 1 << AS_IT_IS_SHIFT, np.uint16)
    shift = np.full(channels, AS_IT_IS_SHIFT, np.uint8)
    return Requantization(np.zeros(channels, np.int32), multiplier, shift, pre_shift=0)


@dataclass(frozen=True)
class _Heads:
    """The operations of one attention.

    A block is T queries of one head. Scores of block b + 1 are computed before values are mixed
    by block b: that hides the latency of softmax. Probabilities have two slots, in turn. What is
    added to the scores of a block is loaded for it alone: `biases` holds a LOAD for each block, or
    none.
    """

    node: Attention
    config: HardwareConfig
    query: Placement
    key: Placement
    value: Placement
    target: Placement
    score_parameters: Tensor
    mix_parameters: Tensor
    biases: tuple[Operation, ...]

    def check(self, graph: QuantGraph) -> None:
        """UnsupportedModelError for operands that have no instructions."""
        if self.key.row or self.value.row or self.key.tokens != self.value.tokens:
            raise UnsupportedModelError(
                f"{self.node.name} does not read keys and values of the same tokens from the "
                "first on.",
                "Please report the model.",
            )
        offsets = [graph[name].value.offset for name in self.node.inputs[:2]]
        if all(np.any(offset) for offset in offsets) and self.query.channels.heads > 1:
            raise UnsupportedModelError(
                f"Queries and keys of {self.node.name} have offsets {offsets}, and heads are "
                "padded.",
                "Give one of them offset zero, or choose a tile side that divides the channels "
                "of a head.",
            )

    def steps(self, mix: dict[str, int]) -> Iterator[Stage]:
        """All blocks in order; `mix` holds the fields of the second product's epilogue."""
        blocks = [(head, rows) for head in range(self.node.heads) for rows in self._row_tiles()]
        words = self.key.grid.row_tiles * self.config.words_per_tile
        slots = [
            Tensor(f"{self.node.name}/probabilities{slot}", Memory.PROBABILITY, words)
            for slot in range(min(2, len(blocks)))
        ]
        for index, block in enumerate(blocks):
            bias = self.biases[index : index + 1]
            step = Stage(body=[*self._scores(*block, slots[index % 2], bias)], streams=[*bias])
            if index:
                step.body += self._mix(*blocks[index - 1], slots[(index - 1) % 2], mix)
            yield step
        yield Stage(body=[*self._mix(*blocks[-1], slots[(len(blocks) - 1) % 2], mix)])

    def _row_tiles(self) -> Sequence[int]:
        return range(self.query.grid.row_tiles)

    def _head_tiles(self, where: Placement) -> int:
        """Column tiles of one head."""
        return where.grid.column_tiles // self.node.heads

    def _scores(
        self, head: int, block: int, slot: Tensor, bias: Sequence[Operation]
    ) -> Iterator[Operation]:
        query, key, config = self.query, self.key, self.config
        tiles = self._head_tiles(query)
        compute = isa.Compute(
            outer=1,
            inner=key.grid.row_tiles,
            depth=tiles * config.words_per_tile,
            left_base=query.word(block, head * tiles),
            left_step=1,
            right_base=key.word(0, head * tiles),
            right_inner=key.grid.row_stride,
            right_step=1,
        )
        yield Operation(
            compute, (("left_base", query.tensor), ("right_base", key.tensor)), self.node.name
        )
        epilogue = isa.Epilogue(
            outer=1,
            inner=key.grid.row_tiles,
            target=isa.EpilogueTarget.SOFTMAX,
            inner_stride=config.words_per_tile,
            keys=key.tokens,
            accumulate=len(bias),
            **_rescaling(self.node.scores),
        )
        added = (("addend", tensor) for load in bias for _, tensor in load.operands)
        operands = (("address", slot), ("parameter", self.score_parameters), *added)
        yield Operation(epilogue, operands, self.node.name)

    def _mix(
        self, head: int, block: int, slot: Tensor, fields: dict[str, int]
    ) -> Iterator[Operation]:
        value, config = self.value, self.config
        tiles = self._head_tiles(value)
        compute = isa.Compute(
            left_source=isa.LeftSource.PROBABILITY,
            outer=1,
            inner=tiles,
            depth=-(-value.tokens // config.depth),
            left_step=1,
            right_base=value.word(0, head * tiles),
            right_inner=value.grid.column_stride,
            right_step=1,
        )
        yield Operation(
            compute, (("left_base", slot), ("right_base", value.tensor)), self.node.name
        )
        placed = {
            "inner": tiles,
            "row_scale": 1,
            "address": self.target.word(block, head * tiles),
            "parameter": head * tiles * config.beats_per_row,
        }
        operands = (("address", self.target.tensor), ("parameter", self.mix_parameters))
        yield Operation(isa.Epilogue(**fields | placed), operands, self.node.name)


@dataclass(frozen=True)
class _Gathering:
    """The operations that gather a map.

    Column tiles whose groups are normalised together are one block. A block is gathered once for
    each pixel of the kernel that is unfolded; the first time its statistics are taken.
    """

    node: Gather
    config: HardwareConfig
    source: Placement
    target: Placement
    parameters: Tensor

    def operations(self) -> Iterator[Operation]:
        """GATHER by GATHER."""
        height, width = self.node.unfold.kernel
        for block in self._blocks():
            for pixel in range(height * width):
                instruction = self._instruction(block, *divmod(pixel, width))
                _check_fields(self.node.name, instruction)
                operands = (
                    ("base", self.source.tensor),
                    ("address", self.target.tensor),
                    ("parameter", self.parameters),
                )
                yield Operation(instruction, operands, self.node.name)

    @property
    def _group(self) -> int:
        """Channels that are normalised together, padding included."""
        channels, groups = self.source.channels, self.node.groups
        if channels.heads % groups == 0:  # each is made of groups that are padded on their own
            return channels.head * (channels.heads // groups)
        return channels.count // groups

    def _blocks(self) -> Iterator[range]:
        tiles = self.source.grid.column_tiles
        step = max(1, self._group // self.config.tile)
        if self.node.constants.plain:
            step = min(tiles, MOST_COLUMN_TILES)
        for start in range(0, tiles, step):
            yield range(start, min(start + step, tiles))

    def _instruction(self, block: range, line: int, column: int) -> isa.Gather:
        """The GATHER of one block for one pixel of the unfolded kernel."""
        node, pool, unfold, constants = (
            self.node,
            self.node.pool,
            self.node.unfold,
            self.node.constants,
        )
        kernel_column = line * unfold.kernel[1] + column
        tile = self.config.tile
        height, width = pool.source
        top, left = (
            (place - before) * pool.stride - pooled_before
            for place, before, pooled_before in zip(
                (line, column), unfold.before, pool.before, strict=True
            )
        )
        first = not (line or column or constants.plain)
        return isa.Gather(
            outer=self.target.grid.row_tiles,
            inner=len(block),
            statistics=int(first),
            group=(min(self._group, tile)).bit_length() - 1,
            plain=int(constants.plain),
            relu=int(node.relu),
            base=self.source.word(0, block.start),
            tiles=self.source.grid.column_tiles,
            address=self.target.word(
                0, kernel_column * self.source.grid.column_tiles + block.start
            ),
            outer_stride=self.target.grid.row_stride,
            parameter=block.start * self.config.beats_per_row,
            channels=constants.channels,
            inverse=constants.inverse,
            eps_mantissa=constants.eps_mantissa,
            eps_exponent=constants.eps_exponent,
            sum_shift=constants.sum_shift,
            shift=constants.shift,
            width=width,
            height=height,
            columns=unfold.grid[1],
            step=unfold.stride * pool.stride,
            x=left,
            y=top,
            kernel_width=pool.kernel[1],
            kernel_height=pool.kernel[0],
            prefix=node.prefix,
        )


def _check_fields(layer: str, gather: isa.Gather) -> None:
    """CapacityError for a map or a window that is too large for the instruction."""
    for field_ in isa.fields(isa.Gather):
        value = getattr(gather, field_.name)
        if field_.name in WINDOW_LIMITS and not field_.least <= value <= field_.highest:
            raise CapacityError(
                f"{layer}: {WINDOW_LIMITS[field_.name]} {value}, GATHER holds {field_.least} to "
                f"{field_.highest}.",
                "Use a smaller image, smaller kernels, or an accelerator with a larger tile side.",
            )


def _rescaling(step: Requantization) -> dict[str, int]:
    """Fields of EPILOGUE that hold a requantisation's common constants."""
    return {
        "function": CODES[step.function],
        "pre_shift": step.pre_shift,
        "scale": step.scale,
        "scale_shift": step.scale_shift,
        "offset": step.offset,
    }


def _layer(node: QuantNode, graph: QuantGraph) -> Layer:
    tokens, channels = node.value.tokens, node.value.channels
    match node:
        case Product():
            macs = tokens * int(node.weight.size)
        case Attention():
            query, key = (graph[name].value for name in node.inputs[:2])
            macs = tokens * key.tokens * (query.channels + channels)
        case Pool():
            macs = (node.stop - node.start) * channels
        case PatchInput() | Constant() | Norm() | Gather() | SelectToken() | Arrange():
            macs = 0
        case _:
            raise missing_case(node, "The count of MACs")
    return Layer(node.name, type(node).__name__, macs)
