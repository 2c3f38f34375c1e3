"""How the compute kernels are run: configurations, stalls, and the check for full speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from vitessera.codegen import hls
from vitessera.codegen.config import HardwareConfig
from vitessera.sim.kernel import check_kernel

# Every configuration is one simulation binary with all kernels.
MAIN = HardwareConfig(maps=True)
SMALL = HardwareConfig(tile=4, depth=4, lanes=4, maps=True)
LARGE = HardwareConfig(tile=16, depth=4, lanes=16, maps=True)
HALF_ROW = HardwareConfig(tile=8, depth=4, lanes=4, maps=True)  # the one with two beats a row
WITHOUT_MAPS = HardwareConfig()  # NORM's kernels have less to do

START_CYCLES = 4  # taking the first word, and what a pipeline's registers add at its ends


@dataclass(frozen=True)
class Run:
    """One simulation.

    Attributes:
        config: the configuration.
        stall: probability, per stream and cycle, of a stall; at 0 the speed is checked too.
        seed: of the data and the stalls.
    """

    config: HardwareConfig
    stall: float
    seed: int

    def __str__(self) -> str:
        config = self.config
        size = f"{config.tile}x{config.tile}x{config.depth}-lanes{config.lanes}"
        size += "" if config.maps else "-without-maps"
        return f"{size}-stall{self.stall}-seed{self.seed}"

    def rng(self) -> np.random.Generator:
        """The source of random data."""
        return np.random.default_rng(self.seed)


RUNS = (
    Run(MAIN, 0.0, 1),
    Run(MAIN, 0.15, 2),
    Run(MAIN, 0.6, 3),
    Run(SMALL, 0.0, 4),
    Run(LARGE, 0.0, 8),
    Run(LARGE, 0.3, 5),
    Run(HALF_ROW, 0.0, 6),
    Run(HALF_ROW, 0.4, 7),
)
every_run = pytest.mark.parametrize("run", RUNS, ids=str)
WITHOUT = (Run(WITHOUT_MAPS, 0.0, 9), Run(WITHOUT_MAPS, 0.4, 10))
with_and_without_maps = pytest.mark.parametrize("run", RUNS + WITHOUT, ids=str)
full_speed = pytest.mark.parametrize("run", RUNS[:1], ids=str)


class Traffic:
    """The words that go into a kernel and those that must come out, by stream."""

    def __init__(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        self.inputs: dict[str, list[int]] = {name: [] for name in inputs}
        self.outputs: dict[str, list[int]] = {name: [] for name in outputs}

    def send(self, stream: str, *words: int) -> None:
        """Adds words to an input."""
        self.inputs[stream] += words

    def expect(self, stream: str, *words: int) -> None:
        """Adds words to an output."""
        self.outputs[stream] += words

    @property
    def longest(self) -> int:
        """Words of the busiest stream: the cycles that an initiation interval of 1 needs."""
        return max(len(words) for words in (*self.inputs.values(), *self.outputs.values()))


def check(run: Run, kernel: str, traffic: Traffic, tail_cycles: int = 0) -> None:
    """Simulates, compares every word and, without stalls, demands one word a cycle.

    Args:
        run: how.
        kernel: name of the kernel.
        traffic: its streams.
        tail_cycles: words that leave after the last one came, beyond the pipeline's latency.
    """
    cycles = check_kernel(
        run.config, kernel, traffic.inputs, traffic.outputs, stall=run.stall, seed=run.seed
    )
    words = traffic.longest
    print(f"{kernel} {run}: {cycles} cycles for {words} words")
    if run.stall == 0:
        limit = words + hls.kernel(kernel).stages + START_CYCLES + tail_cycles
        assert cycles <= limit, f"{kernel} {run}: {cycles} cycles for {words} words: II is not 1"
