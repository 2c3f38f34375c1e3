from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from norm_model import OUTSIDE, visits, window_pixels
from runs import Run, Traffic, check, every_run, with_and_without_maps
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig
from words import random_instruction, words

pytestmark = pytest.mark.kernel

Command = isa.Norm | isa.Gather


def loops(c: Command, config: HardwareConfig) -> tuple[int, int, int, int]:
    return c.outer, c.inner, config.tile, config.beats_per_row


def statistics_fields(c: Command) -> dict[str, int]:
    names = ("channels", "inverse", "eps_mantissa", "eps_exponent")
    return {name: getattr(c, name) for name in names} | {"sum_shift": getattr(c, "sum_shift", 0)}


Tag = dict[str, object]


def norm_words(c: isa.Norm, config: HardwareConfig) -> Iterator[tuple[int, Tag]]:
    """Address and tag of each residual word of a NORM."""
    for o, i, row, beat in np.ndindex(*loops(c, config)):
        word = (i * config.tile + row) * config.beats_per_row + beat
        yield (
            c.base + o * c.base_outer + word,
            {
                "row": row,
                "first": i == beat == 0,
                "last": i == c.inner - 1 and beat == config.beats_per_row - 1,
                "valid": [1] * config.lanes,
                "forward": 1,
            },
        )


def pixel_word(c: isa.Gather, config: HardwareConfig, pixel: int, i: int, beat: int) -> int:
    """Where a word of the map stands, round the end; outside, the first pixel's is read."""
    row_tile, row = divmod(max(pixel, 0), config.tile)
    tile = row_tile * c.tiles + i
    word = tile * config.beats_per_tile + row * config.beats_per_row + beat
    return (c.base + word) % 2**ADDRESS_BITS


