"""One ONNX node on its traced operands: what every operator handler gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from .load import Array
from .refusal import Refused
from .term import Real, Term, TermPool, union
from .view import View, as_matrix


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the image."""

    values: Array


@dataclass(frozen=True)
class Unknown:
    """The result of a refused node whose shape is not known either."""

    source: str


@dataclass(frozen=True, eq=False)
class Noise:
    """Random numbers, or what was made of them.

    Attributes:
        values: an example, for type and shape.
        drawn_by: number of the node that draws them.
    """

    values: Array
    drawn_by: int


Tensor = Constant | View | Unknown


@dataclass(frozen=True, eq=False)
class Call:
    """A node, its operands (None where an optional one is left out) and where terms are made."""

    node: onnx.NodeProto
    number: int
    opset: int
    inputs: tuple[Constant | View | None, ...]
    pool: TermPool

    @property
    def origin(self) -> tuple[int, ...]:
        """The node itself, then the nodes that arranged its operands."""
        layouts = [operand.layout for operand in self.inputs if isinstance(operand, View)]
        return union((self.number,), *layouts)

    def origin_with(self, *read: tuple[View, Term]) -> tuple[int, ...]:
        """The node itself, and what arranged those views that it reads as their whole term.

        Other arrangements are accounted for in the selection that was made of the term.
        """
        layouts = [view.layout for view, term in read if view.term is term]
        return union((self.number,), *layouts)

    def operand(self, position: int) -> Constant | View | None:
        """Input `position`, None if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def view(self, position: int) -> View:
        """Input `position`, which has to depend on the image."""
        operand = self.operand(position)
        if not isinstance(operand, View):
            raise Refused(
                f"input {position} is a constant where the image's data belong",
                "Put the data first: x @ w, x - c, x / c.",
            )
        return operand

    def matrix(self, position: int) -> Term:
        """Input `position` as a term [tokens, channels]."""
        return as_matrix(self.view(position), self.pool, self.origin)

    def constant(self, position: int, what: str) -> Real | None:
        """Input `position` in double precision, None if it is left out.

        Raises:
            Refused: it depends on the image.
        """
        operand = self.operand(position)
        if operand is None:
            return None
        if isinstance(operand, View):
            raise Refused(
                f"its {what} depends on the image", f"Make the {what} a constant of the model."
            )
        return np.asarray(operand.values, dtype=np.float64)

    def attribute(self, name: str, default: object) -> object:
        """Attribute `name`, or `default` if the node has none."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attribute(name, default)
        assert isinstance(value, int)
        return value

    def axis(self, default: int, rank: int) -> int:
        """Attribute `axis`, counted from the front."""
        return checked_axis(self.integer("axis", default), rank)

    def number_of(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self.attribute(name, default)
        assert isinstance(value, int | float)
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attribute(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str, default: Sequence[int] | None) -> tuple[int, ...] | None:
        """An attribute that is a list of integers."""
        value = self.attribute(name, default)
        return None if value is None else tuple(value)  # type: ignore[arg-type]


def rank_of(operand: Constant | View) -> int:
    """The number of axes of the tensor."""
    return operand.ids.ndim if isinstance(operand, View) else operand.values.ndim


def checked_axis(axis: int, rank: int) -> int:
    """An axis of a tensor of `rank` axes, counted from the front.

    Raises:
        Refused: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise Refused(
            f"its axis {axis} is none of the {rank} of its operand",
            "Check the model in ONNX Runtime.",
        )
    return axis % rank
