"""Random programs and networks on random accelerators, bit by bit against the reference.

    python tests/campaign/campaign.py --hours 2          (or: make campaign HOURS=2)
    python tests/campaign/campaign.py --again 3:1234     one case once more, by its name

Each engine is a simulation binary; a batch of programs runs in one simulation, each with a DRAM of
its own speed and with random stalls on the bus. A run that hangs is found when nothing moves any
more, and says who waits for whom.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("schedule", "quantize")]

from engines import describe, generated, random_engine
from networks import random_network
from programs import random_input, random_program
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError, VitesseraError
from vitessera.codegen.program import Program
from vitessera.codegen.reference import Reference
from vitessera.sim.accelerator import DramTiming, Failure, Run, Work, simulate_all

# What still moves after so long is counted as wrong; what does not move is found long before.
TIMEOUT_CYCLES = 20_000_000
BATCH = 40  # cases in one simulation
BATCHES = 2  # for each engine, before the next one is built


@dataclass(frozen=True)
class Case:
    """One program on one engine; the two seeds make it again.

    Attributes:
        engine: seed of the accelerator.
        seed: of everything else.
    """

    engine: int
    seed: int

    @property
    def kind(self) -> str:
        """Every other case is a network, the rest are programs of no network."""
        return "network" if self.seed % 2 else "program"

    def __str__(self) -> str:
        return f"{self.engine}:{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: which.
        instructions, cycles: of its program and its run.
        wrong: what went wrong, in words; empty if nothing did.
    """

    case: Case
    instructions: int
    cycles: int
    wrong: str = ""


def random_timing(source: random.Random) -> DramTiming:
    """From a DRAM without latency to one that answers after thousands of cycles."""
    return DramTiming(
        read_latency=source.choice((1, 2, 8, 24, 60, 150, 400, 2000)),
        write_latency=source.choice((1, 12, 100, 1000)),
        beats_per_16=source.choice((32, 16, 12, 8, 4, 2)),
        stalls_per_256=source.choice((0, 0, 16, 96, 200, 240)),
        seed=source.randrange(1 << 32),
    )


def random_work(config: HardwareConfig, case: Case) -> tuple[Work, bytes] | None:
    """The case's program and input, and the output that is right; None if it does not fit."""
    source = random.Random(repr(case))
    try:
        program, content = _random_program(config, case)
    except CapacityError:
        return None
    expected = Reference(program).run_buffer(content)
    return Work(program, (content,), random_timing(source), TIMEOUT_CYCLES), expected


def _random_program(config: HardwareConfig, case: Case) -> tuple[Program, bytes]:
    if case.kind == "network":
        return random_network(config, case.seed)
    program = random_program(config, case.seed)
    return program, random_input(program, case.seed)


def run_cases(config: HardwareConfig, cases: Sequence[Case]) -> list[Outcome]:
    """All cases on the RTL of `config`, in one simulation, but networks that do not fit."""
    drawn = [(case, random_work(config, case)) for case in cases]
    fitting = [(case, *made) for case, made in drawn if made is not None]
    if not fitting:
        return []
    results = simulate_all([work for _, work, _ in fitting], generated(config))
    return [
        _judged(case, work, result, expected)
        for (case, work, expected), (result,) in zip(fitting, results, strict=True)
    ]


def _judged(case: Case, work: Work, result: Run | Failure, expected: bytes) -> Outcome:
    size = len(work.program.instructions)
    if isinstance(result, Failure):
        return Outcome(case, size, 0, f"{result.reason}, {work.timing}\n{result.state}")
    cycles = result.counters["CYCLES"]
    wrong = "" if result.output == expected else f"other bits than the reference, {work.timing}"
    return Outcome(case, size, cycles, wrong)


# --- The command


def _batch(engine: int, first: int) -> list[Outcome]:
    cases = [Case(engine, seed) for seed in range(first, first + BATCH)]
    try:
        return run_cases(random_engine(engine), cases)
    except VitesseraError as error:  # the batch's: a simulator that died, say
        return [Outcome(cases[0], 0, 0, f"the batch up to {cases[-1]} failed: {error}")]


def _batches(seed: int) -> Iterator[tuple[int, int]]:
    """Engine and first case of each batch, without end."""
    for engine in range(seed, 1 << 30):
        for number in range(BATCHES):
            yield engine, (engine * BATCHES + number) * BATCH


def campaign(hours: float, seed: int, workers: int) -> int:
    """Runs batches for so long; the number of cases that went wrong."""
    stop = time.monotonic() + 3600 * hours
    started = time.monotonic()
    counts: Counter[str] = Counter()
    engines: set[int] = set()
    batches = _batches(seed)
    with ProcessPoolExecutor(workers) as pool:
        running = {pool.submit(_batch, *next(batches)) for _ in range(workers)}
        while running:
            done = next(as_completed(running))
            running.remove(done)
            if time.monotonic() < stop:
                running.add(pool.submit(_batch, *next(batches)))
            outcomes = done.result()
            counts["too large"] += BATCH - len(outcomes)
            for outcome in outcomes:
                counts[outcome.case.kind] += 1
                counts["cycles"] += outcome.cycles
                counts["instructions"] += outcome.instructions
                counts["wrong"] += bool(outcome.wrong)
                engines.add(outcome.case.engine)
                if outcome.wrong:
                    print(f"\n{_title(outcome.case)}: {outcome.wrong}", flush=True)
            print(_summary(counts, engines, time.monotonic() - started), flush=True)
    return counts["wrong"]


def _title(case: Case) -> str:
    return f"{case.kind} {case} on {describe(random_engine(case.engine))}"


def _summary(counts: Counter[str], engines: set[int], seconds: float) -> str:
    return (
        f"{seconds / 3600:6.2f} h  {len(engines)} engines  {counts['program']} programs  "
        f"{counts['network']} networks  {counts['instructions']:,} instructions  "
        f"{counts['cycles']:,} cycles  too large for the engine: {counts['too large']}  "
        f"wrong: {counts['wrong']}"
    )


def again(name: str) -> int:
    """Runs one case by its name, and tells what became of it."""
    engine, seed = map(int, name.split(":"))
    case = Case(engine, seed)
    outcomes = run_cases(random_engine(engine), [case])
    for outcome in outcomes:
        print(f"{_title(case)}: {outcome.wrong or f'right, {outcome.cycles:,} cycles'}")
    if not outcomes:
        print(f"{_title(case)}: does not fit")
    return sum(bool(outcome.wrong) for outcome in outcomes)


def main() -> int:
    """The command line; exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0, help="how long (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first engine (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--again", metavar="ENGINE:CASE", help="one case once more")
    args = parser.parse_args()
    wrong = again(args.again) if args.again else campaign(args.hours, args.seed, args.workers)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
