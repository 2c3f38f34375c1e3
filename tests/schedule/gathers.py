"""Programs of GATHERs, written by hand: what each leaves in left memory becomes an output.

The map comes from the input buffer: int8 patches, two of which make an int16 of the map. A product
with the identity brings int8 results from left to residual memory as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.isa import LoadTarget, Region, Source, Unit
from vitessera.codegen.numerics import NormConstants
from vitessera.codegen.packing import (
    Int8Array,
    pack_norm,
    pack_operand,
    pack_parameters,
    to_dram,
    unpack_residual,
)
from vitessera.codegen.program import OutputDescription, Program, pack_input
from vitessera.codegen.schedule.product import product_program

IntArray = npt.NDArray[np.int64]
WIDTH, HEIGHT, TILES = 7, 5, 3  # of the map, which has TILES column tiles
PIXELS = WIDTH * HEIGHT
EPSILON = (5, 7)  # mantissa, exponent


@dataclass(frozen=True)
class Step:
    """A NORM or GATHER of column tiles of the map from `first` on; without places and waits."""

    instruction: isa.Norm | isa.Gather
    first: int


def gather(config: HardwareConfig, first: int, rows: int, **fields: int) -> Step:
    """A GATHER with so many rows of result, prefix included."""
    inner = fields.get("inner", 1)
    group = fields.get("group", 0)
    constants = group_constants(PIXELS * (inner if 1 << group == config.tile else 1) << group)
    return Step(
        isa.Gather(
            **{"columns": WIDTH, "kernel_width": 1, "kernel_height": 1, "step": 1}
            | {"outer": -(-rows // config.tile), "tiles": TILES, "width": WIDTH, "height": HEIGHT}
            | {"channels": constants.channels, "inverse": constants.inverse, "shift": 19}
            | {"sum_shift": constants.sum_shift}
            | {"eps_mantissa": EPSILON[0], "eps_exponent": EPSILON[1]}
            | fields
        ),
        first,
    )


def group_constants(count: int) -> NormConstants:
    """Of a group of so many numbers."""
    sum_shift = max(0, count.bit_length() - 12)
    channels = int(numerics.round_shift(np.int64(count), sum_shift))
    inverse = round(2 ** (numerics.INVERSE_BITS + sum_shift) / count)
    return NormConstants(channels, inverse, *EPSILON, 0, sum_shift=sum_shift)


def steps(config: HardwareConfig) -> tuple[Step, ...]:
    """Small and large groups, poolings, the pixel of a 3 x 3 kernel, prefixes, and a NORM."""
    whole = config.tile.bit_length() - 1
    pooled = {"columns": 4, "step": 2, "x": -1, "y": -1, "kernel_width": 3, "kernel_height": 3}
    return (
        gather(config, 0, 12, group=1, statistics=1, relu=1, **pooled),
        gather(config, 0, PIXELS + 1, group=1, x=-1, y=-1, prefix=1),
        gather(config, 1, 12, group=0, statistics=1, columns=4, step=2, x=1, y=1),
        Step(layer_norm(config), 0),
        gather(config, 1, 5 + 3 * 3, group=whole, statistics=1, inner=2, prefix=5, columns=3),
        gather(
            *(config, 1, 6),
            **{"group": whole, "inner": 2, "columns": 3, "step": 2, "relu": 1},
            **{"kernel_width": 2, "kernel_height": 2},
        ),
        gather(config, 0, 6, plain=1, inner=3, columns=2, step=4, shift=21),
    )


def layer_norm(config: HardwareConfig) -> isa.Norm:
    """Of two row tiles of the map, its first two column tiles."""
    channels = 2 * config.tile
    return isa.Norm(
        outer=2,
        inner=2,
        base_outer=TILES * config.beats_per_tile,
        inner_stride=config.words_per_tile,
        channels=channels,
        inverse=round(2**numerics.INVERSE_BITS / channels),
        eps_mantissa=EPSILON[0],
        eps_exponent=EPSILON[1],
        shift=18,
    )


@dataclass(frozen=True)
class Gathers:
    """A program of steps, and what it computes."""

    config: HardwareConfig
    steps: tuple[Step, ...]

    @cached_property
    def affine(self) -> tuple[IntArray, IntArray]:
        """Gamma and beta of the map's channels."""
        rng, channels = np.random.default_rng(8), TILES * self.config.tile
        return rng.integers(-9000, 9000, channels), rng.integers(-(2**22), 2**22, channels)

    @property
    def row_tiles(self) -> int:
        """Of the map."""
        return -(-PIXELS // self.config.tile)

    @property
    def patches_shape(self) -> tuple[int, int]:
        """Of the int8 patches that the map is made of."""
        return self.row_tiles * self.config.tile, 2 * TILES * self.config.tile

    @cached_property
    def program(self) -> Program:
        """All steps on one map, each result an output."""
        config = self.config
        loads, weights = self._loads()
        instructions, outputs = self._body()
        listing = (*loads, *instructions, isa.End(wait=1 << Source.STORE))
        base = product_program(config, *self.patches_shape, 1)
        return replace(
            base,
            instructions=listing,
            labels=tuple("" for _ in listing),
            weights=weights,
            outputs=outputs,
            layers=(),
            allocations=(),
            values=(),
        )

    @property
    def _map_words(self) -> int:
        return self.row_tiles * TILES * self.config.beats_per_tile

    def _identities(self) -> list[Int8Array]:
        """Right operands that leave 1, 2 and 3 column tiles as they are."""
        sizes = [inner * self.config.tile for inner in range(1, TILES + 1)]
        return [pack_operand(np.eye(size, dtype=np.int8), self.config) for size in sizes]

    def _loads(self) -> tuple[list[isa.Load], bytes]:
        config = self.config
        ones = np.ones(config.tile, np.int64)
        constants = (
            (LoadTarget.NORM, pack_norm(*self.affine, config)),
            (LoadTarget.PARAMETER, pack_parameters(0 * ones, ones, 0 * ones, config)),
            (LoadTarget.RIGHT, np.concatenate(self._identities())),
        )
        loads, weights = [], b""
        for target, words in constants:
            loads.append(isa.Load(target=target, words=len(words), offset=len(weights)))
            weights += to_dram(words, Memory[target.name], config)
        signal = 1 << Unit.NORM | 1 << Unit.EPILOGUE
        source = {"target": LoadTarget.RESIDUAL, "region": Region.INPUT}
        loads.append(isa.Load(signal=signal, words=self._map_words, **source))
        return loads, weights

    def _body(self) -> tuple[list[isa.Instruction], tuple[OutputDescription, ...]]:
        config = self.config
        beats, words = config.beats_per_tile, config.words_per_tile
        found: list[isa.Instruction] = []
        outputs: list[OutputDescription] = []
        left, address = 0, self._map_words
        for n, step in enumerate(self.steps):
            c = step.instruction
            row_words, tiles = c.inner * words, c.outer * c.inner
            before = [len(identity) for identity in self._identities()[: c.inner - 1]]
            found += (
                replace(
                    c,
                    wait=(n == 0) << Source.LOAD,
                    signal=1 << Unit.COMPUTE,
                    base=step.first * beats,
                    address=left,
                    outer_stride=row_words,
                    parameter=step.first * config.beats_per_row,
                ),
                isa.Compute(
                    wait=1 << Source.NORM,
                    **{"outer": c.outer, "inner": c.inner, "depth": row_words},
                    **{"left_base": left, "left_outer": row_words, "left_step": 1},
                    **{"right_base": sum(before), "right_inner": row_words, "right_step": 1},
                ),
                isa.Epilogue(
                    wait=(n == 0) << Source.LOAD,
                    signal=(n == len(self.steps) - 1) << Unit.STORE,
                    target=isa.EpilogueTarget.RESIDUAL,
                    **{"outer": c.outer, "inner": c.inner, "scale": 1, "address": address},
                    **{"outer_stride": c.inner * beats, "inner_stride": beats},
                ),
            )
            start = (address - self._map_words) * config.dram_bytes_per_word(Memory.RESIDUAL)
            rows, channels = c.outer * config.tile, c.inner * config.tile
            scale = (1.0,) * channels
            place = (start, tiles * beats, rows, channels, 0, scale, 0)
            outputs.append(OutputDescription(f"step{n}", *place))
            left, address = left + tiles * words, address + tiles * beats
        found.append(
            isa.Store(
                wait=1 << Source.RESIDUAL,
                signal=1 << Unit.CONTROL,
                region=Region.OUTPUT,
                address=self._map_words,
                words=address - self._map_words,
            )
        )
        return found, tuple(outputs)

    def map_of(self, patches: Int8Array) -> IntArray:
        """The map [pixels and padding, channels] that patches stand for."""
        words = np.frombuffer(pack_input(self.program, patches), "<i2")
        shaped = words.reshape(-1, self.config.lanes)
        channels = TILES * self.config.tile
        return unpack_residual(shaped, channels, self.config).astype(np.int64)

    def expected(self, patches: Int8Array) -> list[IntArray]:
        """The result of each step [rows, channels], by whole maps."""
        pixels = self.map_of(patches)
        return [self._result(step, pixels) for step in self.steps]

    def _result(self, step: Step, pixels: IntArray) -> IntArray:
        c, tile = step.instruction, self.config.tile
        channels = slice(step.first * tile, (step.first + c.inner) * tile)
        gamma, beta = (values[channels] for values in self.affine)
        constants = NormConstants(
            *(c.channels, c.inverse, c.eps_mantissa, c.eps_exponent, c.shift),
            plain=bool(c.plain),
            sum_shift=c.sum_shift if isinstance(c, isa.Gather) else 0,
        )
        if isinstance(c, isa.Norm):
            rows = pixels[: c.outer * tile, channels]
            return numerics.layer_norm(rows, gamma, beta, constants)
        groups = 1 if 1 << c.group == tile else tile >> c.group
        groups = c.inner if c.plain else groups
        x = pixels[:PIXELS, channels]
        y = numerics.group_norm(x, gamma, beta, constants, groups)
        y = np.maximum(y, 0) if c.relu else y
        result = np.zeros((c.outer * tile, y.shape[1]), np.int64)
        for row in range(c.prefix, len(result)):
            seen = [*_seen(c, row - c.prefix)]
            if seen:
                result[row] = y[seen].max(axis=0)
        return result


def _seen(c: isa.Gather, number: int) -> Iterator[int]:
    """The pixels inside the map that a result of the grid sees."""
    line, column = divmod(number, c.columns)
    for i, j in np.ndindex(c.kernel_height, c.kernel_width):
        y, x = c.y + line * c.step + i, c.x + column * c.step + j
        if 0 <= y < c.height and 0 <= x < c.width:
            yield y * c.width + x


def random_patches(case: Gathers, count: int) -> Sequence[Int8Array]:
    """Different ones."""
    rng = np.random.default_rng(17)
    size = (count, *case.patches_shape)
    return list(rng.integers(-127, 128, size, dtype=np.int8))
