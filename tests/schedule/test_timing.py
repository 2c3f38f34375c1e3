"""The estimated cycles of schedules: what must overlap does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import Shape, config, vision_transformer
from vitessera.codegen import isa
from vitessera.codegen.errors import ProgramError
from vitessera.codegen.program import parse_program
from vitessera.codegen.report import report
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.product import product_program
from vitessera.codegen.schedule.timing import estimate

DEIT_TINY = Shape(
    tokens=197, channels=192, heads=3, hidden=768, blocks=2, classes=(1000,), patch=768
)
TIGHT = {"left_words": 6000, "right_words": 4096, "residual_words": 5800, "norm_words": 24}


@pytest.mark.parametrize("words", [{}, TIGHT], ids=["roomy", "tight"])
def test_two_blocks_of_deit_tiny_keep_the_engine_busy(words: dict[str, int]) -> None:
    """Twelve blocks do better still: input and head weigh less."""
    program = schedule(
        vision_transformer(np.random.default_rng(30), DEIT_TINY), config(8, 4, 8, **words)
    )
    timing = estimate(program)
    assert timing.utilisation > 0.95
    assert report(program).ideal_cycles / timing.cycles > 0.93
    blocks = {name: idle for name, idle in timing.idle.items() if name[-1] in "01"}
    del blocks["head0"]
    assert sum(blocks.values()) < 0.005 * timing.cycles


def test_product_is_timed_by_its_words() -> None:
    program = product_program(config(8, 4, 8, bus_bits=64), 64, 64, 64)
    timing = estimate(program)
    assert timing.engine_cycles == 64**3 // 256
    load, store = 2 * 128 * 4 + 8 * 8, 512 * 2
    assert load + store + 1024 < timing.cycles < load + store + 1024 + 300


def test_input_is_loaded_between_the_first_computes() -> None:
    program = schedule(vision_transformer(np.random.default_rng(31), DEIT_TINY), config(8, 4, 8))
    first = next(
        i for i, entry in enumerate(program.instructions) if isinstance(entry, isa.Compute)
    )
    assert first <= 8  # weights, their parameters, and two row groups of patches and positions


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["load words=1 wait=norm", "end"], "takes a semaphore of norm that no instruction before"),
        (["epilogue outer=1 inner=1", "end"], "takes the tiles of a compute that no instruction"),
    ],
)
def test_programs_that_cannot_be_timed(lines: list[str], message: str) -> None:
    listing = parse_program("\n".join(lines))
    program = replace(
        product_program(config(), 8, 8, 8),
        instructions=listing.instructions,
        labels=listing.labels,
    )
    with pytest.raises(ProgramError, match=message):
        estimate(program)
