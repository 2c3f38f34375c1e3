"""Absorbs constants and channel selections into weights, so that only operators remain.

Every rule is exact algebra on one term and its inputs, and returns None where it does not apply.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..preprocess import patch_rows
from .stems import opens
from .term import (
    Activate,
    Beside,
    Channels,
    Dense,
    Embed,
    Fixed,
    Greatest,
    MapNorm,
    Norm,
    Patches,
    Prefix,
    Real,
    Rows,
    Scale,
    Shift,
    Sum,
    Term,
    TermPool,
    TokenMean,
    union,
)


def _per_channel(constant: Real, channels: int) -> Real | None:
    """The constant as one value a channel, None if it differs between tokens."""
    if constant.ndim != 2 or constant.shape[0] != 1:
        return None
    return np.broadcast_to(constant[0], (channels,))


def _of_products(term: Term) -> bool:
    """Whether it is a Dense or a sum of nothing else."""
    if isinstance(term, Sum):
        return all(_of_products(part) for part in term.inputs)
    return isinstance(term, Dense)


def scale_rule(term: Term, pool: TermPool) -> Term | None:
    """Scale after Dense, Patches or a norm → into their weights (LayerScale, γ)."""
    if not isinstance(term, Scale):
        return None
    (below,) = term.inputs
    factor = _per_channel(term.factor, term.shape[1]) if len(term.shape) == 2 else None
    if factor is None:
        return None
    origin = union(below.origin, term.origin)
    match below:
        case Dense():
            weight = below.weight * factor[:, None]
            return pool.intern(
                replace(below, weight=weight, bias=below.bias * factor, origin=origin)
            )
        case Patches():
            weight = (below.weight.T * factor).T  # images have three axes, videos four
            return pool.intern(
                replace(below, weight=weight, bias=below.bias * factor, origin=origin)
            )
        case Norm() | MapNorm():
            gamma, beta = below.gamma * factor, below.beta * factor
            return pool.intern(replace(below, gamma=gamma, beta=beta, origin=origin))
        case Sum() if _of_products(below):
            parts = tuple(pool.scale(part, term.factor, term.origin) for part in below.inputs)
            return pool.intern(replace(below, inputs=parts))
    return None


def shift_rule(term: Term, pool: TermPool) -> Term | None:
    """Shift after Dense, Patches or a norm → into their bias (β); after tokens → positions."""
    if not isinstance(term, Shift):
        return None
    (below,) = term.inputs
    origin = union(below.origin, term.origin)
    offset = _per_channel(term.offset, term.shape[1]) if len(term.shape) == 2 else None
    match below:
        case Dense() | Patches() if offset is not None:
            return pool.intern(replace(below, bias=below.bias + offset, origin=origin))
        case Sum(inputs=(left, right)) if offset is not None and _of_products(below):
            shifted = pool.shift(left, term.offset, term.origin)
            return pool.intern(replace(below, inputs=(shifted, right)))
        case Norm() | MapNorm() if offset is not None:
            return pool.intern(replace(below, beta=below.beta + offset, origin=origin))
        case Embed():
            return pool.intern(
                replace(below, positions=below.positions + term.offset, origin=origin)
            )
        case Dense() | Patches() if len(term.shape) == 2 and opens(below):
            positions = np.broadcast_to(term.offset, term.shape).copy()
            none = np.zeros((0, term.shape[1]))
            return pool.intern(Embed((below,), term.shape, term.origin, none, positions))
    return None


def prefix_rule(term: Term, pool: TermPool) -> Term | None:
    """Constant tokens among or before the constant tokens of an Embed → its prefix."""
    if not isinstance(term, Prefix):
        return None
    (below,), at = term.inputs, term.at
    if opens(below):
        below = _bare(below, pool)
    if not isinstance(below, Embed) or at > len(below.prefix):
        return None
    prefix = np.insert(below.prefix, [at], term.tokens, axis=0)
    positions = np.insert(below.positions, [at], np.zeros_like(term.tokens), axis=0)
    origin = union(term.origin, below.origin)
    return pool.intern(Embed(below.inputs, term.shape, origin, prefix, positions))


def fixed_rule(term: Term, pool: TermPool) -> Term | None:
    """A constant token → Dense without weights on a token that is there anyway."""
    if not isinstance(term, Fixed) or len(term.tokens) != 1:
        return None
    (below,) = term.inputs
    if isinstance(below, Dense | Channels | Scale | Shift | Rows | Activate):
        return pool.rebuilt(term, below.inputs)
    token = pool.rows(embedded(below, pool), (0,), term.origin)
    weight = np.zeros((term.shape[1], token.shape[1]))
    return pool.intern(Dense((token,), term.shape, term.origin, weight, term.tokens[0]))


def beside_rule(term: Term, pool: TermPool) -> Term | None:
    """Dense of channels side by side → the sum of one Dense a part; Denses of one input → one."""
    if isinstance(term, Beside):
        return _merged(term, pool)
    if not isinstance(term, Dense) or not isinstance(term.inputs[0], Beside):
        return None
    (below,) = term.inputs
    origin = union(term.origin, below.origin)
    ends = np.cumsum([part.shape[1] for part in below.inputs])
    weights = np.split(term.weight, ends[:-1], axis=1)
    biases = [term.bias, *(np.zeros_like(term.bias) for _ in weights[1:])]
    total: Term | None = None
    for part, weight, bias in zip(below.inputs, weights, biases, strict=True):
        product = pool.intern(Dense((part,), term.shape, origin, weight, bias))
        total = product if total is None else pool.intern(Sum((total, product), term.shape, origin))
    return total


def _merged(beside: Beside, pool: TermPool) -> Term | None:
    products = [part for part in beside.inputs if isinstance(part, Dense)]
    source = products[0].inputs if products else ()
    if len(products) < len(beside.inputs) or any(part.inputs != source for part in products):
        return None
    weight = np.concatenate([part.weight for part in products])
    bias = np.concatenate([part.bias for part in products])
    origin = union(beside.origin, *(part.origin for part in products))
    return pool.intern(Dense(source, beside.shape, origin, weight, bias))


def channels_rule(term: Term, pool: TermPool) -> Term | None:
    """A selection of channels after Dense → of its output rows; it passes through others."""
    if not isinstance(term, Channels):
        return None
    (below,) = term.inputs
    picked = list(term.selection)
    origin = union(below.origin, term.origin)
    match below:
        case Dense():
            weight, bias = below.weight[picked], below.bias[picked]
            return pool.intern(
                replace(below, weight=weight, bias=bias, shape=term.shape, origin=origin)
            )
        case Channels(inputs=(deeper,), selection=selection):
            return pool.channels(deeper, tuple(selection[c] for c in picked), origin)
        case Scale(inputs=(deeper,), factor=factor):
            factor = factor if factor.shape[1] == 1 else factor[:, picked]
            return pool.scale(pool.channels(deeper, term.selection, term.origin), factor, origin)
        case Shift(inputs=(deeper,), offset=offset):
            offset = offset if offset.shape[1] == 1 else offset[:, picked]
            return pool.shift(pool.channels(deeper, term.selection, term.origin), offset, origin)
        case Rows() | Activate() | Greatest():
            inner = pool.channels(below.inputs[0], term.selection, term.origin)
            return pool.intern(replace(below, inputs=(inner,), shape=term.shape))
    return None


def dense_input_rule(term: Term, pool: TermPool) -> Term | None:
    """Scale, Shift or a selection of channels before Dense → into its weight and bias."""
    if not isinstance(term, Dense):
        return None
    (below,) = term.inputs
    origin = union(term.origin, below.origin)
    match below:
        case Channels(inputs=(deeper,), selection=selection):
            weight = np.zeros((term.weight.shape[0], deeper.shape[1]))
            np.add.at(weight.T, np.asarray(selection), term.weight.T)  # repeats add up
            return pool.intern(replace(term, inputs=(deeper,), weight=weight, origin=origin))
        case Scale(inputs=(deeper,), factor=constant):
            factor = _per_channel(constant, below.shape[1])
            if factor is not None:
                weight = term.weight * factor
                return pool.intern(replace(term, inputs=(deeper,), weight=weight, origin=origin))
        case Shift(inputs=(deeper,), offset=constant):
            offset = _per_channel(constant, below.shape[1])
            if offset is not None:
                bias = term.bias + term.weight @ offset
                return pool.intern(replace(term, inputs=(deeper,), bias=bias, origin=origin))
    return None


def mean_rule(term: Term, pool: TermPool) -> Term | None:
    """The mean of selected tokens → TokenMean of the whole."""
    match term:
        case TokenMean(inputs=(Rows(inputs=(deeper,), rows=kept) as below,), rows=rows):
            picked = tuple(kept[row] for row in rows)
            origin = union(term.origin, below.origin)
            return pool.intern(replace(term, inputs=(deeper,), rows=picked, origin=origin))
    return None


def image_rule(term: Term, pool: TermPool) -> Term | None:
    """The image scaled or shifted alike in all patches before the embedding → into its weight."""
    if not isinstance(term, Patches):
        return None
    (below,) = term.inputs
    match below:
        case Scale(factor=constant) | Shift(offset=constant):
            full = np.broadcast_to(constant, below.shape)
        case _:
            return None
    patch = term.weight.shape[1:]
    rows = patch_rows(full[None], patch)[0]
    if (rows != rows[0]).any():
        return None
    inside = rows[0].reshape(patch)
    origin = union(term.origin, below.origin)
    if isinstance(below, Scale):
        weight = term.weight * inside
        return pool.intern(replace(term, inputs=below.inputs, weight=weight, origin=origin))
    bias = term.bias + (term.weight * inside).sum(axis=tuple(range(1, term.weight.ndim)))
    return pool.intern(replace(term, inputs=below.inputs, bias=bias, origin=origin))


def embed_rule(term: Term, pool: TermPool) -> Term | None:
    """Patches read by anything but Embed get an Embed without class token and positions."""
    if isinstance(term, Embed) or not any(isinstance(read, Patches) for read in term.inputs):
        return None
    return pool.rebuilt(term, tuple(embedded(read, pool) for read in term.inputs))


def embedded(term: Term, pool: TermPool) -> Term:
    """Patches with an empty Embed around them; any other term as it is."""
    return _bare(term, pool) if isinstance(term, Patches) else term


def _bare(term: Term, pool: TermPool) -> Term:
    """`term` as tokens without class token and positions."""
    none = np.zeros((0, term.shape[1]))
    return pool.intern(Embed((term,), term.shape, term.origin, none, np.zeros(term.shape)))
