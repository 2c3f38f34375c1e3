"""Kernels that move data: axi_read_data, dispatch, load_fill, store_pack, axi_write_data,
axi_write_response."""

from __future__ import annotations

import random

import pytest
from dma import CONFIGS, pack
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, INSTRUCTION_BITS, HardwareConfig, Memory
from vitessera.codegen.errors import ProgramError
from vitessera.codegen.registers import HardwareError
from vitessera.sim.kernel import check_kernel
from vitessera.sim.kernel_task import Order

pytestmark = pytest.mark.kernel
CONFIG = CONFIGS["default"]
both_buses = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
stalls = pytest.mark.parametrize("stall", [0.0, 0.5])

OKAY, SLVERR, DECERR = 0, 2, 3
FILLED = {
    isa.LoadTarget.LEFT: (Memory.LEFT, "left_s"),
    isa.LoadTarget.RIGHT: (Memory.RIGHT, "right_s"),
    isa.LoadTarget.RESIDUAL: (Memory.RESIDUAL, "residual_s"),
    isa.LoadTarget.PARAMETER: (Memory.PARAMETER, "parameter_s"),
    isa.LoadTarget.NORM: (Memory.NORM, "norm_s"),
}


def cut(word: int, beats: int, bits: int) -> list[int]:
    """`word` as beats, low beat first."""
    return [word >> (i * bits) & ((1 << bits) - 1) for i in range(beats)]


