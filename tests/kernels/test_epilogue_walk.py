from __future__ import annotations

import numpy as np
import pytest
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from words import words

pytestmark = pytest.mark.kernel


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
    residual = address + row * config.beats_per_row + beat
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
    traffic.expect("residual_s", *([residual] if c.accumulate else []))
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
    outer, inner = (int(n) for n in rng.choice([1, 1, 2, 3], 2))
    free = {
        field.name: int(rng.integers(0, 2 ** min(field.width, 13)))
        for field in isa.fields(isa.Epilogue)
    }
    free |= {
        "outer": outer,
        "inner": inner,
        "target": target,
        "accumulate": int(target == isa.EpilogueTarget.RESIDUAL and rng.integers(2)),
        "function": int(rng.integers(len(isa.ActivationCode))),
        "scale": int(rng.integers(2**16)),
        "offset": int(rng.integers(-256, 256)),
        "keys": int(rng.integers(0, inner * config.tile + 1)),
    }
    return isa.Epilogue(**free)


@every_run
def test_walks_tiles_back_to_back(run: Run) -> None:
    rng, config = run.rng(), run.config
    single = isa.Epilogue(outer=1, inner=1, address=5, parameter=7, signal=9)
    masks = [
        isa.Epilogue(outer=1, inner=2, target=isa.EpilogueTarget.SOFTMAX, keys=keys)
        for keys in (0, 1, config.tile - 1, config.tile, config.tile + 1, 2**16 - 1)
    ]
    targets = [*isa.EpilogueTarget] * 3
    commands = [random_command(rng, config, target) for target in targets]
    check(run, "epilogue_walk", walk(config, [single, single, *masks, *commands, single]))


@full_speed
def test_counts_up_to_the_field_width(run: Run) -> None:
    most = 2**isa.COUNT_BITS - 1
    commands = [
        isa.Epilogue(outer=1, inner=most, inner_stride=16, parameter_inner=1, keys=9000, signal=1),
        isa.Epilogue(outer=most, inner=1, outer_stride=16, row_scale=1, target=2, signal=2),
    ]
    check(run, "epilogue_walk", walk(run.config, commands))
