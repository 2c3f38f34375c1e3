"""Absorbs constants and channel selections into weights, so that only operators remain.

Every rule is exact algebra on one term and its inputs, and returns None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..graph import OUTSIDE
from ..preprocess import patch_rows
from .term import (
    Activate,
    Beside,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Embed,
    Erf,
    Fixed,
    Greatest,
    GroupMean,
    MapNorm,
    Mix,
    Norm,
    Patches,
    Product,
    Real,
    Reciprocal,
    Root,
    Rows,
    Scale,
    Scores,
    Shift,
    Sigmoid,
    Softmax,
    Sum,
    Tanh,
    Term,
    TermPool,
    TokenMean,
    topological,
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


# Arithmetic that no rule has made an operator of.
UNFINISHED = (
    ChannelMean,
    Difference,
    Erf,
    GroupMean,
    Mix,
    Product,
    Reciprocal,
    Root,
    Scores,
    Sigmoid,
    Softmax,
    Tanh,
)


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
    """Shift after Dense, Patches or a norm → into their bias (β); it passes into sums of them."""
    if not isinstance(term, Shift) or len(term.shape) != 2:
        return None
    (below,) = term.inputs
    if isinstance(below, Shift):
        (deeper,) = below.inputs
        return pool.shift(deeper, below.offset + term.offset, _both(below, term))
    if isinstance(below, Sum):
        return _into_sum(below, term, pool)
    offset = _per_channel(term.offset, term.shape[1])
    if offset is None:
        return None
    match below:
        case Dense() | Patches():
            return pool.intern(replace(below, bias=below.bias + offset, origin=_both(below, term)))
        case Norm() | MapNorm():
            return pool.intern(replace(below, beta=below.beta + offset, origin=_both(below, term)))
    return None


def _both(below: Term, term: Term) -> tuple[int, ...]:
    return union(below.origin, term.origin)


def _into_sum(total: Sum, term: Shift, pool: TermPool) -> Term | None:
    """The sum with its Dense shifted, if it has one: the other operand keeps its bits."""
    for number in (1, 0):
        if _of_products(total.inputs[number]):
            parts = list(total.inputs)
            parts[number] = pool.shift(parts[number], term.offset, term.origin)
            return pool.intern(replace(total, inputs=tuple(parts)))
    return None


def rows_rule(term: Term, pool: TermPool) -> Term | None:
    """Constant tokens among tokens that were added to or arranged before → all of it in one.

    So a Shift comes last: what it adds to zeros are the constant tokens.
    """
    if not isinstance(term, Rows) or OUTSIDE not in term.rows:
        return None
    (below,) = term.inputs
    rows = np.array(term.rows)
    match below:
        case Rows(inputs=(deeper,), rows=kept):
            composed = np.where(rows == OUTSIDE, OUTSIDE, np.array(kept)[rows])
            if (composed == OUTSIDE).all():
                return None  # zeros alone are rows of nothing: they stay a choice among zeros
            return pool.rows(deeper, tuple(composed.tolist()), _both(term, below))
        case Shift(inputs=(deeper,), offset=offset):
            full = np.broadcast_to(offset, below.shape)
            moved = np.where(rows[:, None] == OUTSIDE, 0.0, full[rows])
            spread = pool.rows(deeper, term.rows, term.origin)
            return pool.shift(spread, moved, below.origin)
    return None


def joined_tokens(roots: tuple[Term, ...], pool: TermPool) -> tuple[Term, ...]:
    """The terms with what no weight took as operators of their own.

    A Shift becomes constant tokens and positions, or if it is the same for all tokens a Dense; so
    does a Scale. Those of unfinished arithmetic stay: what is around them is refused.
    """
    order = topological(roots)
    parts = unfinished_parts(order)
    new: dict[Term, Term] = {}
    for term in order:
        rebuilt = pool.rebuilt(term, tuple(new[read] for read in term.inputs))
        new[term] = rebuilt if term in parts else _joining(rebuilt, pool)
    return tuple(new[root] for root in roots)


def unfinished_parts(order: Sequence[Term]) -> dict[Term, Term]:
    """Each Scale and Shift that is a part of unfinished arithmetic, and a term of that.

    It is if it reads a result of such, or if nothing else reads it.
    """
    readers: dict[Term, list[Term]] = {term: [] for term in order}
    for term in order:
        for read in term.inputs:
            readers[read].append(term)
    parts: dict[Term, Term] = {term: term for term in order if isinstance(term, UNFINISHED)}
    for term in order:
        if isinstance(term, Scale | Shift) and term.inputs[0] in parts:
            parts[term] = parts[term.inputs[0]]
    for term in reversed(order):
        if isinstance(term, Scale | Shift) and readers[term]:
            causes = [parts.get(reader) for reader in readers[term]]
            if causes[0] is not None and None not in causes:
                parts.setdefault(term, causes[0])
    return {part: cause for part, cause in parts.items() if part is not cause}


def _joining(term: Term, pool: TermPool) -> Term:
    """What `term` is if no weight takes it."""
    if len(term.shape) != 2:
        return term
    channels = term.shape[1]
    match term:
        case Scale(factor=constant) if (factor := _per_channel(constant, channels)) is not None:
            weight, bias = np.diag(factor), np.zeros(channels)
            return pool.intern(Dense(term.inputs, term.shape, term.origin, weight, bias))
        case Shift(inputs=(Dense() as below,), offset=constant):
            # A factor that has become one by now.
            offset = _per_channel(constant, channels)
            if offset is not None:
                bias, origin = below.bias + offset, _both(below, term)
                return pool.intern(replace(below, bias=bias, origin=origin))
        case Shift(offset=constant) if (offset := _per_channel(constant, channels)) is not None:
            weight = np.eye(channels)
            return pool.intern(Dense(term.inputs, term.shape, term.origin, weight, offset))
    return _joined(term.inputs[0], term, pool) if isinstance(term, Shift) else term


def _joined(below: Term, term: Shift, pool: TermPool) -> Embed:
    """`term` as tokens that join those of `below`."""
    positions = np.broadcast_to(term.offset, term.shape).copy()
    count, origin = 0, term.origin
    match below:
        case Rows(inputs=(deeper,), rows=rows) if (
            first := _tokens_before(rows, deeper.shape[0])
        ) is not None:
            below, count, origin = deeper, first, _both(term, below)
    prefix = positions[:count].copy()
    positions[:count] = 0.0
    return pool.intern(Embed((below,), term.shape, origin, prefix, positions))


def _tokens_before(rows: tuple[int, ...], tokens: int) -> int | None:
    """How many zeros stand before all of the tokens, in order, with no zero among them."""
    first = next((place for place, row in enumerate(rows) if row != OUTSIDE), 0)
    expected = (*[OUTSIDE] * first, *range(tokens))
    behind = rows[len(expected) :]
    alone = all(row == OUTSIDE for row in behind)
    return first if rows[: len(expected)] == expected and alone else None


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
            if OUTSIDE in picked:
                return None
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


def embedded_once(roots: tuple[Term, ...], pool: TermPool) -> tuple[Term, ...]:
    """The terms with one Embed of the patches: where there were several, they read a bare one."""
    order = topological(roots)
    opening = [t for t in order if isinstance(t, Embed) and isinstance(t.inputs[0], Patches)]
    new: dict[Term, Term] = {}
    for term in order:
        inputs = tuple(new[read] for read in term.inputs)
        if len(opening) > 1 and term in opening:
            bare = _bare(inputs[0], pool)
            is_bare = not len(term.prefix) and not term.positions.any()
            new[term] = bare if is_bare else pool.rebuilt(term, (bare,))
        else:
            new[term] = pool.rebuilt(term, inputs)
    return tuple(new[root] for root in roots)


def _bare(term: Term, pool: TermPool) -> Term:
    """`term` as tokens without class token and positions."""
    none = np.zeros((0, term.shape[1]))
    return pool.intern(Embed((term,), term.shape, term.origin, none, np.zeros(term.shape)))
