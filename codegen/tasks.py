"""Finds out what the results of a network mean; see host/tasks.py.

Each of these decides, the first that says something:

1. what the user says;
2. Softmax or Sigmoid, which made the result or stands behind it in the file, where it was cut;
3. `problem_type` in config.json beside the model, as transformers writes it;
4. the shape: one number for each patch is a map, several tokens are an embedding, a single number
   is a score;
5. class names, if there are as many;
6. what the result is called, and whether a Linear made it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ..host.tasks import CLASSES, Kind, Last, Task
from .errors import PreprocessingError
from .graph import Graph, Image, ImagePatches, Linear, PatchEmbed
from .importer.heads import Head
from .preprocessing import stated_problem

LABELS = Task(Kind.LABELS, Last.SIGMOID)
SCORES = Task(Kind.SCORES)
EMBEDDING = Task(Kind.EMBEDDING)

MADE_BY = {
    "Softmax": Task(Kind.CLASSES),
    "LogSoftmax": CLASSES,
    "Sigmoid": Task(Kind.LABELS),
}
READ_BY = {"Softmax": CLASSES, "LogSoftmax": CLASSES, "Sigmoid": LABELS}
PROBLEMS = {
    "single_label_classification": CLASSES,
    "multi_label_classification": LABELS,
    "regression": SCORES,
}
OF_EMBEDDINGS = ("embed", "feature", "hidden", "pooler")  # in the name of a result


def find_tasks(
    model: Path,
    graph: Graph,
    heads: Mapping[str, Head],
    classes: int = 0,
    given: Kind | None = None,
) -> dict[str, Task]:
    """What each result means, by its ONNX name.

    Args:
        model: the ONNX file, beside which config.json may lie.
        graph: its content.
        heads: of the results, and of those that the host makes behind a cut.
        classes: how many class names are known.
        given: what the user says.

    Raises:
        PreprocessingError: config.json cannot be read, or its `problem_type` is unknown; or `given`
            is a map, and a result has no number for each patch.
    """
    problem = _problem(model) if given is None else None
    values = dict(graph.outputs)
    return {
        name: _task(graph, name, values.get(name), head, problem, classes, given)
        for name, head in heads.items()
    }


def _problem(model: Path) -> Task | None:
    """What `problem_type` in config.json says."""
    kind = stated_problem(model)
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in PROBLEMS:
        raise PreprocessingError(
            f"config.json beside {model.name}: problem_type is {kind!r}, none of "
            f"{', '.join(PROBLEMS)}.",
            f"Say what the results mean with --task: {', '.join(k.value for k in Kind)}.",
        )
    return PROBLEMS[kind]


def _task(
    graph: Graph,
    name: str,
    value: str | None,
    head: Head,
    problem: Task | None,
    classes: int,
    given: Kind | None,
) -> Task:
    by_head = MADE_BY.get(head.made_by) or READ_BY.get(head.read_by)
    if given is not None:
        return by_head if by_head and by_head.kind is given else _said(graph, name, value, given)
    if value is None:  # the host makes it
        return by_head or problem or EMBEDDING
    return by_head or problem or _by_shape(graph, name, value, classes)


def _said(graph: Graph, name: str, value: str | None, given: Kind) -> Task:
    if given is not Kind.MAP:
        last = {Kind.CLASSES: Last.SOFTMAX, Kind.LABELS: Last.SIGMOID}.get(given, Last.NOTHING)
        return Task(given, last)
    grid = _grid(graph)
    tokens = graph.shapes()[value][0] if value else 0
    if not grid or tokens < math.prod(grid):
        raise PreprocessingError(
            f"--task map: the result {name!r} has {tokens} tokens for {math.prod(grid or (0,))} "
            "patches.",
            "Take a result with a token for each patch, with --results; or leave --task map out.",
        )
    return Task(Kind.MAP, grid=grid)


def _by_shape(graph: Graph, name: str, value: str, classes: int) -> Task:
    tokens, channels = graph.shapes()[value]
    grid = _grid(graph)
    if tokens > 1:
        is_map = grid and channels == 1 and tokens == math.prod(grid)
        return Task(Kind.MAP, grid=grid) if is_map and grid else EMBEDDING
    if channels == 1:
        return SCORES
    if classes == channels:
        return CLASSES
    named = any(word in name.lower() for word in OF_EMBEDDINGS)
    return CLASSES if isinstance(graph[value], Linear) and not named else EMBEDDING


def _grid(graph: Graph) -> tuple[int, int] | None:
    """Lines and columns of the patches; None where they are no rectangle."""
    for node in graph:
        if isinstance(node, PatchEmbed):
            return _tiled(node, graph.image)
        if isinstance(node, ImagePatches):
            return node.window.grid
    return None


def _tiled(node: PatchEmbed, image: Image) -> tuple[int, int] | None:
    sides = [n // side for n, side in zip(image.shape, node.weight.shape[1:], strict=True)]
    *rest, lines, columns = sides
    return (lines, columns) if math.prod(rest) == 1 else None
