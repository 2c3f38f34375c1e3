"""What the tests of the DMA kernels share: packing, and how a request is cut into bursts."""

from __future__ import annotations

import random

from vitessera.codegen.config import MAX_BURST, HardwareConfig

# A word of several beats in every memory, and words that are narrower than a beat.
CONFIGS = {
    "default": HardwareConfig(maps=True),
    "wide_bus": HardwareConfig(tile=4, depth=2, lanes=2, bus_bits=128, maps=True),
}
PAGE_BYTES = 4096
BASES = (0x12_3456_7000, 0x2000_0000, 0xFFFF_FFFF_0000_0FF0)


def pack(*fields: tuple[int, int]) -> int:
    """(value, width) fields as a DSLX struct lies at a port: the first in the highest bits."""
    word = 0
    for value, width in fields:
        assert 0 <= value < 1 << width
        word = word << width | value
    return word


def bursts(address: int, size: int, bus_bits: int) -> list[tuple[int, int]]:
    """The AXI bursts of a request: (address, beats)."""
    found = []
    bus_bytes = bus_bits // 8
    while size:
        room = min(MAX_BURST * bus_bytes, PAGE_BYTES - address % PAGE_BYTES, size)
        found.append((address, room // bus_bytes))
        address, size = address + room, size - room
    return found


def address_word(address: int, beats: int) -> int:
    """An AXI address beat of the kernels: {address, length}."""
    return pack((address, 64), (beats - 1, 8))


def random_requests(config: HardwareConfig, count: int, seed: int) -> list[tuple[int, int]]:
    """(address, bytes): edges first, then anywhere; sums stay below 2^64."""
    source = random.Random(seed)
    beat = config.bus_bits // 8
    edges = [
        (0, beat),
        (PAGE_BYTES - beat, 2 * beat),
        (PAGE_BYTES - 3 * beat, PAGE_BYTES + 5 * beat),
        (0x1_0000_0000 - beat, 4 * beat),
        (0xFFFF_FFFF_FFFF_F000 - beat, PAGE_BYTES // 2),
        (5 * PAGE_BYTES, MAX_BURST * beat),
        (7 * PAGE_BYTES + beat, MAX_BURST * beat),
    ]
    anywhere = [
        (source.randrange(1 << 40) * beat, source.randint(1, 100) * beat) for _ in range(count)
    ]
    return edges + anywhere
