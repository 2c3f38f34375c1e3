"""ONNX nodes with weights or with two matrices: MatMul, Gemm, norms, softmax, Attention."""

from __future__ import annotations

import math

import numpy as np

from .call import Call, Constant, Tensor
from .elementwise import bias_of_scores
from .load import Array
from .patches import patches_by_matmul
from .patterns import checked_epsilon
from .refusal import Refused
from .term import (
    Dense,
    Fixed,
    Mix,
    Norm,
    Real,
    Scores,
    Softmax,
    Term,
)
from .view import Ids, View, as_matrix, constant_of, head_channels, shows_image, whole

Results = tuple[Tensor | None, ...]


def matmul(call: Call) -> Results:
    """A linear layer (x @ constant) or one of the two products of attention."""
    right = call.operand(1)
    if isinstance(right, Constant):
        return (linear(call, call.view(0), _flat_weight(right.values), None),)
    assert right is not None
    left = call.operand(0)
    if isinstance(left, Constant):
        left = _learned_query(call, left.values, View(right.term, right.ids.swapaxes(-2, -1)))
    assert left is not None
    return (product(call, left, right),)


def _learned_query(call: Call, values: Array, key: View) -> View:
    """A constant [..., heads, tokens, d], which is compared with keys of the same axes."""
    if len(key.term.shape) != 2 or values.ndim < 2:
        call.view(0)  # refuses
    try:
        head_channels(_by_head(key.ids), key.term, "transposed key (second operand)")
    except Refused as refusal:
        raise Refused(
            "it multiplies a constant from the left with what are no keys",
            "Write x @ w for a linear layer; tokens are mixed by attention and plain means only.",
        ) from refusal
    leading = np.broadcast_shapes(values.shape[:-2], key.ids.shape[:-2])
    by_head = np.broadcast_to(values, (*leading, *values.shape[-2:])).astype(np.float64)
    heads, tokens, depth = by_head.reshape(-1, *values.shape[-2:]).shape
    matrix = by_head.reshape(heads, tokens, depth).swapaxes(0, 1).reshape(tokens, heads * depth)
    fixed = call.pool.intern(Fixed((key.term,), matrix.shape, call.origin, matrix))
    ids = whole(fixed).ids.reshape(tokens, heads, depth).swapaxes(0, 1)
    return View(fixed, ids.reshape(*leading, tokens, depth))


def gemm(call: Call) -> Results:
    """A linear layer: alpha * x @ w + beta * c, w perhaps transposed."""
    if call.integer("transA", 0):
        raise Refused("it transposes its data (transA)", "Write x @ w with tokens as rows.")
    data, weight, bias = call.view(0), call.constant(1, "weight"), call.constant(2, "bias")
    assert weight is not None
    if data.ids.ndim != 2:
        raise Refused(f"its data have {data.ids.ndim} axes", "Use MatMul, or two axes.")
    weight = weight.T if call.integer("transB", 0) else weight
    if bias is not None:
        bias = bias * call.number_of("beta", 1.0)
        if bias.ndim == 2 and bias.shape[0] != 1:
            raise Refused("its bias differs between tokens", "Use a bias of one value a channel.")
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[1],)).copy()
    return (linear(call, data, weight * call.number_of("alpha", 1.0), bias),)


def _flat_weight(values: Array) -> Real:
    if values.ndim < 2 or math.prod(values.shape[:-2]) != 1:
        raise Refused(
            f"its weight has shape {list(values.shape)}", "Use one weight matrix for all tokens."
        )
    return np.asarray(values, dtype=np.float64).reshape(values.shape[-2:])


def linear(call: Call, data: View, weight: Real, bias: Real | None) -> View:
    """data @ weight + bias, for data [..., channels] and weight [channels, out]."""
    if shows_image(data.term):
        return patches_by_matmul(call, data, weight, bias)
    matrix = as_matrix(data, call.pool, call.origin)
    if weight.shape[0] != matrix.shape[1]:
        raise Refused(
            f"its weight takes {weight.shape[0]} channels, its data have {matrix.shape[1]}",
            "Export the model again.",
        )
    out = weight.shape[1]
    bias = np.zeros(out) if bias is None else bias
    origin = call.origin_with((data, matrix))
    dense = Dense((matrix,), (matrix.shape[0], out), origin, weight.T.copy(), bias)
    return whole(call.pool.intern(dense), (*data.ids.shape[:-1], out))


