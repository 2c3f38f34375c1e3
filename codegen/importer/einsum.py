"""Einsum of two operands: whatever its letters, a MatMul between arrangements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .call import Call, Constant, Tensor
from .products import linear, product
from .refusal import Refused
from .view import Ids, View

Results = tuple[Tensor | None, ...]

REMEDY = "Write it with matmul and transpose."


@dataclass(frozen=True)
class _Equation:
    """The letters of "left,right->result", sorted by where they occur.

    Attributes:
        left, right, result: as they are written.
        batch: in all three.
        rows, columns: in the result, and in the left or the right operand alone.
        inner: in both operands, summed over.
    """

    left: str
    right: str
    result: str

    @property
    def batch(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    @property
    def rows(self) -> str:
        return "".join(c for c in self.result if c not in self.right)

    @property
    def columns(self) -> str:
        return "".join(c for c in self.result if c not in self.left)

    @property
    def inner(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    @property
    def turned(self) -> _Equation:
        """The same with its operands in the other order."""
        return _Equation(self.right, self.left, self.result)


def einsum(call: Call) -> Results:
    """A linear layer, or one of the two products of attention."""
    equation = _parsed(call)
    left, right = call.operand(0), call.operand(1)
    if len(call.inputs) != 2 or left is None or right is None:
        raise Refused("it does not have the two operands of its equation", REMEDY)
    if isinstance(left, Constant) and isinstance(right, View):
        left, right, equation = right, left, equation.turned
    assert isinstance(left, View)
    if isinstance(right, Constant):
        return (_linear(call, equation, left, right),)
    if _is_turned(equation, left, right):
        left, right, equation = right, left, equation.turned
    return (_product(call, equation, left, right),)


def _parsed(call: Call) -> _Equation:
    text = call.text("equation", "").replace(" ", "")
    operands, arrow, result = text.partition("->")
    letters = operands.split(",")
    plain = all(part.isalpha() and len(set(part)) == len(part) for part in (*letters, result))
    if len(letters) != 2 or not arrow or not plain:
        raise Refused(f"its equation {text!r} is not a product of two operands", REMEDY)
    equation = _Equation(letters[0], letters[1], result)
    known = equation.batch + equation.rows + equation.columns + equation.inner
    if set(known) != set(equation.left + equation.right):
        raise Refused(f"its equation {text!r} sums over one operand alone", REMEDY)
    return equation


def _is_turned(equation: _Equation, left: View, right: View) -> bool:
    """Whether the right operand gives the rows: the probabilities, or what the result puts first.

    Attention scores are [..., queries, keys] in every model, in this order.
    """
    if len(left.term.shape) != len(right.term.shape):
        return len(right.term.shape) == 3
    places = [equation.result.find(part[-1:]) for part in (equation.rows, equation.columns)]
    return places[0] > places[1]


def _linear(call: Call, equation: _Equation, data: View, weight: Constant) -> View:
    if equation.batch:
        raise Refused(f"its weight differs along {equation.batch!r}", "Use one for all tokens.")
    wanted = equation.inner + equation.columns
    sides = _sides(equation.right, weight.values.shape)
    values = np.transpose(weight.values, [equation.right.index(c) for c in wanted])
    columns = [sides[c] for c in equation.columns]
    matrix = values.reshape(-1, int(np.prod(columns))).astype(np.float64)
    rows = _arranged(data.ids, equation.left, equation.rows, equation.inner)
    made = linear(call, View(data.term, rows, data.layout), matrix, None)
    lead = made.ids.shape[:-1]
    ids = made.ids.reshape(*lead, *columns)
    return View(made.term, _ordered(ids, equation.rows + equation.columns, equation.result))


def _product(call: Call, equation: _Equation, left: View, right: View) -> View:
    if len(equation.rows) != 1 or len(equation.columns) != 1:
        raise Refused("its operands have several axes of their own", REMEDY)
    batch, rows, columns = equation.batch, equation.rows, equation.columns
    first = _arranged(left.ids, equation.left, batch + rows, equation.inner)
    second = _arranged(right.ids, equation.right, batch + columns, equation.inner)
    turned = View(right.term, second.swapaxes(-2, -1), right.layout)
    made = product(call, View(left.term, first, left.layout), turned)
    return View(made.term, _ordered(made.ids, batch + rows + columns, equation.result))


def _sides(letters: str, shape: Sequence[int]) -> dict[str, int]:
    return dict(zip(letters, shape, strict=True))


def _arranged(ids: Ids, letters: str, kept: str, inner: str) -> Ids:
    """[kept ..., all of inner]."""
    turned = np.transpose(ids, [letters.index(c) for c in kept + inner])
    return turned.reshape(*turned.shape[: len(kept)], -1)


def _ordered(ids: Ids, letters: str, wanted: str) -> Ids:
    return np.transpose(ids, [letters.index(c) for c in wanted])
