"""Recognises LayerNorm spelled out, and attention."""

from __future__ import annotations

import numpy as np

from .refusal import Refused
from .term import (
    Attend,
    ChannelMean,
    Channels,
    Difference,
    Mix,
    Norm,
    Product,
    Reciprocal,
    Root,
    Scale,
    Scores,
    Shift,
    Softmax,
    Term,
    TermPool,
    union,
)


def norm_rule(term: Term, pool: TermPool) -> Term | None:
    """(x - mean) · 1/√(mean((x - mean)²) + eps) → Norm(x); γ and β are absorbed later.

    x ──┬── mean ── − ──┬── · ── mean ── +eps ── √ ── 1/ ── × ──
        └───────────────┘ └────────────────────────────────┘
    """
    if not isinstance(term, Product):
        return None
    for centred, inverse in (term.inputs, term.inputs[::-1]):
        eps = _epsilon(inverse, centred)
        if eps is not None and isinstance(centred, Difference):
            x, mean = centred.inputs
            if isinstance(mean, ChannelMean) and mean.inputs[0] is x:
                origin = _covered(term, x)
                ones, zeros = np.ones(x.shape[1]), np.zeros(x.shape[1])
                eps = checked_epsilon(eps)
                return pool.intern(Norm((x,), x.shape, origin, ones, zeros, eps))
    return None


def checked_epsilon(eps: float) -> float:
    """`eps`, if a LayerNorm can have it.

    Raises:
        Refused: it is negative or no number: tokens of little variance would have no root.
    """
    if eps >= 0.0 and np.isfinite(eps):
        return eps
    raise Refused(f"its epsilon is {eps:g}", "Use a small positive epsilon, such as 1e-5.")


def _epsilon(inverse: Term, centred: Term) -> float | None:
    """eps, if `inverse` is one over the standard deviation of `centred`."""
    match inverse:
        case Reciprocal(inputs=(Root(inputs=(Shift(inputs=(variance,), offset=eps),)),)):
            pass
        case _:
            return None
    match variance:
        case ChannelMean(inputs=(Product(inputs=(left, right)),)):
            same = left is centred and right is centred and eps.size == 1
            return float(eps.item()) if same else None
    return None


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
    """softmax(s · q @ k.T) @ v → Attend(q, k, v); s gathers the scalars on q, k and the scores.

    q ── ·a ──┐
    k ── ·b ──┴ Scores ── ·c ── Softmax ──┐
    v ────────────────────────────────────┴ Mix ──
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
    scores, scale, origin = _peeled(probabilities.inputs[0], pool)
    if not isinstance(scores, Scores):
        raise Refused(
            "what it does to the attention scores is not a product with one constant",
            "Multiply the scores by one number only, before the softmax.",
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
    return pool.intern(Attend(inputs, term.shape, origins, scores.heads, total))


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
