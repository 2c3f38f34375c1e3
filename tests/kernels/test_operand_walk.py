from __future__ import annotations

import numpy as np
import pytest
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig
from words import random_instruction, words

pytestmark = pytest.mark.kernel


def walk(config: HardwareConfig, commands: list[isa.Compute]) -> Traffic:
    """What isa.Compute promises, address by address."""
    pack = words(config)
    outputs = ["left_s", "probability_s", "right_s", "operand_s", "engine_s"]
    traffic = Traffic(["command_r"], outputs)
    for c in commands:
        probability = c.left_source == isa.LeftSource.PROBABILITY
        traffic.send("command_r", c.encode())
        for o, i, k in np.ndindex(c.outer, c.inner, c.depth):
            left = c.left_base + o * c.left_outer + i * c.left_inner + k * c.left_step
            right = c.right_base + o * c.right_outer + i * c.right_inner + k * c.right_step
            start = probability and i == k == 0
            end = (o, i, k) == (c.outer - 1, c.inner - 1, c.depth - 1)
            traffic.expect("probability_s" if probability else "left_s", left)
            traffic.expect("right_s", right)
            operand_tag = pack.operand_tag(
                probability=probability, block_start=start, tile_start=k == 0
            )
            traffic.expect("operand_s", operand_tag)
            traffic.expect(
                "engine_s",
                pack.engine_tag(first=k == 0, last=k == c.depth - 1, signal=c.signal if end else 0),
            )
    return traffic


def random_command(rng: np.random.Generator) -> isa.Compute:
    outer, inner, depth = rng.choice([1, 1, 2, 3, 5, 8], 3)
    return random_instruction(isa.Compute, rng, outer=outer, inner=inner, depth=depth)


@every_run
def test_walks_loop_nests_back_to_back(run: Run) -> None:
    rng = run.rng()
    last = 2**ADDRESS_BITS - 1
    single = [
        isa.Compute(outer=1, inner=1, depth=1, left_base=n, right_base=last - n, signal=n % 3)
        for n in range(20)
    ]
    edges = [
        isa.Compute(outer=1, inner=1, depth=9, left_base=last, right_base=0, right_step=8192),
        isa.Compute(outer=1, inner=9, depth=1, left_inner=1, right_inner=last // 8, left_source=1),
        isa.Compute(outer=9, inner=1, depth=1, left_outer=1, right_outer=3, left_source=1),
    ]
    commands = edges + single + [random_command(rng) for _ in range(25)]
    check(run, "operand_walk", walk(run.config, commands))


@full_speed
def test_counts_up_to_the_field_width(run: Run) -> None:
    most = 2**isa.COUNT_BITS - 1
    commands = [
        isa.Compute(outer=1, inner=1, depth=most, left_step=128, right_step=1, signal=1),
        isa.Compute(outer=1, inner=most, depth=1, left_inner=1, right_inner=128, signal=2),
        isa.Compute(outer=most, inner=1, depth=1, left_outer=1, left_source=1, signal=4),
    ]
    check(run, "operand_walk", walk(run.config, commands))
