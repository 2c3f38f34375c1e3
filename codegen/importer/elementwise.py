"""ONNX nodes that work element by element."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from ..graph import Function
from .call import Call, Constant, Tensor
from .load import Array
from .refusal import Refused
from .term import (
    Activate,
    Difference,
    Erf,
    GroupMean,
    Product,
    Real,
    Reciprocal,
    Root,
    Scale,
    Scores,
    Shift,
    Sigmoid,
    Softmax,
    Sum,
    Tanh,
    Term,
    TokenMean,
)
from .view import Ids, View, as_matrix, check_count, constant_of, shows_image, whole

Results = tuple[Tensor | None, ...]

# In place of minus infinity, which hides a key: e to this power is as much zero.
HIDDEN = -1e30
Unary = TypeVar("Unary", Erf, Tanh, Sigmoid, Root, Reciprocal)


def add(call: Call) -> Results:
    """The sum with a constant, or of two results."""
    data, other = _ordered(call)
    if isinstance(other, Constant):
        return (_shifted(call, data, other.values),)
    if all(_differs_by_token(view.term) for view in (data, other)):
        raise Refused(
            "it adds results that were scaled token by token (a rotary position embedding)",
            "Constant factors must not differ between tokens; use positions that are added.",
        )
    left, right, ids = _aligned(call, data, other)
    if left.shape != right.shape:
        raise Refused(
            "it adds one number a token to every channel, or a mean over tokens to every token",
            "Only norms may do so.",
        )
    return (View(call.pool.intern(Sum((left, right), left.shape, call.origin)), ids),)


def _differs_by_token(term: Term) -> bool:
    return isinstance(term, Scale) and len(term.shape) == 2 and term.factor.shape[0] > 1


def subtract(call: Call) -> Results:
    """x - constant, constant - x, or x minus a result (as in a decomposed LayerNorm)."""
    left, right = call.operand(0), call.operand(1)
    if isinstance(right, Constant):
        return (_shifted(call, call.view(0), -_real(right.values)),)
    if isinstance(left, Constant):
        negated = scaled(call, call.view(1), np.array(-1.0))
        return (_shifted(call, negated, left.values),)
    first, second, ids = _aligned(call, call.view(0), call.view(1))
    return (_made(call, Difference((first, second), _wider(first, second), call.origin), ids),)


def multiply(call: Call) -> Results:
    """The product with a constant, or of two results."""
    data, other = _ordered(call)
    if isinstance(other, Constant):
        return (scaled(call, data, other.values),)
    return (_product(call, data, other),)


def divide(call: Call) -> Results:
    """The quotient with a constant on either side, or of two results."""
    left, right = call.operand(0), call.operand(1)
    if isinstance(right, Constant):
        if not np.all(right.values):
            raise Refused("it divides by zero", "Check the constant.")
        return (scaled(call, call.view(0), 1.0 / _real(right.values)),)
    inverse = _reciprocal(call, call.view(1))
    if isinstance(left, Constant):
        return (scaled(call, inverse, left.values),)
    return (_product(call, call.view(0), inverse),)


def negate(call: Call) -> Results:
    """-x."""
    return (scaled(call, call.view(0), np.array(-1.0)),)


def power(call: Call) -> Results:
    """A small constant power."""
    exponent = call.constant(1, "exponent")
    assert exponent is not None
    view = call.view(0)
    match set(exponent.ravel().tolist()):
        case s if s == {2.0}:
            return (_product(call, view, view),)
        case s if s == {3.0}:
            return (_product(call, _product(call, view, view), view),)
        case s if s == {0.5}:
            return (_unary(call, Root, view),)
        case s if s == {-0.5}:
            return (_reciprocal(call, _unary(call, Root, view)),)
        case s if s == {-1.0}:
            return (_reciprocal(call, view),)
        case s if s == {1.0}:
            return (view,)
        case s:
            shown = ", ".join(f"{value:g}" for value in sorted(s)[:3])
            raise Refused(f"its exponent is {shown}", "Powers are 2, 3, 1/2, -1/2 and -1.")


def square_root(call: Call) -> Results:
    """√x."""
    return (_unary(call, Root, call.view(0)),)


def reciprocal(call: Call) -> Results:
    """1 / x."""
    return (_reciprocal(call, call.view(0)),)


def erf(call: Call) -> Results:
    """The error function, part of GELU."""
    return (_unary(call, Erf, call.view(0)),)


def tanh(call: Call) -> Results:
    """The hyperbolic tangent, part of GELU's approximation."""
    return (_unary(call, Tanh, call.view(0)),)


def sigmoid(call: Call) -> Results:
    """1 / (1 + exp(-x)), part of SiLU and QuickGELU."""
    return (_unary(call, Sigmoid, call.view(0)),)