def route_case(
    config: HardwareConfig, failure_rate: float
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Inputs and outputs of axi_read_data for random bursts."""
    source = random.Random(20)
    inputs: dict[str, list[int]] = {"beat_r": [], "route_r": []}
    outputs: dict[str, list[int]] = {"fetch_s": [], "load_s": [], "error_s": []}
    for _ in range(80):
        to, beats = source.randrange(2), source.choice([1, 1, 2, 3, 16, 16])
        inputs["route_r"].append(pack((to, 1), (beats, 9)))
        for i in range(beats):
            data = source.getrandbits(config.bus_bits)
            failed = source.random() < failure_rate
            response, last = OKAY, i == beats - 1
            if failed and source.random() < 0.3:
                last = not last
            elif failed:
                response = source.choice([SLVERR, DECERR])
            inputs["beat_r"].append(pack((data, config.bus_bits), (response, 2), (int(last), 1)))
            outputs["load_s" if to else "fetch_s"].append(data)
            outputs["error_s"] += [HardwareError.READ] * failed
    return inputs, outputs


@both_buses
@stalls
@pytest.mark.parametrize("failure_rate", [0.0, 0.2])
def test_read_data_goes_to_who_asked(
    config: HardwareConfig, stall: float, failure_rate: float
) -> None:
    inputs, outputs = route_case(config, failure_rate)
    cycles = check_kernel(config, "axi_read_data", inputs, outputs, stall=stall, seed=21)
    if stall == 0:
        assert cycles <= len(inputs["beat_r"]) + 8, "a beat a cycle, also between bursts"


def random_instruction(source: random.Random) -> isa.Instruction:
    kind = source.choice(isa.INSTRUCTIONS)
    values = {f.name: source.randint(f.least, f.highest) for f in isa.fields(kind)}
    return kind(**values)


def dispatch_case(
    config: HardwareConfig, words: list[int]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Inputs and outputs of dispatch for legal instruction words."""
    beats = INSTRUCTION_BITS // config.bus_bits
    outputs: dict[str, list[int]] = {f"{unit.name.lower()}_s": [] for unit in isa.Unit}
    for word in words:
        outputs[f"{isa.decode(word).UNIT.name.lower()}_s"].append(word)
    outputs |= {"credit_s": [0] * len(words), "error_s": []}
    return {"beat_r": [b for word in words for b in cut(word, beats, config.bus_bits)]}, outputs


@both_buses
@stalls
def test_dispatch_sorts_instructions_by_unit(config: HardwareConfig, stall: float) -> None:
    source = random.Random(22)
    words = [random_instruction(source).encode() for _ in range(150)]
    inputs, outputs = dispatch_case(config, words)
    cycles = check_kernel(config, "dispatch", inputs, outputs, stall=stall, seed=23)
    if stall == 0:
        assert cycles <= len(inputs["beat_r"]) + 8


# XLS puts the sends into another stage with maps than without.
@pytest.mark.parametrize(
    "config", [HardwareConfig(), *CONFIGS.values()], ids=["without maps", *CONFIGS]
)
@pytest.mark.parametrize("stall", [0.5, 0.9])
def test_a_credit_means_that_the_fetch_fifo_has_room(config: HardwareConfig, stall: float) -> None:
    """Also while a unit's queue is full: whoever asks for one more instruction counts on it."""
    source = random.Random(28)
    drawn = [random_instruction(source) for _ in range(80)]
    words = [i.encode() for i in drawn if config.maps or not isinstance(i, isa.Gather)]
    inputs, outputs = dispatch_case(config, words)
    order = Order("credit_s", "beat_r", INSTRUCTION_BITS // config.bus_bits)
    check_kernel(config, "dispatch", inputs, outputs, stall=stall, seed=29, orders=(order,))


ILLEGAL = {
    "unknown opcode": 0xE,
    "opcode zero": 0,
    "undefined bit in END": isa.End().encode() | 1 << 200,
    "undefined top bit in LOAD": isa.Load(words=1).encode() | 1 << 255,
    "unknown load target": isa.Load(words=1, target=isa.LoadTarget.NORM).encode() | 7 << 20,
    "unknown region": isa.Store(words=1).encode() | 3 << 20,
    "wait for no source": isa.End().encode() | 1 << 11,
    "signal to no unit": isa.Load().encode() | 1 << 18,
    "no words": isa.Load().encode() & ~(1 << 43),
    "no outer steps": isa.Compute().encode() & ~(1 << 21),
    "no channels": isa.Norm().encode() & ~(1 << 153),
    "no columns": isa.Gather().encode() & ~(1 << 72),
    "undefined top bit in GATHER": isa.Gather().encode() | 1 << 255,
}


def test_dispatch_stops_at_what_the_accelerator_is_built_without() -> None:
    config = HardwareConfig()
    inputs, outputs = dispatch_case(config, [isa.Norm().encode()])
    word = isa.Gather().encode()
    inputs["beat_r"] += cut(word, INSTRUCTION_BITS // config.bus_bits, config.bus_bits)
    outputs["error_s"] = [HardwareError.DECODE]
    check_kernel(config, "dispatch", inputs, outputs, stall=0.3, seed=27)


@pytest.mark.parametrize("bad", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_dispatch_stops_at_an_illegal_instruction(bad: int) -> None:
    source = random.Random(24)
    words = [random_instruction(source).encode() for _ in range(5)]
    with pytest.raises(ProgramError):
        isa.decode(bad)
    inputs, outputs = dispatch_case(CONFIG, words)
    inputs["beat_r"] += cut(bad, INSTRUCTION_BITS // CONFIG.bus_bits, CONFIG.bus_bits)
    outputs["error_s"] = [HardwareError.DECODE]
    check_kernel(CONFIG, "dispatch", inputs, outputs, stall=0.3, seed=25)


@both_buses
@stalls
def test_load_fill_assembles_words(config: HardwareConfig, stall: float) -> None:
    source = random.Random(26)
    inputs: dict[str, list[int]] = {"command_r": [], "beat_r": []}
    outputs: dict[str, list[int]] = {channel: [] for _, channel in FILLED.values()}
    targets = [*FILLED, *FILLED, *(source.choice(list(FILLED)) for _ in range(30))]
    for number, target in enumerate(targets):
        memory, channel = FILLED[target]
        bits, beats = config.word_bits(memory), config.beats_per_word(memory)
        address = source.randrange(2**ADDRESS_BITS - 10)
        words = 1 if number < len(FILLED) else source.randint(1, 6)
        signal = source.choice([0, 0xFF, source.randrange(256)])
        inputs["command_r"].append(
            pack((target, 3), (address, ADDRESS_BITS), (words, ADDRESS_BITS), (signal, 8))
        )
        for i in range(words):
            # Bits that pad the last beat are not zero here: they must not reach the memory.
            padded = source.getrandbits(beats * config.bus_bits)
            inputs["beat_r"] += cut(padded, beats, config.bus_bits)
            word = padded & ((1 << bits) - 1)
            last = signal if i == words - 1 else 0
            outputs[channel].append(pack((address + i, ADDRESS_BITS), (word, bits), (last, 8)))
    cycles = check_kernel(config, "load_fill", inputs, outputs, stall=stall, seed=27)
    if stall == 0:
        assert cycles <= len(inputs["beat_r"]) + 8, "a beat a cycle, also between commands"


@both_buses
@stalls
def test_store_pack_cuts_words(config: HardwareConfig, stall: float) -> None:
    source = random.Random(28)
    bits, beats = config.word_bits(Memory.RESIDUAL), config.beats_per_word(Memory.RESIDUAL)
    words = [source.getrandbits(bits) for _ in range(200)] + [(1 << bits) - 1, 0]
    expected = [beat for word in words for beat in cut(word, beats, config.bus_bits)]
    cycles = check_kernel(
        config, "store_pack", {"word_r": words}, {"beat_s": expected}, stall=stall, seed=29
    )
    if stall == 0:
        assert cycles <= len(expected) + 8


@both_buses
@stalls
def test_write_data_is_framed(config: HardwareConfig, stall: float) -> None:
    source = random.Random(30)
    lengths = [1, 1, 256, 2, *(source.randint(1, 16) for _ in range(40))]
    strobe = (1 << config.bus_bits // 8) - 1
    data = [source.getrandbits(config.bus_bits) for _ in range(sum(lengths))]
    ends = {sum(lengths[: i + 1]) - 1 for i in range(len(lengths))}
    expected = [
        pack((word, config.bus_bits), (strobe, config.bus_bits // 8), (int(i in ends), 1))
        for i, word in enumerate(data)
    ]
    cycles = check_kernel(
        config,
        "axi_write_data",
        {"burst_r": lengths, "beat_r": data},
        {"data_s": expected},
        stall=stall,
        seed=31,
    )
    if stall == 0:
        assert cycles <= len(expected) + 8, "a beat a cycle, also between bursts"


@stalls
def test_write_response_raises_signals_and_errors(stall: float) -> None:
    source = random.Random(32)
    responses = [source.choice([OKAY, OKAY, 1, SLVERR, DECERR]) for _ in range(200)]
    pending = [(source.choice([0, source.randrange(256)]), source.randrange(2)) for _ in responses]
    check_kernel(
        CONFIG,
        "axi_write_response",
        {
            "response_r": responses,
            "pending_r": [pack((signal, 8), (last, 1)) for signal, last in pending],
        },
        {
            "signal_s": [signal for signal, last in pending if last and signal],
            "error_s": [HardwareError.WRITE for r in responses if r in (SLVERR, DECERR)],
        },
        stall=stall,
        seed=33,
    )
