"""Recognises LayerNorm and GroupNorm spelled out, and attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .refusal import Refused
from .term import (
    Attend,
    ChannelMean,
    Channels,
    Difference,
    GroupMean,
    MapNorm,
    Mix,
    Norm,
    Product,
    Real,
    Reciprocal,
    Root,
    Scale,
    Scores,
    Shift,
    Softmax,
    Term,
    TermPool,
    TokenMean,
    union,
)

NORM_REMEDY = (
    "LayerNorm is (x - mean) / sqrt(mean((x - mean)**2) + eps) over the channels; GroupNorm is it "
    "over all pixels and each group of channels."
)
NORM_PARTS = (ChannelMean, Difference, GroupMean, Product, Reciprocal, Root, Scale, Shift)
MEANS = (ChannelMean, GroupMean)
LARGEST_BIAS = 1e3  # of a row; beside it float32 keeps four digits of a score


def norm_rule(term: Term, pool: TermPool) -> Term | None:
    """(x - mean) · 1/√(mean((x - mean)²) + eps) → Norm(x); γ and β are absorbed later.

    x ──┬── mean ── − ──┬── · ── mean ── +eps ── √ ── 1/ ── × ──
        └───────────────┘ └────────────────────────────────┘

    Over all tokens and a group of channels, it is a MapNorm.
    """
    if not isinstance(term, Product):
        return None
    for centred, inverse in (term.inputs, term.inputs[::-1]):
        match centred:
            case Difference(inputs=(x, mean)) if _averaged(mean) is x:
                found = _epsilon(inverse, centred)
            case _:
                continue
        if found is not None and _kind(mean) == _kind(found[0]):
            return _norm(term, x, _kind(mean), checked_epsilon(found[1]), pool)
    return None


def _norm(term: Term, x: Term, kind: int, eps: float, pool: TermPool) -> Term:
    """The norm of `x` that `term` spells out; `kind` as `_kind` says it of its means."""
    origin = _covered(term, x)
    ones, zeros = np.ones(x.shape[1]), np.zeros(x.shape[1])
    if kind:
        return pool.intern(MapNorm((x,), x.shape, origin, kind, ones, zeros, eps))
    return pool.intern(Norm((x,), x.shape, origin, ones, zeros, eps))


def _averaged(mean: Term) -> Term | None:
    """What a norm's mean is taken of."""
    match mean:
        case ChannelMean() | GroupMean():
            return mean.inputs[0]
        case TokenMean(inputs=(x,), rows=rows) if len(rows) == x.shape[0]:
            return x
    return None


def _kind(mean: Term) -> int:
    """The number of groups of a mean over all tokens, 0 of one over the channels of a token."""
    return 0 if isinstance(mean, ChannelMean) else mean.shape[1]


def checked_epsilon(eps: float) -> float:
    """`eps`, if a LayerNorm can have it.

    Raises:
        Refused: it is negative or no number: tokens of little variance would have no root.
    """
    if eps >= 0.0 and np.isfinite(eps):
        return eps
    raise Refused(f"its epsilon is {eps:g}", "Use a small positive epsilon, such as 1e-5.")


def _epsilon(inverse: Term, centred: Term) -> tuple[Term, float] | None:
    """The variance and eps, if `inverse` is one over the standard deviation of `centred`."""
    match inverse:
        case Reciprocal(inputs=(Root(inputs=(Shift(inputs=(variance,), offset=eps),)),)):
            pass
        case _:
            return None
    match _averaged(variance):
        case Product(inputs=(left, right)):
            same = left is centred and right is centred and eps.size == 1
            return (variance, float(eps.item())) if same else None
    return None


def not_norm_rule(term: Term, pool: TermPool) -> Term | None:
    """Refuses what divides by statistics of the channels and is no norm, and says why."""
    if not isinstance(term, Product):
        return None
    for upper, inverse in (term.inputs, term.inputs[::-1]):
        if isinstance(inverse, Reciprocal) and any(
            isinstance(part, MEANS) for part in norm_parts(inverse)
        ):
            raise Refused(_why_not_norm(upper, inverse.inputs[0], pool), NORM_REMEDY)
    return None


def norm_parts(term: Term) -> Iterator[Term]:
    """The arithmetic that a spelled-out LayerNorm may consist of, from `term` down."""
    seen, stack = {term}, [term]
    while stack:
        current = stack.pop()
        if isinstance(current, NORM_PARTS):
            yield current
            stack.extend(read for read in current.inputs if read not in seen)
            seen.update(current.inputs)


def _why_not_norm(upper: Term, deviation: Term, pool: TermPool) -> str:
    """What is wrong with `upper` / `deviation`."""
    match deviation:
        case Root(inputs=(Shift(inputs=(variance,), offset=eps),)) if eps.size == 1:
            pass
        case Root(inputs=(ChannelMean() | GroupMean(),)):
            return "a LayerNorm without epsilon under its root"
        case _:
            return "it divides by statistics of the channels that are no standard deviation"
    variance, factor, _ = _peeled(variance, pool)
    match variance:
        case ChannelMean(inputs=(Product(inputs=(left, right)),)) if left is right:
            squared = left
        case GroupMean(inputs=(Product(inputs=(left, right)),)) if left is right:
            squared = left
        case _:
            return "what is under its root is not the mean of squares"
    if factor != 1.0:
        return f"its variance is {factor:.6g} times the mean of squares (divided by N - 1?)"
    match upper:
        case Difference(inputs=(x, ChannelMean(inputs=(averaged,)))) if averaged is x:
            return "it divides by the deviation of something else"
        case Difference(inputs=(x, GroupMean(inputs=(averaged,)))) if averaged is x:
            return "it divides by the deviation of something else"
        case _ if upper is squared and not isinstance(upper, Difference):
            return "it does not take the mean of the channels off before it divides (RMSNorm)"
    return "what it divides is not x less the mean of its channels"


