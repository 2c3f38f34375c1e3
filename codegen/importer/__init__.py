"""ONNX → Graph, every node accounted for.

In the order in which a model passes through:

    load         the file: checked, weights finite, branches taken apart (branches); which input is
                 the image, and of which size (images, patching, reach)
    trace        image followed through the nodes: operands checked (signature), constants folded
                 (fold), layout turned into element numbers (view, layout, join, maps), arithmetic
                 into terms (elementwise, reductions, groups, patches, windows, products, einsum,
                 quantised), constant branches chosen (control), random numbers that come to nothing
                 left out (noise), several images taken apart (batch)
    rewrite      terms recognised (activations, patterns), constants absorbed (absorb) and maps
                 told from tokens (stems)
    emit         terms to graph nodes, with a verdict on whatever is left
    cut          where a network that cannot be mapped as a whole is cut; the rest is for the host
    inspection   the account of every ONNX node; `import_model`, `inspect_model`
    confined     both in a process of their own, within limits (limits): for files from anywhere
    evaluate     runs the graph in float
"""

from .confined import import_confined, inspect_confined
from .cut import result_shapes
from .evaluate import evaluate
from .inspection import Inspection, Row, Status, graph_of, import_model, inspect_model

__all__ = [
    "Inspection",
    "Row",
    "Status",
    "evaluate",
    "graph_of",
    "import_confined",
    "import_model",
    "inspect_confined",
    "inspect_model",
    "result_shapes",
]
