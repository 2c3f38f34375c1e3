"""If nodes whose condition is a constant: tracing goes through one branch alone."""

from __future__ import annotations

from collections.abc import Sequence

from .call import Constant, Noise, Tensor, Unknown
from .load import Array
from .refusal import Refused, follows_from
from .term import union
from .view import View

Operand = Tensor | Noise | None


def truth(values: Array) -> bool | None:
    """The truth value that a condition is; None if it is not one value."""
    return bool(values.reshape(())) if values.size == 1 else None


def chosen(number: int, outputs: int, operands: Sequence[Operand]) -> list[Operand]:
    """The results of an If.

    Args:
        number: of the node.
        outputs: how many it has.
        operands: as `branches.flattened` puts them: the condition, what the first branch gives,
            and what the second one gives; None for a branch that was not taken.

    Raises:
        Refused: the condition is no constant, or the branch was refused.
    """
    condition, *results = operands
    if isinstance(condition, Unknown):
        raise follows_from(condition.source)
    wanted = truth(condition.values) if isinstance(condition, Constant) else None
    if wanted is None:
        raise Refused(
            "its condition is not one truth value that is the same for all images",
            "Write the model without branches that depend on data, or take a result before them "
            "with --results.",
        )
    if len(results) != 2 * outputs:
        raise Refused(
            f"its branches give {len(results)} results together, and it has {outputs} outputs",
            "Check the model in ONNX Runtime.",
        )
    taken = results[:outputs] if wanted else results[outputs:]
    return [_passed(number, result) for result in taken]


def _passed(number: int, result: Operand) -> Operand:
    match result:
        case None:
            raise Refused(
                "the branch that is taken does not give all its results",
                "Check the model in ONNX Runtime.",
            )
        case Unknown(source=source):
            raise follows_from(source)
        case View(term=term, ids=ids, layout=layout):
            return View(term, ids, union(layout, (number,)))
    return result
