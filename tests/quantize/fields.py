"""Checks every constant of a QuantGraph against the widths in numerics.py and isa.py."""

from __future__ import annotations

import numpy as np
from vitessera.codegen.isa import Epilogue, fields
from vitessera.codegen.isa import Gather as GatherInstruction
from vitessera.codegen.isa import Norm as NormInstruction
from vitessera.codegen.numerics import BIASED_BITS, INT8_MAX, INT16_MAX, SCALED_BITS
from vitessera.codegen.quantgraph import (
    Attention,
    Gather,
    Norm,
    Pool,
    Product,
    QuantGraph,
    QuantNode,
    Requantization,
)


def check_fields(quantgraph: QuantGraph) -> None:
    """Fails if a constant exceeds its field or an accumulator could overflow."""
    produced: set[str] = set()
    for node in quantgraph:
        assert set(node.inputs) <= produced, f"{node.name} reads a later value"
        assert node.name not in produced, f"{node.name} is there twice"
        produced.add(node.name)
        assert (node.value.scale > 0).all(), node.name
        _check(quantgraph, node)
    for _, name in quantgraph.outputs:
        assert quantgraph[name].value.bits == 16


def _check(quantgraph: QuantGraph, node: QuantNode) -> None:
    match node:
        case Product(weight=weight, requantization=constants):
            assert weight.dtype == np.int8
            assert weight.min() >= -INT8_MAX
            assert weight.shape == (node.value.channels, quantgraph[node.inputs[0]].value.channels)
            sums = np.abs(weight.astype(np.int64)).sum(axis=1)
            _check_requantization(constants, INT8_MAX * sums)
        case Pool(requantization=constants, start=start, stop=stop):
            _check_requantization(constants, np.array([INT8_MAX * (stop - start)]))
        case Attention():
            query, key, value = (quantgraph[name].value for name in node.inputs)
            zeros = [part.offset * part.scale for part in (value, node.value)]
            assert np.allclose(*zeros), "what values lack must be missing in the result"
            assert not np.any(query.offset), "scores would depend on the keys' sum"
            products = query.scale * key.scale
            assert np.allclose(products, products[0]), "scores have one multiplier"
            width = query.channels // node.heads
            _check_requantization(node.scores, np.array([width * INT8_MAX**2]))
            worst = key.tokens * INT8_MAX**2
            _check_requantization(node.mix, np.array([worst]))
            if node.bias is not None:
                assert node.bias.dtype == np.int16
                assert node.bias.shape == (node.heads, query.tokens, key.tokens)
                assert node.bias.min() >= -INT16_MAX
                assert not node.bias.max(axis=-1).any(), "each row keeps one score as it is"
            ratio = node.mix.multiplier / 2.0 ** (node.mix.shift + float(node.mix.pre_shift))
            assert (worst * ratio).max() < 2 ** (SCALED_BITS - 1), "the mix would saturate"
            assert 0 <= node.mix.scale_shift <= 63 - 27, "the reciprocal adds up to 27"
        case (
            Norm(gamma=gamma, beta=beta, constants=constants)
            | Gather(gamma=gamma, beta=beta, constants=constants)
        ):
            assert (gamma.dtype, beta.dtype) == (np.int16, np.int32)
            for field in fields(NormInstruction if isinstance(node, Norm) else GatherInstruction):
                if hasattr(constants, field.name):
                    field.encode(int(getattr(constants, field.name)))
        case _:
            pass


def _check_requantization(constants: Requantization, largest: np.ndarray) -> None:
    assert constants.bias.dtype == np.int32
    assert constants.multiplier.dtype == np.uint16
    assert constants.multiplier.min() >= 1 << 15
    assert constants.shift.max() <= 63
    for field in fields(Epilogue):
        if field.name in ("pre_shift", "scale", "scale_shift", "offset"):
            field.encode(getattr(constants, field.name))
    bound = (largest + np.abs(constants.bias.astype(np.int64))).max()
    assert bound < 2 ** (BIASED_BITS - 1 + constants.pre_shift), "the accumulator would saturate"
