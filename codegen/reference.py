"""The integer reference: what a program computes, instruction by instruction.

This is the definition of right for the RTL. Instructions run in program order on modelled
memories; whatever the accelerator must never do (read a word nobody wrote, leave its buffers,
overflow an accumulator, wait for a semaphore that nobody raised) is a ProgramError that names the
instruction. A batch of images runs at once: every memory has a leading image axis, and one matrix
multiplication covers a whole COMPUTE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from . import isa, numerics
from .assembler import print_instruction
from .config import SOFTMAX_BLOCKS, Memory
from .errors import ProgramError, missing_case
from .gathering import all_pixels, inside, pixel_words, seen_pixels
from .graph import OUTSIDE
from .isa import FUNCTIONS
from .numerics import IntArray, SoftmaxState
from .packing import (
    NORM_TYPE,
    PARAMETER_TYPE,
    Int8Array,
    Int16Array,
    Uint8Array,
    from_dram,
    unpack_operand,
    unpack_residual,
)
from .program import Program, StoredValue, check_input, pack_input, unpack_outputs

ACCUMULATOR_MAX = (1 << 31) - 1
GROUP_SUM_BITS = 27  # of a group's sum after sum_shift, without its sign
GROUP_SQUARES_BITS = 42
BELOW_INT8 = -128  # less than any result
BATCH_BYTES = 1 << 28  # on-chip memories of one batch of images

Tap = Callable[[int, isa.Instruction, "Machine"], None]


class _Fault(Exception):  # noqa: N818 (becomes a ProgramError that knows the instruction)
    """What an instruction did wrong."""


def loop(base: int, *levels: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Addresses base + sum of index * stride over a loop nest of (count, stride) levels."""
    addresses = np.asarray(base, np.int64)
    for count, stride in levels:
        addresses = addresses[..., None] + np.arange(count, dtype=np.int64) * stride
    return addresses


def _once(count: int, stride: int) -> tuple[int, int]:
    """A loop level, run once when it does not move."""
    return (count, stride) if stride else (1, 0)


