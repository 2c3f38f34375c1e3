"""Some dozens of the campaign's cases; `make campaign` runs thousands.

Two engines have queues and FIFOs of the least depth, where whoever counts on room that is not there
stops for ever; one has what boards get, and is shared with other tests.
"""

from __future__ import annotations

import pytest
from campaign import Case, run_cases
from engines import describe, least
from vitessera.codegen.config import HardwareConfig

pytestmark = pytest.mark.accelerator

ENGINES = (
    least(HardwareConfig(tile=4, depth=4, lanes=4, maps=True)),
    least(HardwareConfig(tile=8, depth=4, lanes=8, bus_bits=128)),
    HardwareConfig(tile=16, depth=4, lanes=16, bus_bits=128),
)
CASES = 24  # on each engine


@pytest.mark.parametrize("config", ENGINES, ids=describe)
def test_random_programs_and_networks_equal_the_reference(config: HardwareConfig) -> None:
    number = ENGINES.index(config)
    cases = [Case(number, seed) for seed in range(number * CASES, (number + 1) * CASES)]
    outcomes = run_cases(config, cases)
    wrong = [f"{outcome.case.kind} {outcome.case}: {outcome.wrong}" for outcome in outcomes]
    print(
        f"seeds {cases[0].seed} to {cases[-1].seed}: {len(outcomes)} of {CASES} fit,",
        f"{sum(outcome.cycles for outcome in outcomes):,} cycles",
    )
    assert not any(outcome.wrong for outcome in outcomes), "\n".join(wrong)
    assert len(outcomes) > CASES // 2, "most cases must fit the engine"
