"""Convolution stems: where the map ends and tokens begin, and constants before convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph import OUTSIDE, Window
from .refusal import Refused
from .term import (
    Activate,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Embed,
    Greatest,
    GroupMean,
    ImageInput,
    ImageWindows,
    MapNorm,
    MapWindows,
    Norm,
    Patches,
    Product,
    Real,
    Reciprocal,
    Root,
    Scale,
    Shift,
    Sum,
    Term,
    TermPool,
    topological,
    union,
)

# What there is before tokens, which class token and positions make of a map.
OF_MAPS = (
    Activate,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Greatest,
    GroupMean,
    ImageInput,
    ImageWindows,
    MapNorm,
    MapWindows,
    Norm,
    Patches,
    Product,
    Reciprocal,
    Root,
    Scale,
    Shift,
    Sum,
)


def opens(term: Term) -> bool:
    """Whether class token and positions may be put on `term`: nothing below has them."""
    return isinstance(term, Dense | Patches) and all(
        isinstance(below, OF_MAPS) for below in topological((term,))
    )


def window_rule(term: Term, pool: TermPool) -> Term | None:
    """Scale or Shift before the window of a convolution → into its weight and bias.

    They must be the same for all windows. A Shift of what is padded with zeros behind it is not.

    Raises:
        Refused: a Shift cannot be absorbed.
    """
    if not isinstance(term, Dense) or not isinstance(term.inputs[0], ImageWindows | MapWindows):
        return None
    (seen,) = term.inputs
    assert isinstance(seen, ImageWindows | MapWindows)
    (below,) = seen.inputs
    match below:
        case Scale(factor=constant):
            values = _by_value(constant, seen, np.nan)
        case Shift(offset=constant):
            values = _by_value(constant, seen, 0.0)
        case _:
            return None
    if values is None and isinstance(below, Shift):
        raise Refused(
            "it adds a constant that a convolution sees beside padding, or one that differs "
            "between pixels",
            "Normalise images before the model, and let a padded convolution read what a "
            "convolution, a norm or an activation made.",
            origin=below.origin,
        )
    if values is None:
        return None
    origin = union(term.origin, seen.origin, below.origin)
    window = pool.rebuilt(seen, below.inputs)
    if isinstance(below, Scale):
        weight = term.weight * values
        return pool.intern(replace(term, inputs=(window,), weight=weight, origin=origin))
    bias = term.bias + term.weight @ values
    return pool.intern(replace(term, inputs=(window,), bias=bias, origin=origin))


def _by_value(constant: Real, seen: ImageWindows | MapWindows, padding: float) -> Real | None:
    """A constant on what a window sees as one number for each value that it sees there.

    None if results see different ones; `padding` stands where there is padding, NaN for any.
    """
    pixels = seen.window.pixels
    below = seen.inputs[0]
    full = np.broadcast_to(constant, below.shape)
    rows = full.reshape(len(full), -1) if isinstance(seen, ImageWindows) else full.T
    values = np.where(pixels == OUTSIDE, padding, rows[:, pixels])  # [channels, results, kernel]
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    if ((low != high) & ~np.isnan(low)).any():
        return None
    chosen = np.where(np.isnan(low), 1.0, low)
    return (chosen if isinstance(seen, ImageWindows) else chosen.T).ravel()


def maps_of_patches(roots: tuple[Term, ...], pool: TermPool) -> tuple[Term, ...]:
    """The terms with Patches as Dense of windows, wherever they are a map and not tokens.

    They are a map if a window, a norm of maps, or a Dense that is embedded sees them before
    tokens are made of them.

    Raises:
        Refused: such patches are not square, or of a video.
    """
    order = topological(roots)
    maps: set[Term] = set()
    for term in reversed(order):
        walks = isinstance(term, MapWindows | MapNorm | Greatest)
        opened = isinstance(term, Embed) and isinstance(term.inputs[0], Dense)
        if walks or opened or (term in maps and isinstance(term, OF_MAPS)):
            maps.update(term.inputs)
    new: dict[Term, Term] = {}
    for term in order:
        rebuilt = pool.rebuilt(term, tuple(new[read] for read in term.inputs))
        if isinstance(term, Patches) and term in maps:
            rebuilt = _as_map(term, pool)
        new[term] = rebuilt
    return tuple(new[root] for root in roots)


def _as_map(patches: Patches, pool: TermPool) -> Term:
    out, channels, *kernel = patches.weight.shape
    (image,) = patches.inputs
    if len(kernel) != 2 or channels != image.shape[0] or kernel[0] != kernel[1]:
        raise Refused(
            f"its patches of {list(patches.weight.shape[1:])} are a map that is convolved further",
            "Convolve one image, all channels of it, with one stride for both axes.",
            origin=patches.origin,
        )
    side = kernel[0]
    sides = (image.shape[1], image.shape[2])
    window = Window(sides, (side, side), side, (0, 0), (sides[0] // side, sides[1] // side))
    weight = patches.weight.reshape(out, -1)
    shape = (patches.shape[0], weight.shape[1])
    seen = pool.intern(ImageWindows((image,), shape, patches.origin, window))
    return pool.intern(Dense((seen,), patches.shape, patches.origin, weight, patches.bias))