def swish(call: Call) -> Results:
    """x * sigmoid(alpha * x) as one operator (opset 24)."""
    view = call.view(0)
    inner = scaled(call, view, np.array(call.number_of("alpha", 1.0)))
    return (_product(call, view, _unary(call, Sigmoid, inner)),)


def relu(call: Call) -> Results:
    """max(x, 0)."""
    return (_activated(call, Function.RELU),)


def gelu(call: Call) -> Results:
    """GELU as one operator, exact or with tanh."""
    kinds = {"none": Function.GELU_ERF, "tanh": Function.GELU_TANH}
    approximate = call.text("approximate", "none")
    if approximate not in kinds:
        raise Refused(f"approximate is {approximate!r}", "Use nn.GELU() or its tanh variant.")
    return (_activated(call, kinds[approximate]),)


def is_nan(call: Call) -> Results:
    """False everywhere, for probabilities: a softmax of finite scores is finite.

    Exporters write it behind the softmax of scaled_dot_product_attention, for rows whose keys are
    all masked.
    """
    view = call.view(0)
    if not isinstance(view.term, Softmax):
        raise Refused(
            "it looks for NaN in something other than attention probabilities",
            "Export the model without checks of its values.",
        )
    return (Constant(np.zeros(view.ids.shape, np.bool_)),)


def where(call: Call) -> Results:
    """The side that a constant condition chooses, if it chooses the same one everywhere."""
    condition, *sides = (call.operand(position) for position in range(3))
    if isinstance(condition, View):
        raise Refused("its condition depends on the image", "Make it a constant.")
    assert condition is not None
    choices = np.unique(condition.values)
    if len(choices) != 1:
        raise Refused(
            f"it replaces {int(np.sum(condition.values == 0))} of {condition.values.size} values",
            "A mask of attention scores must be a constant that is added to them.",
        )
    chosen = sides[0] if choices[0] else sides[1]
    shapes = [_shape_of(operand) for operand in (condition, *sides) if operand is not None]
    shape = np.broadcast_shapes(*shapes)
    if isinstance(chosen, View):
        view = _broadcast(chosen, shape)
        return (View(view.term, view.ids, call.origin),)
    assert chosen is not None
    return (Constant(np.broadcast_to(chosen.values, shape)),)


def _shape_of(operand: Constant | View) -> tuple[int, ...]:
    return operand.ids.shape if isinstance(operand, View) else operand.values.shape


def batch_normalization(call: Call) -> Results:
    """In inference, a factor and an offset for each channel (axis 1)."""
    trains = call.opset < 14 and any(call.node.output[1:])  # how it was said before
    if trains or call.integer("training_mode", 0):
        raise Refused("it is in training mode", "Call model.eval() before the export.")
    view = call.view(0)
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, variance = (call.constant(n, name) for n, name in enumerate(names, 1))
    assert gamma is not None and beta is not None and mean is not None and variance is not None
    inside = variance + call.number_of("epsilon", 1e-5)
    if not (inside > 0.0).all():
        raise Refused(
            f"its variance and epsilon add up to {inside.min():g}",
            "Check the running variance of the checkpoint: it must be positive.",
        )
    factor = gamma / np.sqrt(inside)
    shape = (-1, *(1 for _ in view.ids.shape[2:]))
    narrowed = scaled(call, view, factor.reshape(shape))
    return (_shifted(call, narrowed, (beta - mean * factor).reshape(shape)),)


def _real(values: Array) -> Real:
    return np.asarray(values, dtype=np.float64)


def _ordered(call: Call) -> tuple[View, Constant | View]:
    """The operands of a commutative node, a constant last."""
    left, right = call.operand(0), call.operand(1)
    assert left is not None and right is not None
    if isinstance(left, View):
        return left, right
    assert isinstance(right, View)
    return right, left


def _made(call: Call, term: Term, ids: Ids) -> View:
    return View(call.pool.intern(term), ids)


def _broadcast(view: View, shape: tuple[int, ...]) -> View:
    """The view as numpy would broadcast it against `shape`."""
    shape = np.broadcast_shapes(view.ids.shape, shape)
    check_count(math.prod(shape))
    return View(view.term, np.broadcast_to(view.ids, shape), view.layout)


def scaled(call: Call, view: View, values: Array) -> View:
    """The view times a constant that broadcasts to it."""
    view = _broadcast(view, values.shape)
    factor = constant_of(values, view, fill=1.0)
    return View(call.pool.scale(view.term, factor, call.origin), view.ids)


def _shifted(call: Call, view: View, values: Array) -> View:
    view = _broadcast(view, values.shape)
    if _is_scores(view.term):
        values = bias_of_scores(values)
    offset = constant_of(values, view, fill=0.0)
    return View(call.pool.shift(view.term, offset, call.origin), view.ids)


