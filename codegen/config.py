"""The hardware configuration: what one generated accelerator is made of.

Everything that varies between two accelerators stands here; the kernels, the top level, the
scheduler and the host read it and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from enum import Enum

from .errors import ConfigError

INSTRUCTION_BITS = 256
ADDRESS_BITS = 18  # of an on-chip word, in every instruction
MAX_BURST = 16  # beats of a burst; what AXI3 ports (Zynq-7000) take
OUTSTANDING_BURSTS = 16  # that have been asked for and not been answered
DEEPEST_QUEUE = 1024  # entries; what is deeper belongs into block RAM
SOFTMAX_BLOCKS = 4  # blocks of rows whose maxima, and sums, wait for the units that take them
# One output channel's requantisation: bias s32, multiplier u16, shift u8, 8 bits unused.
PARAMETER_BITS = 64
# One channel's LayerNorm: gamma s16, beta s32.
NORM_PARAMETER_BITS = 48


# A board's name stands in file names, in messages and in generated Tcl scripts.
BOARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BOARD_NAME_RULE = "letters, digits, '.', '_' and '-', 64 at most, and a letter or digit first"

# What messages call the types of fields.
KINDS = {int: "a whole number", bool: "true or false, without quotes", str: "a string in quotes"}


class Memory(Enum):
    """The on-chip memories; the value is the name in RTL and messages."""

    LEFT = "left"  # int8 operands, row-packed: the stationary side of a product
    RIGHT = "right"  # int8 operands: weights, keys, transposed values
    PROBABILITY = "probability"  # attention probabilities with the maximum they are relative to
    RESIDUAL = "residual"  # int16 residual stream
    PARAMETER = "parameter"  # bias, multiplier and shift of output channels
    NORM = "norm"  # LayerNorm gamma and beta


@dataclass(frozen=True)
class HardwareConfig:
    """Sizes of one accelerator.

    Attributes:
        tile: T; the engine holds T x T accumulators.
        depth: V; channels contracted per cycle, so that T * T * V MACs are done each cycle.
        lanes: E; elements a cycle that epilogue, softmax and LayerNorm work on.
        bus_bits: width of the AXI4 master.
        left_words ... norm_words: depth of each on-chip memory, in its own words.
        norm_buffer_words: depth of LayerNorm's row buffer, in residual words; at least one row
            tile (T rows of all channels) must fit.
        queue_depth: instructions that the queue of a unit holds. A full queue stops dispatch: with
            slow DRAM that of LOAD would. 32 words are one LUT RAM deep.
        fetch_depth: instructions that the fetch FIFO holds.
        stream_depth: the most words that a stream between two kernels holds. Streams whose whole
            depth programs or credits count on keep it. The three depths change speed alone; tests
            set them to 1, where whoever counts on room that is not there stops for ever.
        maps: whether NORM's kernels execute GATHER, which convolution stems need.
        clock_mhz: the frequency the bitstream is built for.
        board: name of the board it was sized for, or "custom"; see BOARD_NAME_RULE.
    """

    tile: int = 8
    depth: int = 4
    lanes: int = 8
    bus_bits: int = 64
    left_words: int = 4096
    right_words: int = 8192
    probability_words: int = 64
    residual_words: int = 32768
    parameter_words: int = 512
    norm_words: int = 256
    norm_buffer_words: int = 512
    queue_depth: int = 32
    fetch_depth: int = 32
    stream_depth: int = 64
    maps: bool = False
    clock_mhz: int = 100
    board: str = "custom"

    def __post_init__(self) -> None:
        for reason, broken in self._contradictions().items():
            if broken:
                raise ConfigError(
                    f"Hardware configuration: {reason}.",
                    "Change the value in the configuration file or choose a --board.",
                )

    def _contradictions(self) -> dict[str, bool]:
        tile, depth, lanes = self.tile, self.depth, self.lanes
        known_depth = depth in (2, 4, 8)
        depths = {memory.value: self.words(memory) for memory in Memory}
        depths["norm_buffer"] = self.norm_buffer_words
        queues = {name: getattr(self, f"{name}_depth") for name in ("queue", "fetch", "stream")}
        return (
            {
                f"tile is {tile}, must be a power of two from 4 to 16": tile not in (4, 8, 16),
                f"depth is {depth}, must be 2, 4 or 8 and divide tile": not known_depth
                or bool(tile % depth),
                f"lanes is {lanes}, must be a multiple of depth and divide tile": lanes <= 0
                or (known_depth and bool(lanes % depth))
                or bool(tile % lanes),
                f"bus_bits is {self.bus_bits}, must be 64 or 128": self.bus_bits not in (64, 128),
                f"clock_mhz is {self.clock_mhz}, must be positive": self.clock_mhz <= 0,
                f"board is {self.board[:80]!r}, must be {BOARD_NAME_RULE}": not (
                    BOARD_NAME.fullmatch(self.board)
                ),
            }
            | {
                f"{name}_words is {words}, must be 1 to {2**ADDRESS_BITS}": not (
                    1 <= words <= 2**ADDRESS_BITS
                )
                for name, words in depths.items()
            }
            | {
                f"{name}_depth is {entries}, must be 1 to {DEEPEST_QUEUE}": not (
                    1 <= entries <= DEEPEST_QUEUE
                )
                for name, entries in queues.items()
            }
        )

    @property
    def macs(self) -> int:
        """MACs a cycle at peak."""
        return self.tile * self.tile * self.depth

    @property
    def beats_per_tile(self) -> int:
        """Beats of `lanes` elements in a T x T tile; also residual words a tile."""
        return self.tile * self.tile // self.lanes

    @property
    def words_per_tile(self) -> int:
        """Operand words ([T rows][V channels]) in a T x T tile."""
        return self.tile // self.depth

    @property
    def beats_per_row(self) -> int:
        """Beats of `lanes` elements in one row of a tile; also parameter words a column tile."""
        return self.tile // self.lanes

    def words(self, memory: Memory) -> int:
        """Depth of `memory`."""
        return int(getattr(self, f"{memory.value}_words"))

    def word_bits(self, memory: Memory) -> int:
        """Width of a word of `memory`."""
        return {
            Memory.LEFT: self.tile * self.depth * 8,
            Memory.RIGHT: self.tile * self.depth * 8,
            Memory.PROBABILITY: self.tile * (self.depth + 1) * 8,
            Memory.RESIDUAL: self.lanes * 16,
            Memory.PARAMETER: self.lanes * PARAMETER_BITS,
            Memory.NORM: self.lanes * NORM_PARAMETER_BITS,
        }[memory]

    def beats_per_word(self, memory: Memory) -> int:
        """Bus beats that carry one word of `memory`; in DRAM every word starts a beat."""
        return -(-self.word_bits(memory) // self.bus_bits)

    def dram_bytes_per_word(self, memory: Memory) -> int:
        """Bytes that one word of `memory` takes in DRAM, padding to whole beats included."""
        return self.beats_per_word(memory) * self.bus_bits // 8

    @property
    def on_chip_bytes(self) -> int:
        """Bytes of all on-chip memories together."""
        return sum(self.words(memory) * self.word_bits(memory) for memory in Memory) // 8

    def to_json(self) -> str:
        """The configuration as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def to_toml(self) -> str:
        """The configuration as TOML: every field on a line."""
        # Of these types JSON's way to write a value is TOML's, too.
        values = dataclasses.asdict(self).items()
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values)

    @classmethod
    def from_dict(cls, values: dict[str, object], source: str) -> HardwareConfig:
        """Builds a configuration from parsed JSON or TOML; `source` names it in errors."""
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise ConfigError(
                    f"{source}: unknown key {key!r}.", f"Known keys: {', '.join(sorted(kinds))}."
                )
            if type(value) is not kinds[key]:
                raise ConfigError(
                    f"{source}: {key} is {value!r}.", f"It must be {KINDS[kinds[key]]}."
                )
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"{source}: {error.culprit}", error.remedy) from error