class Machine:
    """The accelerator's memories, for a batch of images.

    Args:
        program: what will run.
        inputs: input buffers, uint8 [images, bytes].
    """

    def __init__(self, program: Program, inputs: Uint8Array) -> None:
        config = program.config
        images, tile, depth = len(inputs), config.tile, config.depth
        self.config = config
        self._dram = {
            isa.Region.WEIGHTS: np.frombuffer(program.weights, np.uint8)[None],
            isa.Region.INPUT: inputs,
            isa.Region.OUTPUT: np.zeros((images, program.output_size), np.uint8),
        }
        self._operands = {
            memory: np.zeros((images, config.words(memory), tile, depth), np.int8)
            for memory in (Memory.LEFT, Memory.RIGHT, Memory.PROBABILITY)
        }
        self._maxima = np.zeros((images, config.probability_words, tile), np.int16)
        self._residual = np.zeros((images, config.residual_words, config.lanes), np.int16)
        self._constants = {
            Memory.PARAMETER: np.zeros((config.parameter_words, config.lanes), PARAMETER_TYPE),
            Memory.NORM: np.zeros((config.norm_words, config.lanes), NORM_TYPE),
        }
        self._written = {memory: np.zeros(config.words(memory), np.bool_) for memory in Memory}
        self._semaphores: dict[tuple[isa.Source, isa.Unit], int] = {}
        self._tiles: deque[tuple[isa.Compute, IntArray]] = deque()
        self._maximum_blocks: deque[IntArray] = deque()  # [images, T]
        self._reciprocal_blocks: deque[IntArray] = deque()  # [images, mantissa and exponent, T]
        self._group_statistics: numerics.Statistics | None = None  # [images, 1, 1, T columns]

    @property
    def outputs(self) -> Uint8Array:
        """Output buffers, uint8 [images, bytes]."""
        return self._dram[isa.Region.OUTPUT]

    def execute(self, instruction: isa.Instruction) -> None:
        """Runs one instruction; _Fault when the accelerator could not."""
        self._take_semaphores(instruction)
        match instruction:
            case isa.Load():
                self._load(instruction)
            case isa.Store():
                self._store(instruction)
            case isa.Compute():
                self._compute(instruction)
            case isa.Epilogue():
                self._epilogue(instruction)
            case isa.Norm():
                self._norm(instruction)
            case isa.Gather():
                self._gather(instruction)
            case isa.End():
                self._end()
            case _:
                raise missing_case(instruction, "The reference")
        self._raise_semaphores(instruction)

    # --- Semaphores and the end

    def _take_semaphores(self, instruction: isa.Instruction) -> None:
        for source in isa.Source:
            if instruction.wait >> source & 1:
                key = (source, instruction.UNIT)
                if not self._semaphores.get(key):
                    raise _Fault(f"waits for {source.name.lower()}, which no instruction raised")
                self._semaphores[key] -= 1

    def _raise_semaphores(self, instruction: isa.Instruction) -> None:
        for unit in isa.Unit:
            if instruction.signal >> unit & 1:
                key = (instruction.source, unit)
                self._semaphores[key] = self._semaphores.get(key, 0) + 1

    def _end(self) -> None:
        left = [
            f"{count} semaphores from {source.name.lower()} to {unit.name.lower()}"
            for (source, unit), count in self._semaphores.items()
            if count
        ]
        left += [f"{len(self._tiles)} computes without an epilogue"] * bool(self._tiles)
        left += ["softmax blocks that compute did not take"] * bool(self._maximum_blocks)
        left += ["softmax blocks that epilogue did not take"] * bool(self._reciprocal_blocks)
        if left:
            raise _Fault(f"leaves {', '.join(left)}")

    # --- Access to the memories

    def operands(self, memory: Memory, addresses: npt.NDArray[np.int64]) -> Int8Array:
        """Operand words [images, *addresses, T, V]."""
        self._check_read(memory, addresses)
        return self._operands[memory][:, addresses]

    def residual(self, addresses: npt.NDArray[np.int64]) -> Int16Array:
        """Residual words [images, *addresses, E]."""
        self._check_read(Memory.RESIDUAL, addresses)
        return self._residual[:, addresses]

    def _lanes(self, memory: Memory, addresses: npt.NDArray[np.int64], name: str) -> IntArray:
        """One member of parameter or norm words, the last two axes as one: [..., T]."""
        self._check_read(memory, addresses)
        lanes = self._constants[memory][name][addresses]
        return lanes.reshape(*addresses.shape[:-1], -1).astype(np.int64)

    def _check_read(self, memory: Memory, addresses: npt.NDArray[np.int64]) -> None:
        self._check_range(memory, addresses)
        missing = ~self._written[memory][addresses]
        if missing.any():
            first = int(addresses[missing].min())
            raise _Fault(f"reads {memory.value} word {first}, which no instruction wrote")

    def _check_range(self, memory: Memory, addresses: npt.NDArray[np.int64]) -> None:
        depth = self.config.words(memory)
        if int(addresses.max()) >= depth:
            raise _Fault(
                f"reaches {memory.value} word {int(addresses.max())}, the memory has {depth}"
            )

    def _mark_written(self, memory: Memory, addresses: npt.NDArray[np.int64]) -> None:
        self._check_range(memory, addresses)
        self._written[memory][addresses] = True

    def _buffer(self, step: isa.Load | isa.Store, memory: Memory) -> Uint8Array:
        """The bytes in DRAM that `step` moves, a view [images or 1, bytes]."""
        region = isa.Region(step.region)
        size = self._dram[region].shape[1]
        end = step.offset + step.words * self.config.dram_bytes_per_word(memory)
        if end > size:
            raise _Fault(f"reaches byte {end} of {region.name.lower()}, which has {size}")
        if step.offset % (self.config.bus_bits // 8):
            raise _Fault(f"starts at byte {step.offset}, which is not the start of a bus beat")
        return self._dram[region][:, step.offset : end]

    # --- Load and store

    def _load(self, load: isa.Load) -> None:
        memory = Memory[isa.LoadTarget(load.target).name]
        addresses = loop(load.address, (load.words, 1))
        self._mark_written(memory, addresses)
        raw = from_dram(self._buffer(load, memory), memory, self.config)
        if memory in self._constants:
            if len(raw) > 1:
                raise _Fault(f"fills {memory.value} from {isa.Region(load.region).name.lower()}")
            store = self._constants[memory]
            store[addresses] = raw[0].view(store.dtype)
        elif memory is Memory.RESIDUAL:
            self._residual[:, addresses] = raw.view("<i2")
        else:
            words = raw.view(np.int8).reshape(*raw.shape[:2], self.config.tile, self.config.depth)
            self._operands[memory][:, addresses] = words

    def _store(self, store: isa.Store) -> None:
        if store.region != isa.Region.OUTPUT:
            raise _Fault("writes to a buffer that is not the output")
        words = self.residual(loop(store.address, (store.words, 1)))
        raw = np.ascontiguousarray(words).view(np.uint8)
        stride = self.config.dram_bytes_per_word(Memory.RESIDUAL)
        padded = np.zeros((*raw.shape[:2], stride), np.uint8)
        padded[..., : raw.shape[-1]] = raw
        self._buffer(store, Memory.RESIDUAL)[:] = padded.reshape(len(raw), -1)

    # --- Compute

    def _compute(self, compute: isa.Compute) -> None:
        left = self._left_words(compute)
        right_addresses = loop(
            compute.right_base,
            _once(compute.outer, compute.right_outer),
            _once(compute.inner, compute.right_inner),
            (compute.depth, compute.right_step),
        )
        right = self.operands(Memory.RIGHT, right_addresses)
        self._tiles.append((compute, tile_products(left, right, compute.outer, compute.inner)))

    def _left_words(self, compute: isa.Compute) -> Int8Array:
        """[images, outer or 1, inner or 1, depth, T, V]."""
        inner = _once(compute.inner, compute.left_inner)
        step = (compute.depth, compute.left_step)
        if compute.left_source == isa.LeftSource.LEFT:
            outer = _once(compute.outer, compute.left_outer)
            return self.operands(Memory.LEFT, loop(compute.left_base, outer, inner, step))
        # Every outer step takes a row block of its own, even at the same addresses.
        outer = (compute.outer, compute.left_outer)
        addresses = loop(compute.left_base, outer, inner, step)
        words = self.operands(Memory.PROBABILITY, addresses).astype(np.int64)
        final = self._pop(self._maximum_blocks, compute.outer)  # [images, outer, T]
        lag = final[:, :, None, None] - self._maxima[:, addresses]
        # The words of a tile hold the keys of a row in streaming order: [..., T, depth, V].
        values = words.swapaxes(-3, -2)
        lags = np.broadcast_to(lag.swapaxes(-2, -1)[..., None], values.shape)
        rows = (*values.shape[:-2], -1)
        settled = numerics.settle(values.reshape(rows), lags.reshape(rows)).astype(np.int8)
        return settled.reshape(values.shape).swapaxes(-3, -2)

    def _pop(self, blocks: deque[IntArray], count: int) -> IntArray:
        """The next blocks, stacked behind the image axis."""
        if len(blocks) < count:
            raise _Fault(f"takes {count} softmax blocks, there are {len(blocks)}")
        return np.stack([blocks.popleft() for _ in range(count)], axis=1)

    # --- Epilogue

    def _epilogue(self, epilogue: isa.Epilogue) -> None:
        tiles = self._requantize(epilogue, self._take_tiles(epilogue))
        tiles += epilogue.offset
        target = isa.EpilogueTarget(epilogue.target)
        if target is isa.EpilogueTarget.RESIDUAL:
            self._write_residual(epilogue, tiles)
        elif target is isa.EpilogueTarget.SOFTMAX:
            tiles += self._addends(epilogue)
            self._softmax(epilogue, numerics.saturate(tiles, numerics.INT16_MAX))
        elif epilogue.accumulate:
            raise _Fault("accumulates, but its target is not residual or softmax")
        else:
            self._write_operands(Memory[target.name], epilogue, tiles)

    def _take_tiles(self, epilogue: isa.Epilogue) -> IntArray:
        if not self._tiles:
            raise _Fault("has no compute to take tiles from")
        compute, tiles = self._tiles.popleft()
        if (compute.outer, compute.inner) != (epilogue.outer, epilogue.inner):
            raise _Fault(
                f"takes {epilogue.outer} x {epilogue.inner} tiles, its compute gives "
                f"{compute.outer} x {compute.inner}"
            )
        return tiles

    def _requantize(self, epilogue: isa.Epilogue, tiles: IntArray) -> IntArray:
        addresses = loop(
            epilogue.parameter,
            _once(epilogue.outer, epilogue.parameter_outer),
            _once(epilogue.inner, epilogue.parameter_inner),
            (self.config.beats_per_row, 1),
        )
        bias, multiplier, shift = (
            self._lanes(Memory.PARAMETER, addresses, name)[..., None, :]
            for name in ("bias", "multiplier", "shift")
        )
        _check_accumulators(tiles)
        _check_accumulators(tiles + bias)
        value = numerics.requantize(tiles, bias, multiplier, shift, epilogue.pre_shift)
        value = numerics.activate(value, FUNCTIONS[isa.ActivationCode(epilogue.function)])
        if not epilogue.row_scale:
            return numerics.rescale(value, epilogue.scale, epilogue.scale_shift)
        mantissa, exponent = self._row_scales(epilogue.outer)
        return numerics.rescale(value, mantissa, exponent + epilogue.scale_shift)

    def _row_scales(self, outer: int) -> tuple[IntArray, IntArray]:
        """Mantissas and exponents of the next row blocks, each [images, outer, 1, T, 1]."""
        blocks = self._pop(self._reciprocal_blocks, outer)[..., None, :, :, None]
        return blocks[..., 0, :, :], blocks[..., 1, :, :]

    def _destination(self, step: isa.Epilogue | isa.Norm | isa.Gather, words: int) -> IntArray:
        addresses = loop(
            step.address,
            (step.outer, step.outer_stride),
            (step.inner, words if isinstance(step, isa.Gather) else step.inner_stride),
            (words, 1),
        )
        if len(np.unique(addresses)) != addresses.size:
            raise _Fault("writes a word twice")
        return addresses

    def _write_residual(self, epilogue: isa.Epilogue, tiles: IntArray) -> None:
        addresses = self._destination(epilogue, self.config.beats_per_tile)
        if epilogue.accumulate:
            tiles = tiles + self.residual(addresses).reshape(tiles.shape)
        self._mark_written(Memory.RESIDUAL, addresses)
        values = numerics.saturate(tiles, numerics.INT16_MAX)
        self._residual[:, addresses] = values.reshape(len(tiles), *addresses.shape, -1)

    def _write_operands(
        self, memory: Memory, step: isa.Epilogue | isa.Norm | isa.Gather, tiles: IntArray
    ) -> None:
        """Writes tiles [images, outer, inner, T, T] as operand words."""
        addresses = self._destination(step, self.config.words_per_tile)
        self._mark_written(memory, addresses)
        values = numerics.saturate(tiles, numerics.INT8_MAX)
        if not isinstance(step, isa.Gather) and step.transpose:
            values = np.swapaxes(values, -1, -2)
        words = values.reshape(*values.shape[:-1], -1, self.config.depth)
        self._operands[memory][:, addresses] = np.swapaxes(words, -3, -2)

    # --- Softmax

    def _addends(self, epilogue: isa.Epilogue) -> IntArray | int:
        """What is added to the scores [images, outer, inner, T rows, T columns]."""
        if not epilogue.accumulate:
            return 0
        outer, inner, tile = epilogue.outer, epilogue.inner, self.config.tile
        count = outer * inner * self.config.beats_per_tile
        words = self.residual(loop(epilogue.addend, (count, 1)))
        return words.reshape(-1, outer, inner, tile, tile).astype(np.int64)

    def _softmax(self, epilogue: isa.Epilogue, scores: IntArray) -> None:
        addresses = self._destination(epilogue, self.config.words_per_tile)
        self._mark_written(Memory.PROBABILITY, addresses)
        for outer in range(epilogue.outer):
            self._softmax_block(addresses[outer].reshape(-1), scores[:, outer], epilogue.keys)

    def _softmax_block(self, addresses: IntArray, scores: IntArray, keys: int) -> None:
        """One row block: scores [images, inner, T rows, T columns] in streaming order."""
        images, _, tile, _ = scores.shape
        lanes, depth = self.config.lanes, self.config.depth
        rows = scores.swapaxes(1, 2).reshape(images, tile, -1, lanes)
        state = SoftmaxState.start((images, tile))
        for beat, words in enumerate(addresses.reshape(-1, lanes // depth)):
            valid = np.arange(beat * lanes, (beat + 1) * lanes) < keys
            state, values = numerics.softmax_beat(state, rows[:, :, beat], valid)
            split = values.reshape(images, tile, -1, depth).swapaxes(1, 2)
            self._operands[Memory.PROBABILITY][:, words] = split
            self._maxima[:, words] = state.maximum[:, None]
        self._maximum_blocks.append(state.maximum)
        self._reciprocal_blocks.append(np.stack(numerics.reciprocal(state.total), axis=1))
        if max(len(self._maximum_blocks), len(self._reciprocal_blocks)) > SOFTMAX_BLOCKS:
            raise _Fault(f"leaves more than {SOFTMAX_BLOCKS} softmax blocks untaken")

    # --- LayerNorm

    def _norm(self, norm: isa.Norm) -> None:
        config, tile = self.config, self.config.tile
        words = norm.inner * config.beats_per_tile
        if words > config.norm_buffer_words:
            raise _Fault(
                f"needs {words} words of norm buffer, there are {config.norm_buffer_words}"
            )
        source = self.residual(loop(norm.base, (norm.outer, norm.base_outer), (words, 1)))
        rows = unpack_residual(source, norm.inner * tile, config).astype(np.int64)
        channel_words = loop(norm.parameter, (norm.inner * config.beats_per_row, 1))
        gamma, beta = (self._lanes(Memory.NORM, channel_words, name) for name in ("gamma", "beta"))
        result = numerics.layer_norm(rows, gamma, beta, _norm_constants(norm))
        tiles = result.reshape(len(rows), norm.outer, tile, norm.inner, tile).swapaxes(2, 3)
        self._write_operands(Memory[isa.NormTarget(norm.target).name], norm, tiles)
        self._group_statistics = None  # those of rows stand in their place now

    # --- Rows of maps

    def _gather(self, gather: isa.Gather) -> None:
        config, tile = self.config, self.config.tile
        self._check_groups(gather)
        if gather.statistics:
            whole = self._pixels(gather, all_pixels(gather))
            self._group_statistics = self._sum_groups(gather, whole)
        seen = seen_pixels(gather, config)
        pixels = inside(seen)
        results = self._normalize_pixels(gather, self._pixels(gather, pixels))
        # One more pixel, below all others, stands for what is outside.
        outside = ((0, 0), (0, 1), (0, 0), (0, 0))
        results = np.pad(results, outside, constant_values=BELOW_INT8)
        places = np.where(seen == OUTSIDE, len(pixels), np.searchsorted(pixels, seen))
        rows = results[:, places[:, 0]]
        for column in places[:, 1:].T:
            rows = np.maximum(rows, results[:, column])
        rows = np.where((rows == BELOW_INT8) | (gather.relu & (rows < 0)), 0, rows)
        tiles = rows.reshape(len(rows), gather.outer, tile, gather.inner, tile).swapaxes(2, 3)
        self._write_operands(Memory.LEFT, gather, tiles)

    def _check_groups(self, gather: isa.Gather) -> None:
        size, tile = 1 << gather.group, self.config.tile
        if not self.config.maps:
            raise _Fault("gathers a map, which the accelerator cannot")
        if gather.plain and not gather.statistics:
            return
        if size > tile:
            raise _Fault(f"has groups of {size} channels, a column tile has {tile}")
        if size < tile and gather.inner > 1:
            raise _Fault(f"reads {gather.inner} column tiles, its groups end within the first")
        if not gather.statistics and self._group_statistics is None:
            raise _Fault("normalises, but there are no statistics of groups")

    def _pixels(self, gather: isa.Gather, pixels: IntArray) -> IntArray:
        """Some of the map's rows: [images, pixels, inner, T]."""
        if not len(pixels):
            return np.zeros((len(self._residual), 0, gather.inner, self.config.tile), np.int64)
        words = self.residual(pixel_words(gather, pixels, self.config))
        return words.reshape(*words.shape[:3], -1).astype(np.int64)

    def _sum_groups(self, gather: isa.Gather, x: IntArray) -> numerics.Statistics:
        """Statistics of the groups of a map [images, pixels, inner, T], for each column."""
        size = 1 << gather.group
        groups = x.reshape(len(x), -1, self.config.tile // size, size)
        total, squares = groups.sum(axis=(1, 3)), (groups * groups).sum(axis=(1, 3))
        total, squares = (
            np.repeat(numerics.round_shift(sums, gather.sum_shift), size, axis=-1)[:, None, None]
            for sums in (total, squares)
        )
        if np.any(np.abs(total) >> GROUP_SUM_BITS) or np.any(squares >> GROUP_SQUARES_BITS):
            raise _Fault("sums up more than its sum_shift makes room for")
        return numerics.statistics(total, squares, _norm_constants(gather))

    def _normalize_pixels(self, gather: isa.Gather, x: IntArray) -> IntArray:
        """The int8 results of pixels [images, pixels, inner, T]."""
        channel_words = loop(gather.parameter, (gather.inner * self.config.beats_per_row, 1))
        gamma, beta = (
            self._lanes(Memory.NORM, channel_words, name).reshape(gather.inner, -1)
            for name in ("gamma", "beta")
        )
        if not gather.plain:
            assert self._group_statistics is not None
            x = numerics.normalize(x, self._group_statistics)
        scaled = numerics.round_shift(x * gamma + beta, gather.shift)
        return numerics.saturate(scaled, numerics.INT8_MAX)

    # --- Observation

    def observe(self, value: StoredValue) -> IntArray:
        """An intermediate value that stands on chip now: [images, tokens, channels]."""
        stored = self._stored(value)[:, value.row : value.row + value.tokens]
        heads = stored.reshape(*stored.shape[:2], value.heads, -1)
        true = heads[..., : value.channels // value.heads]
        return np.asarray(true.reshape(*stored.shape[:2], -1), np.int64)

    def _stored(self, value: StoredValue) -> npt.NDArray[np.generic]:
        """[images, padded tokens, padded channels]."""
        size = value.padded_tokens * value.padded_channels
        if value.memory is Memory.RESIDUAL:
            words = self.residual(loop(value.address, (size // self.config.lanes, 1)))
            return unpack_residual(words, value.padded_channels, self.config)
        count = size // (self.config.tile * self.config.depth)
        operands = self.operands(value.memory, loop(value.address, (count, 1)))
        if value.transposed:
            return np.swapaxes(unpack_operand(operands, value.padded_tokens), -1, -2)
        return unpack_operand(operands, value.padded_channels)


def _norm_constants(norm: isa.Norm | isa.Gather) -> numerics.NormConstants:
    return numerics.NormConstants(
        channels=norm.channels,
        inverse=norm.inverse,
        eps_mantissa=norm.eps_mantissa,
        eps_exponent=norm.eps_exponent,
        shift=norm.shift,
        plain=bool(norm.plain),
        sum_shift=norm.sum_shift if isinstance(norm, isa.Gather) else 0,
    )


def _check_accumulators(tiles: IntArray) -> None:
    largest = int(np.abs(tiles).max())
    if largest > ACCUMULATOR_MAX:
        raise _Fault(f"takes an accumulator of {largest}, which overflows 32 bits")


def tile_products(left: Int8Array, right: Int8Array, outer: int, inner: int) -> IntArray:
    """All tiles of a COMPUTE: [images, outer, inner, T left rows, T right rows].

    Args:
        left: words [images, outer or 1, inner or 1, depth, T, V].
        right: the same.
        outer, inner: loop counts.
    """
    if left.shape[2] == 1 and right.shape[1] == 1:
        # Rows of tiles times columns of tiles: one matrix product for the whole loop nest.
        products = _rows(left) @ np.swapaxes(_rows(right), -1, -2)
        tile = left.shape[-2]
        grid = products.reshape(len(left), left.shape[1], tile, right.shape[2], tile)
        tiles = grid.swapaxes(2, 3)
    else:
        rows_by_tile, columns_by_tile = _by_tile(left), _by_tile(right)
        tiles = rows_by_tile @ np.swapaxes(columns_by_tile, -1, -2)
    images, tile = len(left), left.shape[-2]
    full = np.broadcast_to(tiles, (images, outer, inner, tile, tile))
    return np.rint(full).astype(np.int64)


def _exact(words: Int8Array) -> npt.NDArray[np.floating]:
    """As the smallest float type in which every sum over [depth, V] is exact."""
    return words.astype(numerics.exact_float(words.shape[-3] * words.shape[-1]))


def _by_tile(words: Int8Array) -> npt.NDArray[np.floating]:
    """[images, outer, inner, T, depth * V]."""
    *lead, depth, tile, channels = words.shape
    return np.swapaxes(_exact(words), -3, -2).reshape(*lead, tile, depth * channels)


def _rows(words: Int8Array) -> npt.NDArray[np.floating]:
    """[images, tiles * T, depth * V]."""
    tiles = _by_tile(words)
    return tiles.reshape(len(tiles), -1, tiles.shape[-1])


class Reference:
    """Runs a program on images.

    Args:
        program: what to run.
        tap: called after every instruction with its index, itself and the machine.
    """

    def __init__(self, program: Program, tap: Tap | None = None) -> None:
        self._program = program
        self._tap = tap

    def run(self, inputs: bytes | Int8Array) -> dict[str, Int16Array]:
        """The outputs by their ONNX names.

        Args:
            inputs: one input buffer, or patches int8 [tokens, channels], or a batch of them
                [images, tokens, channels].

        Returns:
            int16 [tokens, channels], with a leading image axis for a batch.
        """
        if isinstance(inputs, bytes):
            return unpack_outputs(self._program, self.run_buffer(inputs))
        if inputs.ndim == 2:
            return {name: batch[0] for name, batch in self.run(inputs[None]).items()}
        buffers = (bytes(image) for batch in self._batches(inputs) for image in batch.outputs)
        images = [unpack_outputs(self._program, buffer) for buffer in buffers]
        return {name: np.stack([image[name] for image in images]) for name in images[0]}

    def run_buffer(self, buffer: bytes) -> bytes:
        """The output buffer of one input buffer, as the accelerator writes it."""
        check_input(self._program, buffer)
        return bytes(self._execute(np.frombuffer(buffer, np.uint8)[None]).outputs)

    def values(self, patches: Int8Array) -> dict[str, IntArray]:
        """Every intermediate value [tokens, channels] of one image, by its layer's name."""
        due: dict[int, list[StoredValue]] = {}
        for value in self._program.values:
            due.setdefault(value.instruction, []).append(value)
        seen: dict[str, IntArray] = {}

        def observe(index: int, _: isa.Instruction, machine: Machine) -> None:
            seen.update({value.name: machine.observe(value)[0] for value in due.get(index, ())})

        Reference(self._program, observe).run(patches)
        return seen

    def _batches(self, patches: Int8Array) -> Iterator[Machine]:
        size = max(1, BATCH_BYTES // self._program.config.on_chip_bytes)
        for start in range(0, len(patches), size):
            buffers = [pack_input(self._program, image) for image in patches[start : start + size]]
            flat = np.frombuffer(b"".join(buffers), np.uint8)
            yield self._execute(flat.reshape(len(buffers), -1))

    def _execute(self, inputs: Uint8Array) -> Machine:
        isa.check_end(self._program.instructions)
        machine = Machine(self._program, inputs)
        for index, instruction in enumerate(self._program.instructions):
            try:
                machine.execute(instruction)
            except _Fault as fault:
                raise ProgramError(
                    f"Instruction {index} {fault}: {print_instruction(instruction)}.",
                    "The program is damaged or the scheduler is wrong; please report it.",
                ) from None
            if self._tap:
                self._tap(index, instruction, machine)
        return machine
