from __future__ import annotations

import numpy as np
import pytest
from runs import SMALL, Run, Traffic, check, every_run
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from words import random_instruction, words

pytestmark = pytest.mark.kernel
KEYS_MAX = next(field.highest for field in isa.fields(isa.Epilogue) if field.name == "keys")
ACCUMULATES = (isa.EpilogueTarget.RESIDUAL, isa.EpilogueTarget.SOFTMAX)


def walk(config: HardwareConfig, commands: list[isa.Epilogue]) -> Traffic:
    """What isa.Epilogue promises, beat by beat."""
    traffic = Traffic(["command_r"], ["parameter_s", "residual_s", "beat_s"])
    for command in commands:
        traffic.send("command_r", command.encode())
        loops = (command.outer, command.inner, config.tile, config.beats_per_row)
        for o, i, row, beat in np.ndindex(*loops):
            _expect_beat(traffic, config, command, o, i, row, beat)
    return traffic


def _expect_beat(
    traffic: Traffic,
    config: HardwareConfig,
    c: isa.Epilogue,
    o: int,
    i: int,
    row: int,
    beat: int,
) -> None:
    pack = words(config)
    address = c.address + o * c.outer_stride + i * c.inner_stride
    beat_of_tile = row * config.beats_per_row + beat
    residual = address + beat_of_tile
    addend = c.addend + (o * c.inner + i) * config.beats_per_tile + beat_of_tile
    to_residual = c.target == isa.EpilogueTarget.RESIDUAL
    columns = i * config.tile + beat * config.lanes + np.arange(config.lanes)
    at = (o, i, row, beat)
    end = at == (c.outer - 1, c.inner - 1, config.tile - 1, config.beats_per_row - 1)
    target = pack.target(
        memory=c.target,
        transpose=c.transpose,
        row=row,
        beat=beat,
        first=i == 0,
        last=i == c.inner - 1,
        address=residual if to_residual else address,
        valid=columns < c.keys,
        signal=c.signal if end else 0,
    )
    parameter = c.parameter + o * c.parameter_outer + i * c.parameter_inner + beat
    traffic.expect("parameter_s", parameter)
    traffic.expect("residual_s", *([residual if to_residual else addend] if c.accumulate else []))
    traffic.expect(
        "beat_s",
        pack.epilogue_tag(
            accumulate=c.accumulate,
            row_scale=c.row_scale,
            block_start=bool(c.row_scale) and i == row == beat == 0,
            function=c.function,
            pre_shift=c.pre_shift,
            scale=c.scale,
            scale_shift=c.scale_shift,
            offset=c.offset,
            target=target,
        ),
    )


def random_command(rng: np.random.Generator, config: HardwareConfig, target: int) -> isa.Epilogue:
    outer, inner = rng.choice([1, 1, 2, 3], 2)
    return random_instruction(
        isa.Epilogue,
        rng,
        outer=outer,
        inner=inner,
        target=target,
        accumulate=target in ACCUMULATES and rng.integers(2),
        scale=rng.integers(2**16),
        keys=rng.integers(0, inner * config.tile + 1),
    )


@every_run
def test_walks_tiles_back_to_back(run: Run) -> None:
    rng, config = run.rng(), run.config
    single = isa.Epilogue(outer=1, inner=1, address=5, parameter=7, signal=9)
    masks = [
        isa.Epilogue(outer=1, inner=2, target=isa.EpilogueTarget.SOFTMAX, keys=keys)
        for keys in (0, 1, config.tile - 1, config.tile, config.tile + 1, KEYS_MAX)
    ]
    targets = [*isa.EpilogueTarget] * 3
    commands = [random_command(rng, config, target) for target in targets]
    check(run, "epilogue_walk", walk(config, [single, single, *masks, *commands, single]))


@every_run
def test_walks_what_is_added_to_scores(run: Run) -> None:
    """Word after word across tiles, whatever the tiles' own addresses do, and afresh each time."""
    commands = [
        isa.Epilogue(
            outer=outer,
            inner=inner,
            target=isa.EpilogueTarget.SOFTMAX,
            accumulate=accumulate,
            address=3,
            outer_stride=50,
            inner_stride=2,
            keys=inner * run.config.tile - 1,
            addend=addend,
        )
        for outer, inner, accumulate, addend in [
            (1, 3, 1, 100),
            (1, 3, 1, 100),
            (2, 2, 1, 7),
            (1, 1, 0, 7),
            (3, 1, 1, 2**16),
        ]
    ]
    check(run, "epilogue_walk", walk(run.config, commands))


def test_counts_up_to_the_field_width() -> None:
    run = Run(SMALL, 0.0, 1)  # the one with the fewest beats a tile
    most = 2**isa.COUNT_BITS - 1
    commands = [
        isa.Epilogue(
            outer=1, inner=most, inner_stride=16, parameter_inner=1, keys=KEYS_MAX, signal=1
        ),
        isa.Epilogue(outer=most, inner=1, outer_stride=16, row_scale=1, target=2, signal=2),
    ]
    check(run, "epilogue_walk", walk(run.config, commands))
