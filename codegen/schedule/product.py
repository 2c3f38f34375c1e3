"""Benchmark programs: one int8 product as a program of the whole accelerator."""

from __future__ import annotations

import math

import numpy as np

from ..config import HardwareConfig
from ..graph import Image
from ..packing import Int8Array
from ..program import Program
from ..quantgraph import PatchInput, Product, QuantGraph, Requantization, Value
from . import Tuning, schedule

_SPREAD = 127 / math.sqrt(3)  # standard deviation of uniform int8
_MULTIPLIER_BITS = 15


def product_program(
    config: HardwareConfig,
    rows: int,
    depth: int,
    columns: int,
    seed: int = 0,
    resident: bool = True,
) -> Program:
    """The program of product_graph; see there.

    Args:
        config: the accelerator.
        rows, depth, columns: [rows, depth] patches times [columns, depth] weights transposed.
        seed: of the random weights.
        resident: load everything first, then one COMPUTE; else weights are streamed.

    Raises:
        CapacityError: the operands do not fit the memories.
    """
    tuning = Tuning(resident=True) if resident else Tuning()
    return schedule(product_graph(rows, depth, columns, seed), config, tuning)


def product_graph(rows: int, depth: int, columns: int, seed: int = 0) -> QuantGraph:
    """A network of one product with random weights: int8 patches to int16, "result"."""
    rng = np.random.default_rng(seed)
    patches = PatchInput("patches", (), (), _value(rows, depth, 8), patch=(depth, 1, 1), prefix=0)
    # Accumulators spread over sqrt(depth) * _SPREAD^2; two bits below int16 hold their tails.
    excess = 0.5 * math.log2(depth) + 2 * math.log2(_SPREAD) - 13
    shift = max(0, math.ceil(_MULTIPLIER_BITS + excess))
    step = Requantization(
        bias=rng.integers(-5000, 5001, columns).astype(np.int32),
        multiplier=rng.integers(1 << 14, 1 << 15, columns).astype(np.uint16),
        shift=np.full(columns, shift, np.uint8),
        pre_shift=0,
    )
    product = Product(
        "result", ("patches",), (), _value(rows, columns, 16), _uniform(rng, columns, depth), step
    )
    image = Image("image", (depth, rows, 1))
    return QuantGraph(image, (patches, product), (("result", "result"),))


def product_patches(rows: int, depth: int, seed: int = 0) -> Int8Array:
    """Random patches for product_program: int8 [rows, depth]."""
    return _uniform(np.random.default_rng([seed, 1]), rows, depth)


def _uniform(rng: np.random.Generator, rows: int, columns: int) -> Int8Array:
    return rng.integers(-127, 128, (rows, columns), dtype=np.int8)


def _value(tokens: int, channels: int, bits: int) -> Value:
    return Value(tokens, channels, bits, np.ones(channels))