def product(call: Call, left: View, right: View) -> View:
    """One of the two products of attention: q @ k.T or probabilities @ v."""
    if len(right.term.shape) == 3:
        raise Refused(
            "the attention probabilities are its second operand",
            "Compute probabilities @ v, in this order.",
        )
    leading = np.broadcast_shapes(left.ids.shape[:-2], right.ids.shape[:-2])
    left, right = _with_leading(left, leading), _with_leading(right, leading)
    if len(left.term.shape) == 3:
        return _mixed(call, left, right)
    return _scored(call, left, right)


def _with_leading(view: View, leading: tuple[int, ...]) -> View:
    ids = np.broadcast_to(view.ids, (*leading, *view.ids.shape[-2:]))
    return View(view.term, ids, view.layout)


def _by_head(ids: Ids) -> Ids:
    return ids.reshape(-1, *ids.shape[-2:])


def _scored(call: Call, query: View, key: View) -> View:
    """q @ k.T: the key's tokens must lie along its last axis."""
    if len(key.term.shape) != 2 or len(query.term.shape) != 2:
        raise Refused("it multiplies the image itself", "Embed the image into patches first.")
    q = _head_major(call, query, "query (first operand)")
    transposed = View(key.term, key.ids.swapaxes(-2, -1), key.layout)
    k = _head_major(call, transposed, "transposed key (second operand)")
    heads = math.prod(query.ids.shape[:-2])
    shape = (heads, q.shape[0], k.shape[0])
    origin = call.origin_with((query, q), (key, k))
    term = call.pool.intern(Scores((q, k), shape, origin, heads))
    return whole(term, (*query.ids.shape[:-1], key.ids.shape[-1]))


def _head_major(call: Call, view: View, role: str) -> Term:
    """[..., heads, tokens, d] as a term [tokens, heads * d]."""
    channels = head_channels(_by_head(view.ids), view.term, role)
    return call.pool.channels(view.term, channels, view.layout or call.origin)


def _mixed(call: Call, probabilities: View, value: View) -> View:
    """probabilities @ v."""
    scores = probabilities.term
    if not np.array_equal(probabilities.ids.ravel(), np.arange(math.prod(scores.shape))):
        raise Refused(
            "the attention probabilities are rearranged before they meet the values",
            "Compute softmax(q @ k.transpose(-2, -1)) @ v.",
        )
    v = _head_major(call, value, "value (second operand)")
    heads, queries, _ = scores.shape
    depth = value.ids.shape[-1]
    origin = call.origin_with((probabilities, scores), (value, v))
    mix = call.pool.intern(Mix((scores, v), (queries, heads * depth), origin))
    ids = whole(mix).ids.reshape(queries, heads, depth).swapaxes(0, 1)
    return View(mix, ids.reshape(*probabilities.ids.shape[:-1], depth))


