"""ONNX nodes that arrange elements without computing anything."""

from __future__ import annotations

import numpy as np
import onnx

from .call import Call, Constant, Tensor
from .fold import run_node
from .images import ROUNDING
from .join import joined
from .load import Array
from .maps import without_padding
from .refusal import Refused
from .view import View

ARRANGING = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


def only_arranges(call: Call) -> bool:
    """Whether the node makes no term: it moves elements of one, or passes them on."""
    views = [operand for operand in call.inputs if isinstance(operand, View)]
    if call.node.op_type == "Concat":
        return _one_term(call, views)
    return call.node.op_type in (*ARRANGING, "Cast", "Dropout")


def arrange(call: Call) -> tuple[Tensor | None, ...]:
    """Runs the node on the element numbers of its operand instead of on its elements."""
    views = [operand for operand in call.inputs if isinstance(operand, View)]
    if not only_arranges(call):
        return (joined(call),)
    if call.node.op_type != "Concat" and (len(views) != 1 or call.inputs[0] is not views[0]):
        raise Refused("its shape or index depends on the image", "Make it a constant.")
    feeds = [_element_numbers(operand) for operand in call.inputs]
    results = run_node(call.node, feeds, call.opset)
    arranged = (
        None if ids is None else View(views[0].term, ids.astype(np.int64), call.origin)
        for ids in results
    )
    return tuple(None if view is None else without_padding(view) for view in arranged)


def _element_numbers(operand: Constant | View | None) -> Array | None:
    if isinstance(operand, View):
        return operand.ids
    return None if operand is None else operand.values


def _one_term(call: Call, views: list[View]) -> bool:
    return len(views) == len(call.inputs) and all(view.term is views[0].term for view in views)


def keep(call: Call) -> tuple[Tensor | None, ...]:
    """Nodes that change nothing in inference: Dropout with its mask unused."""
    training, ratio = call.constant(2, "training_mode"), call.constant(1, "ratio")
    if training is not None and training.any() and (ratio is None or ratio.any()):
        raise Refused(
            "it is in training mode, and drops numbers at random",
            "Call model.eval() before the export, or make its input training_mode false.",
        )
    view = call.view(0)
    return (View(view.term, view.ids, call.origin),)


def cast(call: Call) -> tuple[Tensor | None, ...]:
    """A cast of float data to float; see `load.ROUNDING`."""
    kind = call.integer("to", 0)
    if kind not in ROUNDING:
        name = onnx.TensorProto.DataType.Name(kind)
        raise Refused(f"it casts activations to {name}", "Export the model in float32.")
    view = call.view(0)
    return (View(view.term, view.ids, call.origin),)
