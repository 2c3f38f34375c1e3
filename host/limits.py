"""When a run has taken too long: for the host on a board and for simulations alike."""

from __future__ import annotations

# A run may take this many times as long as predicted, and this many cycles more: the prediction
# knows one DRAM, and a board's may be much slower.
FACTOR = 20
EXTRA_CYCLES = 1_000_000


def allowed_cycles(predicted: int) -> int:
    """Cycles that a run may take if so many are predicted."""
    return FACTOR * predicted + EXTRA_CYCLES
