"""Some dozens of the campaign's cases; `make campaign` runs thousands.

Two engines have queues and FIFOs of the least depth, where whoever counts on room that is not there
stops for ever; one has what boards get, and is shared with other tests.
"""

from __future__ import annotations

import pytest
from campaign import Case, random_work, run_cases
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
    stalled = next(case for case in cases if has_stalls(config, case))
    *outcomes, again = run_cases(config, [*cases, stalled])
    wrong = [f"{outcome.case.kind} {outcome.case}: {outcome.wrong}" for outcome in outcomes]
    print(
        f"seeds {cases[0].seed} to {cases[-1].seed}: {len(outcomes)} of {CASES} fit,",
        f"{sum(outcome.cycles for outcome in outcomes):,} cycles",
    )
    assert not any(outcome.wrong for outcome in outcomes), "\n".join(wrong)
    assert len(outcomes) > CASES // 2, "most cases must fit the engine"
    # A case's seed repeats its stalls, too, whatever ran before it: `campaign.py --again`.
    assert again in outcomes


def has_stalls(config: HardwareConfig, case: Case) -> bool:
    """Whether the case fits the engine, and its DRAM stalls at random."""
    made = random_work(config, case)
    return made is not None and made[0].timing.stalls_per_256 > 0
