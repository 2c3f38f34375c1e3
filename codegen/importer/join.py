"""Concat of several tensors: constant tokens, channels side by side, stacks that are summed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import OUTSIDE
from .call import Call, Constant, Tensor, rank_of
from .fold import run_node
from .refusal import Refused
from .term import Beside, Real, Stacked, Term, union
from .view import View, as_matrix, whole

REMEDY = "Concatenate class or register tokens [1, n, channels] before the patch tokens."


def joined(call: Call) -> Tensor:
    """The concatenation of constants and of results of several operators."""
    views = [operand for operand in call.inputs if isinstance(operand, View)]
    rank = views[0].ids.ndim
    axis = call.axis(0, rank)
    if any(operand is not None and rank_of(operand) != rank for operand in call.inputs):
        raise Refused(
            "its operands have different numbers of axes", "Check the model in ONNX Runtime."
        )
    if len(views) < len(call.inputs):
        return _with_constants(call, axis)
    if axis == rank - 1 and (beside := _beside(call, views)) is not None:
        return beside
    return _stacked(call, views)


def _with_constants(call: Call, axis: int) -> View:
    """Constant tokens among those of one term: zeros among them, and constants added to these."""
    views = [operand for operand in call.inputs if isinstance(operand, View)]
    if any(view.term is not views[0].term for view in views):
        raise Refused("it does not put constant tokens into one tensor of tokens", REMEDY)
    ids = np.concatenate([view.ids for view in views], axis=axis)
    if ids.ndim < 2 or axis != ids.ndim - 2 or any(side != 1 for side in ids.shape[:-2]):
        raise Refused(
            f"it joins a constant along axis {axis} of {list(ids.shape)}, which is not the "
            "token axis",
            REMEDY,
        )
    whole_view = View(views[0].term, ids, union(*(view.layout for view in views)))
    matrix = as_matrix(whole_view, call.pool, call.origin)
    origin = call.origin_with((whole_view, matrix))
    values = [_values(operand) for operand in call.inputs if operand is not None]
    tokens = np.concatenate(values, axis=axis).reshape(-1, matrix.shape[1])
    is_constant = np.concatenate(
        [
            np.full(operand.ids.shape[axis], False)
            if isinstance(operand, View)
            else np.full(operand.values.shape[axis], True)
            for operand in call.inputs
            if operand is not None
        ]
    )
    rows = np.where(is_constant, OUTSIDE, np.cumsum(~is_constant) - 1)
    spread = call.pool.rows(matrix, tuple(rows.tolist()), origin)
    term = call.pool.shift(spread, tokens, origin)
    return whole(term, (*ids.shape[:-2], *term.shape))


def _values(operand: Constant | View) -> Real:
    """A constant's values; zeros of others."""
    if isinstance(operand, View):
        return np.zeros(operand.ids.shape)
    return operand.values.astype(np.float64)


def _beside(call: Call, views: Sequence[View]) -> View | None:
    """Channels side by side, None if the operands are not matrices of the same tokens."""
    try:
        terms = [as_matrix(view, call.pool, call.origin) for view in views]
    except Refused:
        return None
    if len({term.shape[0] for term in terms}) > 1:
        return None
    shape = (terms[0].shape[0], sum(term.shape[1] for term in terms))
    origin = call.origin_with(*zip(views, terms, strict=True))
    leading = views[0].ids.shape[:-1]
    return whole(call.pool.intern(Beside(tuple(terms), shape, origin)), (*leading, shape[1]))


def _stacked(call: Call, views: Sequence[View]) -> View:
    """The node on element numbers of all terms together."""
    terms = tuple(dict.fromkeys(view.term for view in views))
    channels = {term.shape[-1] for term in terms}
    if len(channels) > 1 or any(len(term.shape) != 2 for term in terms):
        raise Refused(
            "it joins tensors of different kinds",
            "Join tensors of tokens with the same number of channels.",
        )
    starts = dict(zip(terms, np.cumsum([0, *(_size(term) for term in terms)]), strict=False))
    feeds = [view.ids + starts[view.term] for view in views]
    (ids,) = run_node(call.node, feeds, call.opset)
    assert ids is not None
    shape = (sum(term.shape[0] for term in terms), channels.pop())
    return View(call.pool.intern(Stacked(terms, shape, call.origin)), ids.astype(np.int64))


def _size(term: Term) -> int:
    return term.shape[0] * term.shape[1]