def sum_words(c: isa.Gather, config: HardwareConfig) -> Iterator[tuple[int, Tag]]:
    """Of the pass over the map that GATHER's sums need: a word once for each group it holds."""
    pixels, size, lanes = c.width * c.height, 1 << c.group, config.lanes
    row_tiles = -(-pixels // config.tile)
    for o, i, row, beat in np.ndindex(row_tiles, *loops(c, config)[1:]):
        for visit in range(visits(c, config)):
            pixel = o * config.tile + row
            inside = pixel < pixels
            channels = beat * lanes + np.arange(lanes)
            counts = channels // size == (beat * lanes + visit * size) // size
            group = int(channels[counts][0]) // size
            in_group = channels[counts] % size
            last_word = o == row_tiles - 1 and row == config.tile - 1 and i == c.inner - 1
            last = last_word and size - 1 in in_group
            yield (
                pixel_word(c, config, pixel if inside else OUTSIDE, i, beat),
                {
                    "row": group,
                    "first": pixel == i == 0 and 0 in in_group,
                    "last": last,
                    "valid": counts & inside,
                    "forward": last,
                    "outside": not inside,
                },
            )


def result_words(c: isa.Gather, config: HardwareConfig) -> Iterator[tuple[int, Tag]]:
    seen = window_pixels(c, config)
    for o, i, row, beat in np.ndindex(*loops(c, config)):
        for pixel in seen[o * config.tile + row]:
            address = pixel_word(c, config, pixel, i, beat)
            yield address, {"row": 0, "forward": 1, "outside": pixel == OUTSIDE}


def walk(config: HardwareConfig, commands: list[Command]) -> Traffic:
    """norm_walk: each residual word of a NORM once; a map's for its sums and for its results."""
    pack = words(config)
    traffic = Traffic(["command_r"], ["residual_s", "tag_s", "command_s"])
    for c in commands:
        traffic.send("command_r", c.encode())
        traffic.expect("command_s", c.encode())
        found: list[tuple[int, Tag]] = []
        if isinstance(c, isa.Norm):
            found += norm_words(c, config)
        else:
            found += sum_words(c, config) if c.statistics else ()
            found += result_words(c, config)
        for address, tag in found:
            traffic.expect("residual_s", address)
            traffic.expect("tag_s", pack.norm_tag(**tag, **statistics_fields(c)))
    return traffic


def walk_results(config: HardwareConfig, commands: list[Command]) -> Traffic:
    """norm_result_walk: where each word's result goes."""
    traffic = Traffic(["command_r"], ["parameter_s", "tag_s"])
    for c in commands:
        traffic.send("command_r", c.encode())
        if isinstance(c, isa.Norm):
            expect_norm_results(traffic, c, config)
        else:
            expect_gather_results(traffic, c, config)
    return traffic


def expect_norm_results(traffic: Traffic, c: isa.Norm, config: HardwareConfig) -> None:
    pack = words(config)
    end = tuple(count - 1 for count in loops(c, config))
    for at in np.ndindex(*loops(c, config)):
        o, i, row, beat = at
        target = pack.target(
            memory=isa.EpilogueTarget[isa.NormTarget(c.target).name],
            transpose=c.transpose,
            row=row,
            beat=beat,
            address=c.address + o * c.outer_stride + i * c.inner_stride,
            signal=c.signal if at == end else 0,
        )
        traffic.expect("parameter_s", c.parameter + i * config.beats_per_row + beat)
        tag = pack.norm_result_tag(
            fresh=i == beat == 0, plain=c.plain, first=1, last=1, shift=c.shift, target=target
        )
        traffic.expect("tag_s", tag)


def expect_gather_results(traffic: Traffic, c: isa.Gather, config: HardwareConfig) -> None:
    pack = words(config)
    tag = {"group": c.group, "by_column": 1, "plain": c.plain, "relu": c.relu, "shift": c.shift}
    if c.statistics:
        for group in range(config.tile >> c.group):
            traffic.expect("parameter_s", c.parameter)
            target = pack.target(memory=isa.EpilogueTarget.LEFT, row=group, address=c.address)
            fields = pack.norm_result_tag(**tag, fresh=1, first=1, target=target)
            traffic.expect("tag_s", fields)
    kernel = c.kernel_height * c.kernel_width
    end = (*(count - 1 for count in loops(c, config)), kernel - 1)
    for at in np.ndindex(*loops(c, config), kernel):
        o, i, row, beat, tap = at
        target = pack.target(
            memory=isa.EpilogueTarget.LEFT,
            row=row,
            beat=beat,
            address=c.address + o * c.outer_stride + i * config.words_per_tile,
            signal=c.signal if at == end else 0,
        )
        traffic.expect("parameter_s", c.parameter + i * config.beats_per_row + beat)
        ends = {"first": tap == 0, "last": tap == kernel - 1}
        traffic.expect("tag_s", pack.norm_result_tag(**tag, **ends, target=target))


def random_norms(rng: np.random.Generator) -> list[Command]:
    """Single tiles, long rows, many row tiles, and anything between."""
    counts = [(1, 1), (1, 1), (1, 20), (20, 1), (1, 1), *rng.integers(1, 5, (6, 2)).tolist()]
    return [
        random_instruction(
            isa.Norm,
            rng,
            outer=outer,
            inner=inner,
            inverse=rng.integers(2**27),
            eps_mantissa=rng.integers(2**16),
        )
        for outer, inner in counts
    ]


# Window and map: columns, step, x and y, kernel (width, height), size (width, height), prefix.
MAPS: list[dict[str, int]] = [
    # One pixel, and every pixel of a map.
    {"columns": 1, "step": 1, "width": 1, "height": 1},
    {"columns": 5, "step": 1, "width": 5, "height": 3},
    # 3 x 3, padded on all sides or behind only; a grid that goes on beyond the map.
    {"columns": 3, "step": 2, "x": -1, "y": -1, "kernel_width": 3, "kernel_height": 3}
    | {"width": 6, "height": 5},
    {"columns": 4, "step": 2, "kernel_width": 3, "kernel_height": 3, "width": 7, "height": 7},
    # One row after another behind a class token, and behind more than a row tile.
    {"columns": 2, "step": 1, "x": 1, "y": -1, "width": 4, "height": 4, "prefix": 1},
    {"columns": 2, "step": 16, "x": 15, "y": 3, "width": 31, "height": 19, "prefix": 5},
    {"columns": 3, "step": 2, "kernel_width": 2, "width": 5, "height": 9, "prefix": 15},
    # The ends of what fields hold; nothing inside.
    {"columns": 511, "step": 63, "x": -128, "y": -128, "kernel_width": 7, "kernel_height": 7}
    | {"width": 9, "height": 4},
    {"columns": 2, "step": 63, "x": 127, "y": 127, "width": 511, "height": 511, "statistics": 0}
    | {"kernel_height": 2},
    {"columns": 9, "step": 60, "x": -4, "y": 1, "width": 500, "height": 3, "statistics": 0},
]


def random_gathers(rng: np.random.Generator, config: HardwareConfig) -> list[Command]:
    """Every map, with groups of every size, between NORMs."""
    sizes = [*range(config.tile.bit_length())]
    found: list[Command] = []
    for n, fields in enumerate(MAPS):
        group = sizes[n % len(sizes)]
        whole = group == sizes[-1]
        chosen = {
            "x": 0,
            "y": 0,
            "kernel_width": 1,
            "kernel_height": 1,
            "prefix": 0,
            "outer": rng.integers(1, 6),
            "inner": rng.integers(1, 4) if whole else 1,
            "group": group,
            "base": rng.integers(2**12),
            "tiles": rng.integers(1, 12),
            "inverse": rng.integers(2**27),
            "eps_mantissa": rng.integers(2**16),
        }
        found.append(random_instruction(isa.Gather, rng, **chosen | fields))
        if n % 3 == 0:
            found += random_norms(rng)[:1]
    return found


@with_and_without_maps
def test_words_are_walked_back_to_back(run: Run) -> None:
    check(run, "norm_walk", walk(run.config, random_norms(run.rng())))


@every_run
def test_maps_are_walked_back_to_back(run: Run) -> None:
    rng = run.rng()
    check(run, "norm_walk", walk(run.config, random_gathers(rng, run.config)))


@every_run
def test_groups_of_every_size(run: Run) -> None:
    rng = run.rng()
    commands: list[Command] = []
    for group in range(run.config.tile.bit_length()):
        whole = 1 << group == run.config.tile
        for inner in (1, 3) if whole else (1,):
            fields = {"inner": inner, "outer": 1, "group": group, "statistics": 1, "base": 40}
            walked = {"width": 3, "height": int(rng.integers(1, 9)), "tiles": 3}
            kernel = {"kernel_width": 1, "kernel_height": 1}
            commands.append(random_instruction(isa.Gather, rng, **fields, **walked, **kernel))
    check(run, "norm_walk", walk(run.config, commands))
    check(run, "norm_result_walk", walk_results(run.config, commands))


@with_and_without_maps
def test_results_are_walked_back_to_back(run: Run) -> None:
    traffic = walk_results(run.config, random_norms(run.rng()))
    check(run, "norm_result_walk", traffic)


@every_run
def test_results_of_maps_are_walked_back_to_back(run: Run) -> None:
    traffic = walk_results(run.config, random_gathers(run.rng(), run.config))
    check(run, "norm_result_walk", traffic)
