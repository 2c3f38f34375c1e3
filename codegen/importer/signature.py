"""What ONNX says of an operator's operands, and no checker holds a file to: number and type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx
from onnx import helper

from .call import Call, Constant
from .images import ROUNDING
from .load import Array
from .refusal import Refused
from .view import View

REAL = "tensor(float)"


@dataclass(frozen=True)
class _Formal:
    """One operand of an operator.

    Attributes:
        name: as ONNX calls it.
        optional: whether it may be left out.
        letter: the same for all operands that must have one type.
        types: what that type may be, as in "tensor(float)".
    """

    name: str
    optional: bool
    letter: str
    types: frozenset[str]


@cache
def _formals(op_type: str, opset: int) -> tuple[tuple[_Formal, ...], int]:
    """All operands, a repeated one last and once, and how many there must be."""
    schema = onnx.defs.get_schema(op_type, opset, "")
    types = {rule.type_param_str: rule.allowed_type_strs for rule in schema.type_constraints}
    formals = [
        _Formal(
            operand.name,
            operand.option is onnx.defs.OpSchema.FormalParameterOption.Optional,
            operand.type_str,
            frozenset(types.get(operand.type_str, [operand.type_str])),
        )
        for operand in schema.inputs
    ]
    return tuple(formals), schema.min_input


def check_operands(call: Call) -> None:
    """Refuses operands that are left out, and constants of a type that cannot stand there."""
    formals, least = _formals(call.node.op_type, call.opset)
    count = max(least, len(call.inputs))
    operands = [(formals[min(n, len(formals) - 1)], call.operand(n)) for n in range(count)]
    data = {
        formal.letter
        for formal, operand in operands
        if isinstance(operand, View) and REAL in formal.types
    }
    for position, (formal, operand) in enumerate(operands):
        if operand is None and not formal.optional:
            raise Refused(
                f"it leaves out its operand {formal.name!r} (input {position})",
                "The file is damaged, or its exporter is: export the model again.",
            )
        if isinstance(operand, Constant) and not _fits(operand.values, formal, data):
            raise Refused(
                f"its operand {formal.name!r} (input {position}) is {operand.values.dtype}",
                "Give it a type that its operator takes; for a weight, that of the data.",
            )


def _fits(values: Array, formal: _Formal, data: set[str]) -> bool:
    """Whether the constant has a type of its parameter; a float type, where data have the same."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    if formal.letter in data:
        return kind in ROUNDING
    return f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})" in formal.types
