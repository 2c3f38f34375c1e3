"""The patch embedding: a Conv whose stride is its kernel, or a MatMul of the cut-up image.

Whether such a Conv makes tokens or a map shows later, when all is known that reads it.
"""

from __future__ import annotations

import math

import numpy as np

from ..preprocess import patch_rows
from .call import Call, Tensor
from .refusal import Refused
from .term import Patches, Real
from .view import Ids, View, shows_image, whole
from .windows import convolution

Results = tuple[Tensor | None, ...]


def conv(call: Call) -> Results:
    """The patch embedding, a convolution of the image whose stride is its kernel, or another."""
    view = call.view(0)
    weight = call.constant(1, "weight")
    assert weight is not None
    if not shows_image(view.term) or not _cuts_patches(call, view, weight):
        return convolution(call)
    out, kernel = weight.shape[0], weight.shape[2:]
    batch, channels, *sides = view.ids.shape
    grid = tuple(side // patch for side, patch in zip(sides, kernel, strict=True))
    rows = patch_rows(view.ids, (channels, *kernel)).reshape(-1, channels * math.prod(kernel))
    patches = _embedding(call, view, rows, weight.reshape(out, -1), call.constant(2, "bias"))
    ids = whole(patches, (batch, math.prod(grid), out)).ids
    return (View(patches, ids.swapaxes(1, 2).reshape(batch, out, *grid)),)


def _cuts_patches(call: Call, view: View, weight: Real) -> bool:
    """Whether it sees each pixel of the image in one place.

    Raises:
        Refused: it should, along three axes, and does not.
    """
    if call.integer("group", 1) != 1:
        return False
    if weight.ndim != view.ids.ndim or weight.shape[1] != view.ids.shape[1]:
        raise Refused(
            f"its weight {list(weight.shape)} does not fit the image {list(view.ids.shape)}",
            "Export the model again.",
        )
    kernel = weight.shape[2:]
    stride = call.integers("strides", None) or (1,) * len(kernel)
    padded = any(call.integers("pads", None) or ()) or call.text("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    dilated = any(step != 1 for step in call.integers("dilations", None) or ())
    if stride != kernel or padded or dilated:
        return False
    sides = view.ids.shape[2:]
    tiles = not any(side % patch for side, patch in zip(sides, kernel, strict=True))
    if not tiles and len(kernel) != 2:
        raise Refused(
            f"patches of {list(kernel)} do not tile the image of {list(sides)}",
            "Export for an image size that is a multiple of the patch size.",
        )
    return tiles


def patches_by_matmul(call: Call, view: View, weight: Real, bias: Real | None) -> View:
    """x @ weight of an image that was cut into patches by reshapes and transposes.

    Args:
        call: the node.
        view: the image as [..., patches, values of a patch].
        weight: [values of a patch, out].
        bias: [out], or None.
    """
    rows = view.ids.reshape(-1, view.ids.shape[-1])
    if weight.shape[0] != rows.shape[1]:
        raise Refused(
            f"its weight takes {weight.shape[0]} values, a patch has {rows.shape[1]}",
            "Export the model again.",
        )
    patches = _embedding(call, view, rows, weight.T, bias)
    return whole(patches, (*view.ids.shape[:-1], weight.shape[1]))


def _embedding(call: Call, view: View, rows: Ids, weight: Real, bias: Real | None) -> Patches:
    """The embedding of patches `rows` [patches, values], with weights [out, values]."""
    image = view.term
    kernel = np.zeros((len(weight), *_check_cut(rows, image.shape)))
    places = (slice(None), *np.unravel_index(rows[0], image.shape))
    kernel[places] = weight
    bias = np.zeros(len(weight)) if bias is None else bias
    if bias.shape != (len(weight),):
        raise Refused(
            f"its bias has shape {list(bias.shape)}, its weight makes {len(weight)} channels",
            "Use a bias of one value a channel.",
        )
    shape = (len(rows), len(weight))
    return call.pool.intern(Patches((image,), shape, call.origin, kernel, bias))


def _check_cut(rows: Ids, image: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of a patch, if each row is one, in row-major order.

    A patch is a box, and boxes tile the image: of a video a tubelet, of some frames.
    """
    patch = tuple(int(places.max()) + 1 for places in np.unravel_index(rows[0], image))
    fits = all(side % size == 0 for side, size in zip(image, patch, strict=True))
    if fits:
        numbers = np.arange(math.prod(image)).reshape(1, *image)
        (boxes,) = patch_rows(numbers, patch)
        fits = np.array_equal(np.sort(rows[0]), boxes[0]) and np.array_equal(
            rows, rows[0] + boxes[:, :1]
        )
    if not fits:
        raise Refused(
            "its rows are not the patches of the image, row by row",
            "Cut the image into patches that tile it, in row-major order, all alike inside; or "
            "embed it with Conv2d(kernel_size=p, stride=p).",
        )
    return patch