def _is_scores(term: Term) -> bool:
    while isinstance(term, Scale | Shift):
        (term,) = term.inputs
    return isinstance(term, Scores)


def bias_of_scores(values: Array) -> Real:
    """What is added to attention scores, where minus infinity hides a key, in finite numbers.

    Raises:
        Refused: it holds NaN or infinity.
    """
    bias = _real(values)
    if np.isnan(bias).any() or np.any(bias == np.inf):
        raise Refused(
            "it adds NaN or infinity to the attention scores", "Only minus infinity hides a key."
        )
    return np.maximum(bias, HIDDEN)


def _product(call: Call, left: View, right: View) -> View:
    first, second, ids = _aligned(call, left, right)
    return _made(call, Product((first, second), _wider(first, second), call.origin), ids)


def _reciprocal(call: Call, view: View) -> View:
    return _unary(call, Reciprocal, view)


def _unary(call: Call, kind: type[Unary], view: View) -> View:
    """A function of every element; √(1/x) is written 1/√x, so that rules see one form."""
    term: Term = view.term
    _check_tokens(view)
    if kind is Root and isinstance(term, Reciprocal):
        root = call.pool.intern(Root(term.inputs, term.shape, call.origin))
        return _made(call, Reciprocal((root,), term.shape, call.origin), view.ids)
    return _made(call, kind((term,), term.shape, call.origin), view.ids)


def _check_tokens(*views: View) -> None:
    """What the importer follows through element by element is no image any more."""
    if any(shows_image(view.term) for view in views):
        raise Refused(
            "it computes on the image itself",
            "Embed the image into patches first; before that, each channel of it can be "
            "multiplied by a constant and moved by one.",
        )


def _activated(call: Call, function: Function) -> View:
    view = call.view(0)
    _check_tokens(view)
    return _made(call, Activate((view.term,), view.term.shape, call.origin, function), view.ids)


def _wider(left: Term, right: Term) -> tuple[int, ...]:
    return max(left.shape, right.shape)


def _aligned(call: Call, left: View, right: View) -> tuple[Term, Term, Ids]:
    """The two terms of an element-wise node, and the arrangement of its result.

    Either both show the same elements at the same places, or one holds one number a token or a
    group of channels, or both are matrices of tokens after their own selection of tokens and
    channels.
    """
    _check_tokens(left, right)
    left, right = _broadcast(left, right.ids.shape), _broadcast(right, left.ids.shape)
    if left.term.shape == right.term.shape and np.array_equal(left.ids, right.ids):
        return left.term, right.term, left.ids
    if _is_column_of(right, left) or _is_statistic_of(right, left):
        return left.term, right.term, left.ids
    if _is_column_of(left, right) or _is_statistic_of(left, right):
        return left.term, right.term, right.ids
    if _is_row_of(right, left) or _is_row_of(left, right):
        raise Refused(
            "it combines each pixel with one number a channel that depends on the image (squeeze "
            "and excitation)",
            "Use blocks without attention between channels.",
        )
    first = as_matrix(left, call.pool, call.origin)
    second = as_matrix(right, call.pool, call.origin)
    if first.shape != second.shape:
        raise Refused(
            f"its operands are {list(first.shape)} and {list(second.shape)}",
            "Give both the same tokens and channels.",
        )
    return first, second, whole(first, left.ids.shape).ids


def _is_column_of(column: View, view: View) -> bool:
    """Whether `column` holds, wherever `view` shows an element, the number of its token."""
    shape = view.term.shape
    return (
        len(shape) == 2
        and column.term.shape == (shape[0], 1)
        and np.array_equal(column.ids, view.ids // shape[1])
    )


def _is_statistic_of(column: View, view: View) -> bool:
    """Whether `column` holds, wherever `view` shows an element, a number of its group of channels.

    It is a mean over all tokens, or made of one.
    """
    term, shape = column.term, view.term.shape
    while isinstance(term, Scale | Shift | Root | Reciprocal):
        (term,) = term.inputs
    match term:
        case TokenMean(inputs=(averaged,), rows=rows) if len(rows) == averaged.shape[0]:
            groups = term.shape[1]
        case GroupMean():
            groups = term.shape[1]
        case _:
            return False
    return (
        len(shape) == 2
        and column.term.shape == (1, groups)
        and shape[1] % groups == 0
        and np.array_equal(column.ids, view.ids % shape[1] // (shape[1] // groups))
    )


def _is_row_of(row: View, view: View) -> bool:
    """Whether `row` holds, wherever `view` shows an element of a map, the number of its channel."""
    shape = view.term.shape
    return (
        view.ids.ndim > 3
        and len(shape) == 2
        and row.term.shape == (1, shape[1])
        and np.array_equal(row.ids, view.ids % shape[1])
    )