def _covered(term: Term, stop: Term) -> tuple[int, ...]:
    """Origins from `term` down to, without, `stop`."""
    covered: dict[Term, None] = {}
    stack = [term]
    while stack:
        current = stack.pop()
        if current is not stop and current not in covered:
            covered[current] = None
            stack.extend(current.inputs)
    return union(*(current.origin for current in covered))


def attention_rule(term: Term, pool: TermPool) -> Term | None:
    """softmax(s · q @ k.T + B) @ v → Attend(q, k, v); s gathers the scalars on q, k and the scores.

    q ── ·a ──┐
    k ── ·b ──┴ Scores ── ·c ── +B ── Softmax ──┐
    v ──────────────────────────────────────────┴ Mix ──
    """
    if not isinstance(term, Mix):
        return None
    probabilities, value = term.inputs
    if not isinstance(probabilities, Softmax):
        raise Refused(
            "values are multiplied by something that is not the plain softmax of the scores",
            "Compute softmax(q @ k.transpose(-2, -1) * scale) @ v.",
            origin=probabilities.origin,
        )
    scores, scale, bias, origin = _unbiased(probabilities.inputs[0])
    if not isinstance(scores, Scores):
        raise Refused(
            "what it does to the attention scores is not a product with one constant",
            "Multiply the scores by one number, and add constants, before the softmax; no more.",
            origin=scores.origin,
        )
    query, query_scale, query_origin = _peeled(scores.inputs[0], pool)
    key, key_scale, key_origin = _peeled(scores.inputs[1], pool)
    _check_sizes(query, key, value)
    origins = union(
        term.origin, probabilities.origin, scores.origin, origin, query_origin, key_origin
    )
    total = scale * query_scale * key_scale
    if total <= 0.0:  # the query takes what no scale of scores can be
        query = pool.scale(query, np.full((1, 1), np.sign(total)), scores.origin)
        total = abs(total) or 1.0
    inputs = (query, key, value)
    if bias is not None:
        bias = np.broadcast_to(bias, scores.shape)
    return pool.intern(Attend(inputs, term.shape, origins, scores.heads, total, bias))


def _unbiased(term: Term) -> tuple[Term, float, Real | None, tuple[int, ...]]:
    """What `term` is factor * x + bias of: x, factor, bias, and the origins of what was taken off.

    A bias that is the same for all keys vanishes: softmax does not see it.
    """
    factor, bias, origin = 1.0, np.zeros((1, 1, 1)), tuple[int, ...]()
    while True:
        match term:
            case Scale(inputs=(inner,), factor=value) if value.size == 1:
                factor *= float(value.item())
            case Shift(inputs=(inner,), offset=value):
                bias = bias + factor * value
                _check_visible(bias, term.origin)
            case _:
                return term, factor, bias if np.ptp(bias, axis=2).any() else None, origin
        origin = union(origin, term.origin)
        term = inner


def _check_visible(bias: Real, origin: tuple[int, ...]) -> None:
    """Refused unless each query sees a key by its score: beside large numbers, float32 loses it."""
    greatest = bias.max(axis=2)
    worst = np.unravel_index(np.argmax(np.abs(greatest)), greatest.shape)
    if abs(greatest[worst]) > LARGEST_BIAS:
        raise Refused(
            f"the greatest number that it adds to the scores of token {worst[1]} is "
            f"{greatest[worst]:.3g}, beside which the scores are lost",
            "A mask must leave each token a key that it does not hide.",
            origin=origin,
        )


def _peeled(term: Term, pool: TermPool) -> tuple[Term, float, tuple[int, ...]]:
    """`term` without scalar factors, their product, and the origins of what was taken off."""
    factor, origin = 1.0, tuple[int, ...]()
    while True:
        match term:
            case Scale(inputs=(inner,), factor=value) if value.size == 1:
                factor *= float(value.item())
                origin = union(origin, term.origin)
                term = inner
            case Channels(inputs=(Scale(inputs=(inner,), factor=value),)) if value.size == 1:
                factor *= float(value.item())
                origin = union(origin, term.inputs[0].origin)
                term = pool.channels(inner, term.selection, term.origin)
            case _:
                return term, factor, origin


def _check_sizes(query: Term, key: Term, value: Term) -> None:
    if not query.shape[1] == key.shape[1] == value.shape[1] or key.shape != value.shape:
        shapes = ", ".join(str(list(term.shape)) for term in (query, key, value))
        raise Refused(
            f"query, key and value are {shapes}",
            "Heads must have one size, and keys and values the same tokens.",
        )
