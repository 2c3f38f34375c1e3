"""Kernels that ask: instruction_fetch, axi_read_request, load_request, store_request,
axi_write_request."""

from __future__ import annotations

import random

import pytest
from dma import BASES, CONFIGS, address_word, bursts, pack, random_requests
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig, Memory
from vitessera.sim.kernel import check_kernel

pytestmark = pytest.mark.kernel
CONFIG = CONFIGS["default"]
both_buses = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
stalls = pytest.mark.parametrize("stall", [0.0, 0.5])

INSTRUCTION_BYTES = 32
FETCH_DEPTH = CONFIG.fetch_depth
CHUNK = FETCH_DEPTH // 2
TARGET_MEMORY = {
    isa.LoadTarget.LEFT: Memory.LEFT,
    isa.LoadTarget.RIGHT: Memory.RIGHT,
    isa.LoadTarget.RESIDUAL: Memory.RESIDUAL,
    isa.LoadTarget.PARAMETER: Memory.PARAMETER,
    isa.LoadTarget.NORM: Memory.NORM,
}


def request_word(address: int, size: int) -> int:
    return pack((address, 64), (size, 32))


@stalls
def test_fetch_stops_when_the_fifo_would_overflow(stall: float) -> None:
    starts = [(0x1000, CHUNK), (0x8000_0000_0000, CHUNK), (0x2000, 1)]
    check_kernel(
        CONFIG,
        "instruction_fetch",
        {"start_r": [pack((address, 64), (count, 32)) for address, count in starts]},
        # The third program finds the FIFO full: nothing may be asked for without a credit.
        {"request_s": [request_word(a, n * INSTRUCTION_BYTES) for a, n in starts[:2]]},
        stall=stall,
        seed=1,
    )


@stalls
def test_fetch_goes_on_for_credits(stall: float) -> None:
    base, count, given = 0xABCD_0000_0000, 2 * FETCH_DEPTH, CHUNK
    chunks = range(0, FETCH_DEPTH + given, CHUNK)
    check_kernel(
        CONFIG,
        "instruction_fetch",
        {"start_r": [pack((base, 64), (count, 32))], "credit_r": [0] * given},
        {
            "request_s": [
                request_word(base + first * INSTRUCTION_BYTES, CHUNK * INSTRUCTION_BYTES)
                for first in chunks
            ]
        },
        stall=stall,
        seed=2,
    )


def test_fetch_asks_for_the_odd_rest() -> None:
    base, count = 0x1000, CHUNK + 3
    check_kernel(
        CONFIG,
        "instruction_fetch",
        {"start_r": [pack((base, 64), (count, 32))]},
        {
            "request_s": [
                request_word(base, CHUNK * INSTRUCTION_BYTES),
                request_word(base + CHUNK * INSTRUCTION_BYTES, 3 * INSTRUCTION_BYTES),
            ]
        },
        stall=0.0,
        seed=3,
    )


@both_buses
@stalls
@pytest.mark.parametrize("source", ["fetch_r", "load_r"])
def test_read_requests_become_bursts(config: HardwareConfig, stall: float, source: str) -> None:
    requests = random_requests(config, 40, seed=4)
    pieces = [piece for request in requests for piece in bursts(*request, config.bus_bits)]
    to = int(source == "load_r")
    cycles = check_kernel(
        config,
        "axi_read_request",
        {source: [request_word(*request) for request in requests]},
        {
            "address_s": [address_word(*piece) for piece in pieces],
            "route_s": [pack((to, 1), (beats, 9)) for _, beats in pieces],
        },
        stall=stall,
        seed=5,
    )
    if stall == 0:
        assert cycles <= len(pieces) + 8, "a burst a cycle, also between requests"


