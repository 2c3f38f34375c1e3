from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from runs import MAIN, Run, Traffic, check, every_run
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from vitessera.sim import kernel
from words import pack_array, words

pytestmark = pytest.mark.kernel
IntArray = npt.NDArray[np.int64]
DEEP = HardwareConfig(depth=8)


def send_tile(
    traffic: Traffic, config: HardwareConfig, left: IntArray, right: IntArray, signal: int
) -> None:
    """Operand words [k, T, V] of one tile."""
    pack = words(config)
    last = len(left) - 1
    for k, (a, b) in enumerate(zip(left, right, strict=True)):
        end = signal if k == last else 0
        traffic.send("engine_r", pack.engine_tag(first=k == 0, last=k == last, signal=end))
        traffic.send("left_r", pack_array(a, 8))
        traffic.send("right_r", pack_array(b, 8))
    product = np.einsum("kiv,kjv->ij", left, right)
    traffic.expect("tile_s", pack_array(product, 32))
    traffic.expect("signal_s", *([signal] if signal else []))


def tiles(run: Run) -> Traffic:
    """Random tiles of many depths, then those whose operands are the extremes."""
    rng, config = run.rng(), run.config
    shape = (config.tile, config.depth)
    traffic = Traffic(["engine_r", "left_r", "right_r"], ["tile_s", "signal_s"])
    for depth in (*[1] * 10, *rng.integers(1, 12, 40)):
        left, right = rng.integers(-127, 128, (2, depth, *shape))
        send_tile(traffic, config, left, right, int(rng.choice([0, 0, 1, 0x12, 255])))
    extremes = np.array([-127, 0, 127])
    for _ in range(20):
        left, right = rng.choice(extremes, (2, int(rng.integers(1, 4)), *shape))
        send_tile(traffic, config, left, right, 0)
    for left_value, right_value in ((127, 127), (127, -127), (-127, 127), (-127, -127)):
        for depth in (1, 30):
            full = np.ones((depth, *shape), np.int64)
            send_tile(traffic, config, left_value * full, right_value * full, 3)
    return traffic


@every_run
def test_products_are_exact(run: Run) -> None:
    check(run, "tile_engine", tiles(run))


@pytest.mark.parametrize("run", [Run(DEEP, 0.0, 10), Run(DEEP, 0.3, 11)], ids=str)
def test_products_are_exact_at_depth_8(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The low halves of eight products overflow 17 bits. A binary with this one kernel."""
    design = kernel.kernels_design(DEEP, ("tile_engine",))
    monkeypatch.setattr(kernel, "kernels_design", lambda _: design)
    check(run, "tile_engine", tiles(run))


def test_the_longest_contraction_of_extremes() -> None:
    config = MAIN
    full = np.full((2**isa.COUNT_BITS - 1, config.tile, config.depth), 127, np.int64)
    traffic = Traffic(["engine_r", "left_r", "right_r"], ["tile_s", "signal_s"])
    send_tile(traffic, config, full, -full, 1)
    check(Run(config, 0.0, 12), "tile_engine", traffic)
