"""ONNX nodes that average or sum along axes: pooling, LayerNorm, stacked branches."""

from __future__ import annotations

import numpy as np

from .call import Call, Tensor, checked_axis
from .elementwise import scaled
from .groups import channel_groups
from .refusal import Refused
from .term import ChannelMean, GroupMean, Stacked, Sum, Term, TokenMean, union
from .view import Ids, View

Results = tuple[Tensor | None, ...]


def reduce_mean(call: Call) -> Results:
    """The mean over tokens (pooling), channels (part of LayerNorm) or stacked branches."""
    return (_reduced(call, is_sum=False),)


def reduce_sum(call: Call) -> Results:
    """A mean times the number of elements."""
    return (_reduced(call, is_sum=True),)


def _reduced(call: Call, *, is_sum: bool) -> View:
    view = call.view(0)
    _check_matrix(view)
    axes = reduced_axes(call, view.ids.ndim)
    kept = tuple(axis for axis in range(view.ids.ndim) if axis not in axes)
    groups = view.ids.transpose(kept + axes)
    groups = groups.reshape(*groups.shape[: len(kept)], -1)
    count = groups.shape[-1]
    if isinstance(view.term, Stacked) and (summed := _sum_of_stack(call, view.term, groups)):
        (term, ids), factor = summed, 1.0 if is_sum else 1.0 / count
    else:
        (term, ids), factor = _mean(call, view.term, groups), count if is_sum else 1.0
    if call.integer("keepdims", 1):
        ids = np.expand_dims(ids, axes)
    return scaled(call, View(term, ids), np.array(float(factor)))


def _check_matrix(view: View) -> None:
    if len(view.term.shape) != 2:
        raise Refused(
            "it averages something other than tokens and channels",
            "Means are for pooling and LayerNorm.",
        )


def global_average_pool(call: Call) -> Results:
    """The mean over all axes behind batch and channels."""
    view = call.view(0)
    _check_matrix(view)
    batch, channels, *sides = view.ids.shape
    groups = view.ids.reshape(batch, channels, -1)
    term, ids = _mean(call, view.term, groups)
    return (View(term, ids.reshape(batch, channels, *(1 for _ in sides))),)


def reduced_axes(call: Call, rank: int) -> tuple[int, ...]:
    """The axes of a tensor of `rank` axes that a ReduceMean or ReduceSum reduces over."""
    operand = call.constant(1, "list of axes")
    axes = call.integers("axes", None) if operand is None else operand.astype(int).ravel().tolist()
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            raise Refused("it reduces over no axis", "Remove the node.")
        return tuple(range(rank))
    return tuple(sorted({checked_axis(axis, rank) for axis in axes}))


def _sum_of_stack(call: Call, stack: Stacked, groups: Ids) -> tuple[Term, Ids] | None:
    """The sum of the stacked terms, if each group holds one element of each at one place."""
    first = stack.inputs[0]
    if any(term.shape != first.shape for term in stack.inputs):
        return None
    size = first.shape[0] * first.shape[1]
    parts, ids = np.divmod(groups, size)
    if (ids != ids[..., :1]).any() or not np.array_equal(
        np.sort(parts), np.broadcast_to(np.arange(len(stack.inputs)), parts.shape)
    ):
        return None
    total = first
    for term in stack.inputs[1:]:
        total = call.pool.intern(Sum((total, term), first.shape, union(call.origin, stack.origin)))
    return total, ids[..., 0]


def _mean(call: Call, term: Term, groups: Ids) -> tuple[Term, Ids]:
    """The mean of each group of elements (last axis), and the arrangement of the results."""
    tokens, channels = np.divmod(groups, term.shape[1])
    every = np.arange(term.shape[1])
    one_token = (tokens == tokens[..., :1]).all() and groups.shape[-1] == len(every)
    if one_token and (np.sort(channels, axis=-1) == every).all():
        mean = ChannelMean((term,), (term.shape[0], 1), call.origin)
        return call.pool.intern(mean), tokens[..., 0]
    if (channels == channels[..., :1]).all():
        rows = np.sort(tokens, axis=-1).reshape(-1, groups.shape[-1])
        if (rows == rows[0]).all() and (np.diff(rows[0]) > 0).all():
            shape = (1, term.shape[1])
            pool = TokenMean((term,), shape, call.origin, tuple(rows[0].tolist()))
            return call.pool.intern(pool), channels[..., 0]
    found = channel_groups(groups.reshape(-1, groups.shape[-1]), term)
    if found is not None and np.array_equal(np.sort(found.ravel()), every):
        first = found[:, 0] // found.shape[1]
        if (found == found[:, :1] + np.arange(found.shape[1])).all():
            by_group = GroupMean((term,), (1, len(found)), call.origin)
            return call.pool.intern(by_group), first.reshape(groups.shape[:-1])
    raise Refused(
        "it averages neither all channels of each token, nor the same tokens for each channel, nor "
        "all tokens of a group of channels",
        "Average over the token axis (pooling), the channel axis (LayerNorm), or both in equal "
        "groups of channels that follow each other (GroupNorm).",
    )
