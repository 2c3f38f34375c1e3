"""ONNX → Graph, every node accounted for.

In the order in which a model passes through:

    load         the file: checked, batch bound, weights finite
    trace        image followed through the nodes: operands checked (signature), constants folded
                 (fold), layout turned into element numbers (view, layout, join, maps), arithmetic
                 into terms (elementwise, reductions, groups, patches, windows, products, einsum),
                 several images taken apart (batch)
    rewrite      terms recognised (activations, patterns) and constants absorbed (absorb)
    emit         terms to graph nodes, with a verdict on whatever is left
    inspection   the account of every ONNX node; `import_model`, `inspect_model`
    evaluate     runs the graph in float
"""

from .evaluate import evaluate
from .inspection import Inspection, Row, Status, import_model, inspect_model

__all__ = ["Inspection", "Row", "Status", "evaluate", "import_model", "inspect_model"]
