"""Hybrids: maps are normalised, pooled and gathered in integers as in float."""

from __future__ import annotations

import numpy as np
import pytest
from random_hybrid import Stem, random_hybrid
from random_vit import Shape, random_images
from vitessera.codegen.importer import evaluate
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import quantize

STEMS = {
    "r-stem": Stem(),
    "one group": Stem(groups=1),
    "large groups": Stem(groups=2, channels=32),
    "a group each": Stem(groups=16, channels=16),
    "no norm": Stem(groups=0),
    "no pool": Stem(pool=False),
    "no relu": Stem(relu=False),
    "single pixels": Stem(patch=1),
    "bottleneck": Stem(bottleneck=True),
    "bottleneck, single pixels": Stem(bottleneck=True, patch=1),
}


def cosine(quantgraph: QuantGraph, graph: object, images: np.ndarray) -> float:
    real = evaluate(graph, images)[dict(graph.outputs)["logits"]].ravel()
    found = predict(quantgraph, images)["logits"].ravel()
    return float(real @ found / np.linalg.norm(real) / np.linalg.norm(found))


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("prefix", [1, 5])
def test_integers_stay_near_float(name: str, prefix: int) -> None:
    graph = random_hybrid(3, Shape(image=(3, 20, 28), blocks=1, prefix=prefix), STEMS[name])
    quantgraph = quantize(graph, random_images(graph, 16, seed=1))
    assert cosine(quantgraph, graph, random_images(graph, 8, seed=2)) > 0.995
