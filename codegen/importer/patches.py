"""The patch embedding: a Conv whose stride is its kernel, or a MatMul of the cut-up image."""

from __future__ import annotations

import math

import numpy as np

from .call import Call, Tensor
from .refusal import Refused
from .term import Patches, Real
from .view import Ids, View, shows_image, whole

Results = tuple[Tensor | None, ...]


def conv(call: Call) -> Results:
    """The patch embedding: a convolution of the image whose stride is its kernel."""
    view = call.view(0)
    weight = call.constant(1, "weight")
    assert weight is not None
    if not shows_image(view.term):
        raise Refused(
            "it does not read the image",
            "Only the patch embedding may be a Conv; write other ones as Linear.",
        )
    _check_patches(call, view, weight)
    out, kernel = weight.shape[0], weight.shape[2:]
    grid = tuple(side // patch for side, patch in zip(view.ids.shape[2:], kernel, strict=True))
    rows = _windows(view.ids[0], grid, kernel)
    patches = _embedding(call, view, rows, weight.reshape(out, -1), call.constant(2, "bias"))
    return (View(patches, whole(patches).ids.T.reshape(1, out, *grid)),)


def _windows(ids: Ids, grid: tuple[int, ...], kernel: tuple[int, ...]) -> Ids:
    """[channels, sides ...] cut up: [windows, values of a window]."""
    cut = ids.reshape(len(ids), *(n for pair in zip(grid, kernel, strict=True) for n in pair))
    places = tuple(range(1, cut.ndim, 2))
    inside = (0, *range(2, cut.ndim, 2))
    return cut.transpose(*places, *inside).reshape(math.prod(grid), -1)


def _check_patches(call: Call, view: View, weight: Real) -> None:
    if weight.ndim != view.ids.ndim or weight.shape[1] != view.ids.shape[1]:
        raise Refused(
            f"its weight {list(weight.shape)} does not fit the image {list(view.ids.shape)}",
            "Export the model again.",
        )
    kernel = weight.shape[2:]
    remedy = "The patch embedding must be Conv2d(kernel_size=p, stride=p) without padding."
    stride = call.integers("strides", None) or (1,) * len(kernel)
    if stride != kernel:
        raise Refused(f"stride {list(stride)} is not kernel {list(kernel)}", remedy)
    padding = call.integers("pads", None) or (0,)
    if any(padding) or call.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refused("it pads the image", remedy)
    if any(step != 1 for step in call.integers("dilations", None) or ()):
        raise Refused("it is dilated", remedy)
    if call.integer("group", 1) != 1:
        raise Refused("it is grouped", remedy)
    sides = view.ids.shape[2:]
    if any(side % patch for side, patch in zip(sides, kernel, strict=True)):
        raise Refused(
            f"patches of {list(kernel)} do not tile the image of {list(sides)}",
            "Export for an image size that is a multiple of the patch size.",
        )


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
    _, height, width = image.shape
    channel, pixel = np.divmod(rows[0], height * width)
    kernel[:, channel, pixel // width, pixel % width] = weight
    bias = np.zeros(len(weight)) if bias is None else bias
    if bias.shape != (len(weight),):
        raise Refused(
            f"its bias has shape {list(bias.shape)}, its weight makes {len(weight)} channels",
            "Use a bias of one value a channel.",
        )
    shape = (len(rows), len(weight))
    return call.pool.intern(Patches((image,), shape, call.origin, kernel, bias))


def _check_cut(rows: Ids, image: tuple[int, ...]) -> tuple[int, int, int]:
    """[channels, height, width] of a patch, if each row is one, in row-major order."""
    channels, height, width = image
    pixel = rows[0] % (height * width)
    patch_height, patch_width = int((pixel // width).max()) + 1, int((pixel % width).max()) + 1
    patch = (channels, patch_height, patch_width)
    numbers = np.arange(channels * height * width).reshape(image)
    fits = height % patch_height == 0 and width % patch_width == 0
    if fits:
        first = numbers[:, :patch_height, :patch_width]
        starts = numbers[0, ::patch_height, ::patch_width].ravel()
        fits = np.array_equal(np.sort(rows[0]), np.sort(first.ravel())) and np.array_equal(
            rows, rows[0] + starts[:, None]
        )
    if not fits:
        raise Refused(
            "its rows are not the patches of the image, row by row",
            "Cut the image into patches that tile it, in row-major order, all alike inside; or "
            "embed it with Conv2d(kernel_size=p, stride=p).",
        )
    return patch
