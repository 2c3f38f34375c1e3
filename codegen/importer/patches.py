"""The patch embedding: a Conv whose stride is its kernel, or a MatMul of the cut-up image."""

from __future__ import annotations

import numpy as np

from .call import Call, Tensor
from .refusal import Refused
from .term import ImageInput, Patches, Real, Scale, Shift
from .view import Ids, View, whole

Results = tuple[Tensor | None, ...]


def conv(call: Call) -> Results:
    """The patch embedding: a convolution of the image whose stride is its kernel."""
    view = call.view(0)
    weight = call.constant(1, "weight")
    assert weight is not None
    _check_image(view)
    _check_patches(call, view, weight)
    out, _, patch_height, patch_width = weight.shape
    rows, columns = view.ids.shape[2] // patch_height, view.ids.shape[3] // patch_width
    bias = call.constant(2, "bias")
    bias = np.zeros(out) if bias is None else bias
    shape = (rows * columns, out)
    patches = call.pool.intern(Patches((view.term,), shape, call.origin, weight, bias))
    return (View(patches, whole(patches).ids.T.reshape(1, out, rows, columns)),)


def shows_image(view: View) -> bool:
    """Whether the view shows the image, perhaps normalised, in whatever arrangement."""
    core = view.term
    while isinstance(core, Scale | Shift):
        (core,) = core.inputs
    return isinstance(core, ImageInput)


def _check_image(view: View) -> None:
    in_order = np.array_equal(view.ids.ravel(), np.arange(view.ids.size))
    if not shows_image(view) or view.ids.shape != (1, *view.term.shape) or not in_order:
        raise Refused(
            "it does not read the image as it comes",
            "Only the patch embedding may be a Conv; write other ones as Linear.",
        )


def _check_patches(call: Call, view: View, weight: Real) -> None:
    if weight.ndim != 4 or weight.shape[1] != view.ids.shape[1]:
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


def patches_by_matmul(call: Call, weight: Real, bias: Real | None) -> View:
    """x @ weight of an image that was cut into patches by reshapes and transposes.

    Args:
        call: the node; operand 0 shows the image as [..., patches, values of a patch].
        weight: [values of a patch, out].
        bias: [out], or None.
    """
    view = call.view(0)
    rows = view.ids.reshape(-1, view.ids.shape[-1])
    out = weight.shape[1]
    if weight.shape[0] != rows.shape[1]:
        raise Refused(
            f"its weight takes {weight.shape[0]} values, a patch has {rows.shape[1]}",
            "Export the model again.",
        )
    kernel = np.zeros((out, *_check_cut(rows, view.term.shape)))
    _, height, width = view.term.shape
    channel, pixel = np.divmod(rows[0], height * width)
    kernel[:, channel, pixel // width, pixel % width] = weight.T
    bias = np.zeros(out) if bias is None else bias
    patches = Patches((view.term,), (len(rows), out), call.origin, kernel, bias)
    return whole(call.pool.intern(patches), (*view.ids.shape[:-1], out))


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
