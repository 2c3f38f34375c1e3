"""Applies the rules to every term, inputs before their readers, until none applies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import absorb, stems
from .activations import gelu_rule, not_gelu_rule, silu_rule, tanh_rule
from .patterns import attention_rule, norm_rule, not_norm_rule
from .refusal import Refused
from .term import Term, TermPool, topological
from .trace import Trace

Rule = Callable[[Term, TermPool], Term | None]

# Recognition comes first: absorbing constants would take the spelled-out patterns apart.
PASSES: tuple[tuple[Rule, ...], ...] = (
    (gelu_rule, silu_rule, norm_rule, attention_rule),
    (tanh_rule, not_gelu_rule, not_norm_rule),
    (
        absorb.scale_rule,
        absorb.shift_rule,
        absorb.rows_rule,
        absorb.fixed_rule,
        absorb.beside_rule,
        absorb.channels_rule,
        absorb.dense_input_rule,
        absorb.mean_rule,
        absorb.image_rule,
        stems.window_rule,
    ),
    (absorb.embed_rule,),
)


def rewrite(trace: Trace) -> tuple[Term, ...]:
    """The roots in terms of graph operators, as far as the rules reach.

    A rule that refuses a term leaves its verdict in `trace.refused`.
    """
    roots = tuple(root for _, root in trace.roots)
    for rules in PASSES[:-1]:
        roots = _run_pass(roots, rules, trace)
    roots = absorb.joined_tokens(roots, trace.pool)
    try:
        roots = stems.maps_of_patches(roots, trace.pool)
    except Refused as refusal:
        trace.refused.setdefault(refusal.origin[0], refusal)
    roots = _run_pass(roots, PASSES[-1], trace)
    roots = tuple(absorb.embedded(root, trace.pool) for root in roots)
    return absorb.embedded_once(roots, trace.pool)


def _run_pass(roots: tuple[Term, ...], rules: Sequence[Rule], trace: Trace) -> tuple[Term, ...]:
    new: dict[Term, Term] = {}
    for term in topological(roots):
        rebuilt = trace.pool.rebuilt(term, tuple(new[read] for read in term.inputs))
        new[term] = _simplified(rebuilt, rules, trace, new)
    return tuple(new[root] for root in roots)


def _simplified(term: Term, rules: Sequence[Rule], trace: Trace, new: dict[Term, Term]) -> Term:
    """Applies rules until none does; inputs that a rule made are simplified as well."""
    while True:
        try:
            result = next((made for rule in rules if (made := rule(term, trace.pool))), None)
        except Refused as refusal:
            number = (refusal.origin or term.origin)[0]
            trace.refused.setdefault(number, refusal)
            return term
        if result is None:
            return term
        known = set(new.values())
        inputs = tuple(
            read if read in known else _simplified(read, rules, trace, new)
            for read in result.inputs
        )
        term = trace.pool.rebuilt(result, inputs)
