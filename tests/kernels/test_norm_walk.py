from __future__ import annotations

import numpy as np
import pytest
from runs import Run, Traffic, check, every_run
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from words import random_instruction, words

pytestmark = pytest.mark.kernel


def loops(c: isa.Norm, config: HardwareConfig) -> tuple[int, int, int, int]:
    return c.outer, c.inner, config.tile, config.beats_per_row


def walk(config: HardwareConfig, commands: list[isa.Norm]) -> Traffic:
    """norm_walk: each residual word once."""
    pack = words(config)
    traffic = Traffic(["command_r"], ["residual_s", "tag_s", "command_s"])
    for c in commands:
        traffic.send("command_r", c.encode())
        traffic.expect("command_s", c.encode())
        for o, i, row, beat in np.ndindex(*loops(c, config)):
            word = (i * config.tile + row) * config.beats_per_row + beat
            traffic.expect("residual_s", c.base + o * c.base_outer + word)
            tag = pack.norm_tag(
                row=row,
                first=i == beat == 0,
                last=i == c.inner - 1 and beat == config.beats_per_row - 1,
                channels=c.channels,
                inverse=c.inverse,
                eps_mantissa=c.eps_mantissa,
                eps_exponent=c.eps_exponent,
            )
            traffic.expect("tag_s", tag)
    return traffic


def walk_results(config: HardwareConfig, commands: list[isa.Norm]) -> Traffic:
    """norm_result_walk: where each word's result goes."""
    pack = words(config)
    traffic = Traffic(["command_r"], ["parameter_s", "tag_s"])
    for c in commands:
        traffic.send("command_r", c.encode())
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
                row_start=i == beat == 0, plain=c.plain, shift=c.shift, target=target
            )
            traffic.expect("tag_s", tag)
    return traffic


def random_commands(rng: np.random.Generator) -> list[isa.Norm]:
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


@every_run
def test_words_are_walked_back_to_back(run: Run) -> None:
    check(run, "norm_walk", walk(run.config, random_commands(run.rng())))


@every_run
def test_results_are_walked_back_to_back(run: Run) -> None:
    traffic = walk_results(run.config, random_commands(run.rng()))
    check(run, "norm_result_walk", traffic)
