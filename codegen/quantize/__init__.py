"""Post-training quantisation: a float Graph and calibration images give a QuantGraph.

In processing order:

    align       bring rows that are added to each other to the same place
    hoist       select the class token as early as possible
    widen       put an identity where only a product can write
    forms       the number format of each value; refuses what cannot be lowered
    calibrate   runs the calibration images in float, gathers statistics
    constants   integer constants from real ones
    scales      the scale of each value
    lower       the quantised nodes
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ...host.images import Float32Array, check_images
from ..graph import Graph
from ..legal import check_graph, check_quantgraph
from ..quantgraph import QuantGraph
from .align import align_additions
from .calibrate import ENOUGH_EVIDENCE, measure
from .forms import assign_forms
from .hoist import hoist_selections
from .lower import Lowering
from .scales import Evidence, choose_scales
from .widen import widen

__all__ = ["MOST_IMAGES", "default_calibration", "hoist_selections", "prepared", "quantize"]

# What is done to a network before values get their formats, in this order.
PASSES: tuple[Callable[[Graph], Graph], ...] = (align_additions, hoist_selections, widen)

# For calibration: so many class tokens, one an image, show each channel's range.
MOST_IMAGES = ENOUGH_EVIDENCE


def quantize(graph: Graph, calibration: npt.NDArray[np.generic]) -> QuantGraph:
    """Quantises `graph`; no retraining.

    Args:
        graph: as the importer gives it.
        calibration: images [n, ...], as the model takes them, float32 or float64, normalised as
            in training. Some dozens are enough; they decide the scales, so they should look like
            the real ones.

    Raises:
        ImageError: the images have the wrong shape, dtype or values.
        UnsupportedModelError: an operator that has no lowering where it stands.
    """
    images = check_images(calibration, graph.image.shape, "Calibration images")
    ready = prepared(graph)
    forms = assign_forms(ready)
    evidence = Evidence(ready, forms, measure(ready, images))
    lowering = Lowering(evidence, choose_scales(evidence, images))
    lowered = QuantGraph(ready.image, tuple(lowering.nodes()), ready.outputs)
    return check_quantgraph(lowered, "Quantising")


def prepared(graph: Graph) -> Graph:
    """The same network as `quantize` lowers it."""
    for change in PASSES:
        graph = check_graph(change(graph), f"Quantising ({change.__name__})")
    return graph


def default_calibration(graph: Graph, count: int = 16, seed: int = 0) -> Float32Array:
    """Standard-normal images [count, ...], for want of real ones.

    A fallback that costs accuracy: noise reaches neither the ranges nor the outliers of real
    images. Real images, even a few, are always better.
    """
    shape = (count, *graph.image.shape)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
