"""Finds out what the results of a network mean; see host/tasks.py.

Each of these decides, the first that says something:

1. what the user says;
2. Softmax or Sigmoid, which made the result or stands behind it in the file, where it was cut;
3. `problem_type` in config.json beside the model, as transformers writes it;
4. the shape: one number for each patch is a map, and so is what the host makes with lines and
   columns; several tokens are an embedding, a single number is a score;
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

Sides = tuple[int, ...]

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
NOTHING: Mapping[str, Sides] = {}
IMAGE_RANK = 4  # axes of a batch of maps
OF_EMBEDDINGS = ("embed", "feature", "hidden", "pooler")  # in the name of a result


def find_tasks(
    model: Path,
    graph: Graph,
    heads: Mapping[str, Head],
    classes: int = 0,
    given: Kind | None = None,
    by_host: Mapping[str, Sides] = NOTHING,
) -> dict[str, Task]:
    """What each result means, by its ONNX name.

    Args:
        model: the ONNX file, beside which config.json may lie.
        graph: its content.
        heads: of the results, and of those that the host makes behind a cut.
        classes: how many class names are known.
        given: what the user says.
        by_host: the shapes of those that the host makes, as far as they are known.

    Raises:
        PreprocessingError: config.json cannot be read, or its `problem_type` is unknown; or `given`
            is a map, and a result has no number for each patch.
    """
    problem = _problem(model) if given is None else None
    values = dict(graph.outputs)

    def task(name: str, head: Head) -> Task:
        if given is not None:
            return _given(graph, name, head, given, by_host.get(name))
        if name not in values:
            return _of_host(by_host.get(name), _by_head(head) or problem, _width(graph))
        stated = _by_head(head) or problem
        return stated or _by_shape(graph, name, values[name], classes)

    return {name: task(name, head) for name, head in heads.items()}


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


def _by_head(head: Head) -> Task | None:
    return MADE_BY.get(head.made_by) or READ_BY.get(head.read_by)


def _given(graph: Graph, name: str, head: Head, given: Kind, by_host: Sides | None) -> Task:
    """What the user says a result is."""
    by_head = _by_head(head)
    if by_head is not None and by_head.kind is given:
        return by_head
    if given is not Kind.MAP:
        last = {Kind.CLASSES: Last.SOFTMAX, Kind.LABELS: Last.SIGMOID}.get(given, Last.NOTHING)
        return Task(given, last)
    if by_host is not None and len(by_host) in (IMAGE_RANK - 1, IMAGE_RANK):
        return Task(Kind.MAP, grid=(by_host[-2], by_host[-1]))
    grid, value = _grid(graph), dict(graph.outputs).get(name)
    tokens = graph.shapes()[value][0] if value else 0
    if not grid or tokens < math.prod(grid):
        raise PreprocessingError(
            f"--task map: the result {name!r} has {tokens} tokens for {math.prod(grid or (0,))} "
            "patches.",
            "Take a result with a token for each patch, with --results; or leave --task map out.",
        )
    return Task(Kind.MAP, grid=grid)


def _of_host(shape: Sides | None, stated: Task | None, width: int) -> Task:
    """A result that the host makes, in the shape of the ONNX file, None if that is not known.

    Args:
        shape: [1, channels, lines, columns] is a map.
        stated: what its head or a file says. That is of one row of scores, as wide as what the
            network gives: an ArgMax or TopK behind it is another thing.
        width: of the row that the network gives.
    """
    if shape is None:
        return EMBEDDING
    if stated is not None and shape[-1:] == (width,) and math.prod(shape) == width:
        return stated
    if len(shape) == IMAGE_RANK:
        return Task(Kind.MAP, grid=(shape[2], shape[3]))
    return SCORES if math.prod(shape) == 1 else EMBEDDING


def _width(graph: Graph) -> int:
    """Channels of the first tensor that the network gives."""
    return graph.shapes()[graph.outputs[0][1]][1]


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
