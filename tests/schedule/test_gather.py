"""GATHER in the reference: against whole maps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import config
from gathers import Gathers, Step, gather, layer_norm, random_patches, steps
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import ProgramError
from vitessera.codegen.reference import Reference

SIZES = [(4, 4, 4), (8, 4, 4), (8, 4, 8), (16, 4, 16)]
CONFIG = config()


@pytest.mark.parametrize("size", SIZES)
def test_gathers_of_a_batch(size: tuple[int, int, int]) -> None:
    hardware = config(*size)
    case = Gathers(hardware, steps(hardware))
    patches = np.stack(random_patches(case, 3))
    outputs = Reference(case.program).run(patches)
    for image in range(3):
        for n, expected in enumerate(case.expected(patches[image])):
            np.testing.assert_array_equal(outputs[f"step{n}"][image], expected)
            assert len(np.unique(expected)) > 20, f"step {n} exercises nothing"


def run(hardware: HardwareConfig, *wrong: Step) -> None:
    case = Gathers(hardware, wrong)
    Reference(case.program).run(np.ones(case.patches_shape, np.int8))


WHOLE = CONFIG.tile.bit_length() - 1
WRONG = {
    "groups of 16 channels, a column tile has 8": [
        gather(CONFIG, 0, 8, group=WHOLE + 1, statistics=1)
    ],
    "reads 2 column tiles, its groups end within the first": [
        gather(CONFIG, 0, 8, group=1, statistics=1, inner=2)
    ],
    "normalises, but there are no statistics of groups": [gather(CONFIG, 0, 8, group=1)],
}


@pytest.mark.parametrize("reason", WRONG)
def test_impossible_gathers_are_named(reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        run(CONFIG, *WRONG[reason])


def test_results_beyond_left_memory() -> None:
    with pytest.raises(ProgramError, match="reaches left word 75, the memory has 64"):
        run(config(left_words=64), gather(CONFIG, 0, 300, group=1, statistics=1))


def test_a_norm_makes_statistics_void() -> None:
    first = gather(CONFIG, 0, 8, group=1, statistics=1)
    later = replace(first, instruction=replace(first.instruction, statistics=0))
    run(CONFIG, first, later)
    run(CONFIG, first, Step(layer_norm(CONFIG), 0), first)
    with pytest.raises(ProgramError, match="there are no statistics of groups"):
        run(CONFIG, first, Step(layer_norm(CONFIG), 0), later)


def test_sums_that_do_not_fit() -> None:
    """A map of 500 x 500 pixels, its sums shifted as those of 35 need."""
    size = {"width": 500, "height": 500, "tiles": 1}
    large = gather(config(residual_words=1 << 18), 0, 8, group=WHOLE, statistics=1, **size)
    case = Gathers(config(residual_words=1 << 18), (large,))
    program = case.program
    instructions = list(program.instructions)
    instructions[3] = replace(instructions[3], region=0, offset=0, words=250_000)
    weights = program.weights + bytes(range(1, 251)) * 16_000
    with pytest.raises(ProgramError, match="more than its sum_shift makes room for"):
        Reference(replace(program, instructions=tuple(instructions), weights=weights)).run(
            np.ones(case.patches_shape, np.int8)
        )
