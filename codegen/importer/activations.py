"""Recognises activation functions spelled out, whatever the order of their multiplications.

The expression is expanded into a polynomial whose unknowns are the argument x and the one
transcendental term (erf, tanh or sigmoid) in it; it is GELU or SiLU if the coefficients are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..graph import Function
from .refusal import Refused
from .term import (
    Activate,
    Erf,
    Product,
    Scale,
    Shift,
    Sigmoid,
    Sum,
    Tanh,
    Term,
    TermPool,
    topological,
    union,
)

# A monomial is the sorted identities of its unknowns; a polynomial maps it to its coefficient.
Polynomial = dict[tuple[int, ...], float]

# Coefficients are rounded, then pass through a few products and sums in single precision.
TOLERANCE = 1e-6
ROUNDINGS = 4
# GELU written out is seven operators deep at most.
DEPTH = 8
MAX_MONOMIALS = 16

GELU_REMEDY = "Use nn.GELU(), or nn.GELU(approximate='tanh')."
TANH_IS_NOT_GELUS = "tanh's argument is not √(2/π)·(x + 0.044715·x³)"

ROOT_TWO_OVER_PI = math.sqrt(2.0 / math.pi)
# x/√2 inside erf; √(2/π)·(x + 0.044715·x³) inside tanh (Hendrycks and Gimpel, 2016).
INNER = {
    Erf: (Function.GELU_ERF, {1: math.sqrt(0.5)}),
    Tanh: (Function.GELU_TANH, {1: ROOT_TWO_OVER_PI, 3: ROOT_TWO_OVER_PI * 0.044715}),
}


def gelu_rule(term: Term, pool: TermPool) -> Term | None:
    """½·x + ½·x·f(x), f = erf(x/√2) or tanh(√(2/π)·(x + 0.044715·x³)) → Activate(x).

        x ──┬──────────────────── × ── ×½ ──
            └── inner ── f ── +1 ─┘

    with the constants anywhere that algebra allows.
    """
    if not isinstance(term, Scale | Product | Sum):
        return None
    for bent in _descendants(term):
        if isinstance(bent, Erf | Tanh):
            found = _argument(bent, pool)
            if found is not None and _is_gelu(term, found[0], bent, pool):
                argument, function = found
                origin = union(bent.origin, *(t.origin for t in _between(term, argument)))
                return pool.intern(Activate((argument,), argument.shape, origin, function))
    return None


def silu_rule(term: Term, pool: TermPool) -> Term | None:
    """c·x·sigmoid(a·x) → SiLU(a·x)·(c/a); QuickGELU is a = 1.702.

        x ──┬────────────────── × ──
            └── ·a ── sigmoid ──┘

    The factors go into the products before and after.
    """
    if not isinstance(term, Scale | Product):
        return None
    bent = next((t for t in _descendants(term) if isinstance(t, Sigmoid)), None)
    if bent is None:
        return None
    for x in _descendants(bent.inputs[0]):
        inner = _expand(bent.inputs[0], {x})
        outer = _expand(term, {x, bent})
        key = tuple(sorted((id(x), id(bent))))
        if inner is not None and inner.keys() == {(id(x),)} and outer and outer.keys() == {key}:
            gain, factor = inner[(id(x),)], outer[key]
            if gain == 0.0:
                return None
            origin = union(bent.origin, *(t.origin for t in _between(term, x)))
            scaled = pool.scale(x, np.full((1,) * len(x.shape), gain), origin)
            active = pool.intern(Activate((scaled,), x.shape, origin, Function.SILU))
            return pool.scale(active, np.full((1,) * len(x.shape), factor / gain), origin)
    return None


def tanh_rule(term: Term, pool: TermPool) -> Term | None:
    """tanh(x) → Activate(x), a pooler's; one that would be GELU's is left to be refused."""
    if not isinstance(term, Tanh) or _argument(term, pool) is not None:
        return None
    if any(isinstance(inside, Product) for inside in argument_of(term)):
        return None
    return pool.intern(Activate(term.inputs, term.shape, term.origin, Function.TANH))


def not_gelu_rule(term: Term, pool: TermPool) -> Term | None:
    """Refuses what no activation was made of, while its constants are still there."""
    if isinstance(term, Product):
        gate = next((t for t in _descendants(term) if _is_tanh(t)), None)
        if gate is not None:
            raise Refused(TANH_IS_NOT_GELUS, GELU_REMEDY, origin=gate.origin)
    if isinstance(term, Sigmoid):
        raise Refused(
            "sigmoid(...) is not part of x·sigmoid(a·x)",
            "Use nn.SiLU(), nn.GELU() or nn.ReLU(); leave one after the head to the host, with "
            "--results.",
        )
    if isinstance(term, Erf | Tanh):
        raise Refused(_explain(term, pool), GELU_REMEDY)
    return None


def argument_of(bent: Erf | Tanh | Sigmoid) -> Iterator[Term]:
    """The arithmetic inside an erf, tanh or sigmoid."""
    return (term for term in _descendants(bent.inputs[0]) if _is_arithmetic(term))


def within_activation(term: Term) -> Term | None:
    """The erf, tanh or sigmoid that arithmetic leads to from `term`, if any."""
    return next((t for t in _descendants(term) if isinstance(t, Erf | Tanh | Sigmoid)), None)


def _explain(term: Erf | Tanh, pool: TermPool) -> str:
    """Why the expression around `term` is not GELU."""
    name = "erf" if isinstance(term, Erf) else "tanh"
    if _argument(term, pool) is not None:
        return f"{name}(...) has GELU's argument, but what surrounds it is not ½·x·(1 + {name})"
    if isinstance(term, Erf):
        core, factor = term.inputs[0], 1.0
        while isinstance(core, Scale) and core.factor.size == 1:
            factor *= float(core.factor.item())
            (core,) = core.inputs
        return f"erf's argument is {factor:.7g}·x, not x/√2 = {math.sqrt(0.5):.7g}·x"
    return TANH_IS_NOT_GELUS


def _is_tanh(term: Term) -> bool:
    return isinstance(term, Activate) and term.function is Function.TANH


def _argument(bent: Erf | Tanh, pool: TermPool) -> tuple[Term, Function] | None:
    """The x for which `bent` is GELU's transcendental part."""
    function, wanted = INNER[type(bent)]
    inner = bent.inputs[0]
    for candidate in _descendants(inner):
        if candidate is inner:
            continue
        here = id(candidate)
        target = {(here,) * power: factor for power, factor in wanted.items()}
        if _close(_expand(inner, {candidate}), target, pool):
            return candidate, function
    return None