def softmax(call: Call) -> Results:
    """Softmax of attention scores over the keys."""
    view = call.view(0)
    if len(view.term.shape) != 3 or shows_image(view.term):
        raise Refused(
            "it is not applied to attention scores",
            "Only attention's own softmax is computed: softmax(q @ k.transpose(-2, -1) * scale) "
            f"@ v. Where it comes last, --results {call.node.input[0]} takes what it reads.",
        )
    axis = call.integer("axis", -1)
    keys = view.term.shape[2]
    groups = np.moveaxis(view.ids, call.axis(-1, view.ids.ndim), -1)
    aligned = groups.shape[-1] == keys and (groups % keys == np.arange(keys)).all()
    if not aligned or (groups // keys != groups[..., :1] // keys).any():
        raise Refused(
            f"it normalises over axis {axis}, which is not the keys",
            "Use softmax(dim=-1) on scores [batch, heads, queries, keys].",
        )
    term = call.pool.intern(Softmax((view.term,), view.term.shape, call.origin))
    return (View(term, view.ids),)


def layer_normalization(call: Call) -> Results:
    """LayerNorm as one operator."""
    view = call.view(0)
    axis = call.axis(-1, view.ids.ndim)
    if math.prod(view.ids.shape[axis:]) != view.ids.shape[-1]:
        raise Refused(
            f"it normalises over axes {axis} to {view.ids.ndim - 1}",
            "Normalise over the channels only, as nn.LayerNorm(channels) does.",
        )
    if any(call.node.output[1:]):
        raise Refused("its mean or deviation is used elsewhere", "Use its first output only.")
    if len(view.term.shape) == 2 and view.ids.shape[-1] < view.term.shape[1] and _in_heads(view):
        raise Refused(
            "it normalises the channels of each head by themselves (qk norm)",
            "LayerNorm works on all channels of a token; train without norms of q and k.",
        )
    if shows_image(view.term):  # patches as they are: norms read what a product makes
        view = patches_by_matmul(call, view, np.eye(view.ids.shape[-1]), None)
    matrix = as_matrix(view, call.pool, call.origin)
    channels = matrix.shape[1]
    gamma, beta = call.constant(1, "scale"), call.constant(2, "bias")
    assert gamma is not None
    norm = Norm(
        (matrix,),
        matrix.shape,
        call.origin_with((view, matrix)),
        _by_channel(gamma, channels, "scale"),
        np.zeros(channels) if beta is None else _by_channel(beta, channels, "bias"),
        checked_epsilon(call.number_of("epsilon", 1e-5)),
    )
    return (whole(call.pool.intern(norm), view.ids.shape),)


def _by_channel(values: Real, channels: int, what: str) -> Real:
    """A constant that broadcasts to [tokens, channels] without differing between tokens."""
    if values.size == 1 or values.shape[-1:] == (channels,) == (values.size,):
        return np.broadcast_to(values.ravel(), (channels,)).copy()
    raise Refused(
        f"its {what} has shape {list(values.shape)}, its data have {channels} channels",
        f"Use a {what} of one value a channel.",
    )


def _in_heads(view: View) -> bool:
    """Whether each row shows a part of one token's channels, several rows parts of one token."""
    rows = view.ids.reshape(-1, view.ids.shape[-1])
    tokens = rows // view.term.shape[1]
    of_one = bool((tokens == tokens[:, :1]).all())
    return of_one and len(np.unique(tokens[:, 0])) < len(np.unique(rows[:, 0]))


def attention(call: Call) -> Results:
    """The Attention operator (opset 23), which scaled_dot_product_attention exports to."""
    _check_attention(call)
    key, value = (_heads_first(call, position) for position in (1, 2))
    query = _attention_query(call, key)
    if query.ids.shape[1] != key.ids.shape[1] or key.ids.shape[1] != value.ids.shape[1]:
        raise Refused(
            f"{query.ids.shape[1]} query heads share {key.ids.shape[1]} key heads",
            "Grouped-query attention is not supported; use as many key heads as query heads.",
        )
    scores = product(call, query, View(key.term, key.ids.swapaxes(-2, -1)))
    scale = call.number_of("scale", query.ids.shape[-1] ** -0.5)
    factor = np.full((1, 1, 1), scale)
    scaled = call.pool.scale(scores.term, factor, call.origin)
    masked = _masked(call, View(scaled, scores.ids))
    probabilities = call.pool.intern(Softmax((masked,), scaled.shape, call.origin))
    mixed = product(call, View(probabilities, scores.ids), value)
    if call.view(2).ids.ndim == 4:
        return (mixed,)
    batch, _, tokens, _ = mixed.ids.shape
    return (View(mixed.term, mixed.ids.swapaxes(1, 2).reshape(batch, tokens, -1)),)


def _attention_query(call: Call, key: View) -> View:
    query = call.operand(0)
    if not isinstance(query, Constant):
        return _heads_first(call, 0)
    values = query.values
    if values.ndim == 3:
        heads = call.integer("q_num_heads", 1)
        values = values.reshape(*values.shape[:2], heads, -1).swapaxes(1, 2)
    return _learned_query(call, values, key)


def _check_attention(call: Call) -> None:
    if call.integer("is_causal", 0):
        raise Refused("it is causal", "Vision Transformers attend to all tokens: is_causal=False.")
    if call.number_of("softcap", 0.0):
        raise Refused("it caps the scores (softcap)", "Export the model without softcap.")
    if any(operand is not None for operand in call.inputs[4:]) or any(call.node.output[1:]):
        raise Refused("it keeps a key/value cache or shows its scores", "Use its first output.")


def _masked(call: Call, scores: View) -> Term:
    """The scores and the mask: a boolean one says which keys count, any other is added."""
    call.constant(3, "mask")  # refuses one that depends on the image
    mask = call.operand(3)
    if not isinstance(mask, Constant):
        return scores.term
    values = mask.values
    if values.dtype == np.bool_:
        values = np.where(values, 0.0, -np.inf)
    offset = constant_of(bias_of_scores(values), scores, fill=0.0)
    return call.pool.shift(scores.term, offset, call.origin)


def _heads_first(call: Call, position: int) -> View:
    """Query, key or value as [batch, heads, tokens, d], also if it comes as a matrix."""
    view = call.view(position)
    if view.ids.ndim == 4:
        return view
    heads = call.integer("q_num_heads" if position == 0 else "kv_num_heads", 1)
    batch, tokens, channels = view.ids.shape
    ids = view.ids.reshape(batch, tokens, heads, channels // heads).swapaxes(1, 2)
    return View(view.term, ids, view.layout)