def test_fetch_and_load_alternate() -> None:
    beat = CONFIG.bus_bits // 8
    fetch, load = (0x1000, 8 * 16 * beat), (0x10_0000, 8 * 16 * beat)
    # Both requests are there from the first cycle on: bursts of the two take turns.
    turns = zip(bursts(*fetch, CONFIG.bus_bits), bursts(*load, CONFIG.bus_bits), strict=True)
    order = [piece for turn in turns for piece in turn]
    check_kernel(
        CONFIG,
        "axi_read_request",
        {"fetch_r": [request_word(*fetch)], "load_r": [request_word(*load)]},
        {
            "address_s": [address_word(*piece) for piece in order],
            "route_s": [pack((i % 2, 1), (beats, 9)) for i, (_, beats) in enumerate(order)],
        },
        stall=0.0,
        seed=6,
    )


def command_word(instruction: isa.Instruction) -> int:
    return pack(*((base, 64) for base in BASES), (instruction.encode(), 256))


def random_instructions(kind: type[isa.Instruction], **limits: int) -> list[isa.Instruction]:
    source = random.Random(7)
    edges = [
        kind(region=isa.Region.OUTPUT, address=0, words=1, offset=0),
        kind(region=isa.Region.WEIGHTS, words=2**ADDRESS_BITS - 1, offset=0xFFFF_FFF0, signal=0x3F),
    ]
    return edges[: None if "words" not in limits else 1] + [
        kind(
            region=source.choice(list(isa.Region)),
            address=source.randrange(2**ADDRESS_BITS // 2),
            words=source.randint(1, limits.get("words", 5000)),
            offset=16 * source.randrange(2**28),
            signal=source.randrange(64),
            wait=source.randrange(128),
            **({"target": source.choice(list(isa.LoadTarget))} if kind is isa.Load else {}),
        )
        for _ in range(60)
    ]


def dram_address(instruction: isa.Instruction) -> int:
    return (BASES[instruction.region] + instruction.offset) % 2**64


@both_buses
@stalls
def test_load_request(config: HardwareConfig, stall: float) -> None:
    loads = random_instructions(isa.Load)
    check_kernel(
        config,
        "load_request",
        {"command_r": [command_word(load) for load in loads]},
        {
            "request_s": [
                request_word(
                    dram_address(load),
                    load.words * config.dram_bytes_per_word(TARGET_MEMORY[load.target]),
                )
                for load in loads
            ],
            "fill_s": [
                pack(
                    (load.target, 3),
                    (load.address, ADDRESS_BITS),
                    (load.words, ADDRESS_BITS),
                    (load.signal, 8),
                )
                for load in loads
            ],
        },
        stall=stall,
        seed=8,
    )


@both_buses
@stalls
def test_store_request(config: HardwareConfig, stall: float) -> None:
    stores = random_instructions(isa.Store, words=20)
    reads = [store.address + i for store in stores for i in range(store.words)]
    cycles = check_kernel(
        config,
        "store_request",
        {"command_r": [command_word(store) for store in stores]},
        {
            "read_s": reads,
            "request_s": [
                pack(
                    (dram_address(store), 64),
                    (store.words * config.dram_bytes_per_word(Memory.RESIDUAL), 32),
                    (store.signal, 8),
                )
                for store in stores
            ],
        },
        stall=stall,
        seed=9,
    )
    if stall == 0:
        assert cycles <= len(reads) + 8, "a word a cycle, also between commands"


@both_buses
@stalls
def test_write_requests_become_bursts(config: HardwareConfig, stall: float) -> None:
    source = random.Random(10)
    requests = [(*r, source.randrange(256)) for r in random_requests(config, 40, seed=11)]
    pieces = [
        (address, beats, signal, i == last)
        for where, size, signal in requests
        for cut in [bursts(where, size, config.bus_bits)]
        for last in [len(cut) - 1]
        for i, (address, beats) in enumerate(cut)
    ]
    cycles = check_kernel(
        config,
        "axi_write_request",
        {"request_r": [pack((a, 64), (size, 32), (signal, 8)) for a, size, signal in requests]},
        {
            "address_s": [address_word(address, beats) for address, beats, _, _ in pieces],
            "burst_s": [beats for _, beats, _, _ in pieces],
            "pending_s": [pack((signal, 8), (int(last), 1)) for _, _, signal, last in pieces],
        },
        stall=stall,
        seed=12,
    )
    if stall == 0:
        assert cycles <= len(pieces) + 8