def _is_gelu(term: Term, argument: Term, bent: Term, pool: TermPool) -> bool:
    x, f = id(argument), id(bent)
    target = {(x,): 0.5, tuple(sorted((x, f))): 0.5}
    return _close(_expand(term, {argument, bent}), target, pool)


def _close(found: Polynomial | None, target: Polynomial, pool: TermPool) -> bool:
    tolerance = max(TOLERANCE, ROUNDINGS * pool.rounding)
    return (
        found is not None
        and found.keys() == target.keys()
        and all(math.isclose(found[m], target[m], rel_tol=tolerance) for m in target)
    )


def _descendants(term: Term) -> Iterator[Term]:
    """`term` and what arithmetic reaches from it, nearest first; transcendental ones are leaves."""
    seen = {term}
    layer = [term]
    for _ in range(DEPTH):
        yield from layer
        below = [read for node in layer if _is_arithmetic(node) for read in node.inputs]
        layer = [read for read in dict.fromkeys(below) if read not in seen]
        seen.update(layer)


def _is_arithmetic(term: Term) -> bool:
    if isinstance(term, Scale):
        return term.factor.size == 1
    if isinstance(term, Shift):
        return term.offset.size == 1
    return isinstance(term, Sum | Product)


def _between(term: Term, argument: Term) -> list[Term]:
    """The terms that the pattern covers: from `term` down to, without, the argument."""
    below = set(topological((argument,)))
    return [covered for covered in reversed(topological((term,))) if covered not in below]


def _expand(term: Term, unknowns: set[Term], depth: int = 2 * DEPTH) -> Polynomial | None:
    """`term` as a polynomial; None if it grows too large to be GELU."""
    if term in unknowns or not _is_arithmetic(term) or depth == 0:
        return {(id(term),): 1.0}
    parts = [_expand(read, unknowns, depth - 1) for read in term.inputs]
    if any(part is None or len(part) > MAX_MONOMIALS for part in parts):
        return None
    match term, parts:
        case Scale(factor=factor), [dict(inner)]:
            return {monomial: value * float(factor.item()) for monomial, value in inner.items()}
        case Shift(offset=offset), [dict(inner)]:
            return _sum(inner, {(): float(offset.item())})
        case Sum(), [dict(left), dict(right)]:
            return _sum(left, right)
        case _, [dict(left), dict(right)]:
            return _product(left, right)
    return None


def _sum(left: Polynomial, right: Polynomial) -> Polynomial:
    total = dict(left)
    for monomial, value in right.items():
        total[monomial] = total.get(monomial, 0.0) + value
    return total


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for first, a in left.items():
        for second, b in right.items():
            monomial = tuple(sorted(first + second))
            total[monomial] = total.get(monomial, 0.0) + a * b
    return total
