"""One decode step of a Llama-family language model in six Triton kernels a layer, for a batch of one.

With one sequence a decode step is reading the weights, so each kernel streams one matrix (or three, or two) and does
everything around it on the way: the norm before, the activation or the residual after. Weights are read where the
network has them. Numbers are rounded to the network's dtype exactly where transformers rounds them; sums are float32.

Importing this module needs triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from stagebench.core.errors import ModelError, StageError


class Tiles(NamedTuple):
    """How a matrix is read: `rows` x `columns` elements at a time by one program of `warps` warps.

    `columns` decides the order of the sums, and with it ties between tokens: fixed here, never tuned at run time.
    """

    rows: int
    columns: int
    warps: int


TILES = {
    "qkv": Tiles(2, 2048, 8),
    "output": Tiles(16, 512, 8),
    "gate_up": Tiles(1, 4096, 8),
    "down": Tiles(4, 4096, 8),
    "head": Tiles(2, 2048, 8),
}
"""By projection, for 7B shapes on an H100. "gate_up" counts the rows of each of its two matrices."""

SPLITS, BLOCK_TOKENS, TOKEN_WARPS = 32, 32, 2
"""At most so many programs share one head's cached tokens; they take blocks of so many in turn, with so many warps."""

DEPENDENT_LAUNCH = True
"""Hopper's programmatic dependent launch: a kernel reads its first weights while the one before still runs."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _wait(dependent: tl.constexpr):
    """Let the next kernel start, and wait until what the ones before wrote can be read."""
    if dependent:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _tile(starts, valid, first, k: tl.constexpr, columns: tl.constexpr):
    """The elements from `first` on of the weight rows that start at the pointers `starts`: (rows, columns)."""
    at = first + tl.arange(0, columns)
    mask = valid[:, None] & (at < k)[None, :]
    return tl.load(starts[:, None] + at[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _inverse_rms(x, epsilon, k: tl.constexpr, columns: tl.constexpr):
    squares = tl.zeros((columns,), tl.float32)
    for first in tl.static_range(0, k, columns):
        at = first + tl.arange(0, columns)
        values = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        squares += values * values
    return tl.rsqrt(tl.sum(squares) / k + epsilon)


@triton.jit
def _products(
    x, norm, epsilon, starts, valid,
    k: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """The rows at `starts` times x, or times RMSNorm(x) where `norm` is a weight: float32 (rows,).

    The next tile is on its way while this one is multiplied; the first one needs nothing of the kernel before.
    """
    tile = _tile(starts, valid, 0, k, columns)
    _wait(dependent)
    if norm is not None:
        scale = _inverse_rms(x, epsilon, k, columns)
    total = tl.zeros(tile.shape, tl.float32)
    for first in tl.range(0, k, columns):
        following = _tile(starts, valid, first + columns, k, columns)
        at = first + tl.arange(0, columns)
        chunk = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        if norm is not None:
            weight = tl.load(norm + at, mask=at < k, other=0.0).to(tl.float32)
            rounded = (chunk * scale).to(x.dtype.element_ty).to(tl.float32)
            chunk = (rounded * weight).to(x.dtype.element_ty).to(tl.float32)
        total += tile.to(tl.float32) * chunk[None, :]
        tile = following
    return tl.sum(total, axis=1)


@triton.jit
def _qkv_kernel(
    x, norm, epsilon, query, key, value, out, queries, keys,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Norm, and the three projections one after another: out (queries + 2 keys,)."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    valid = row < queries + 2 * keys
    at = row.to(tl.int64) * k
    shared = tl.where(row < queries + keys, key + (at - queries * k), value + (at - (queries + keys) * k))
    starts = tl.where(row < queries, query + at, shared)
    result = _products(x, norm, epsilon, starts, valid, k, columns, dependent)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=valid)


@triton.jit
def _project_kernel(
    x, norm, epsilon, weight, out, n, residual: tl.constexpr,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """A projection into out (n,), of the norm of x where `norm` is a weight; added to what is there if `residual`."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    starts = weight + row.to(tl.int64) * k
    result = _products(x, norm, epsilon, starts, row < n, k, columns, dependent).to(out.dtype.element_ty)
    if residual:
        before = tl.load(out + row, mask=row < n, other=0.0).to(tl.float32)
        result = (before + result.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + row, result, mask=row < n)


@triton.jit
def _gate_up_kernel(
    x, norm, epsilon, gate, up, out, n,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Norm, and silu(gate) * up: out (n,). Rows of the two matrices alternate in a tile."""
    both = tl.arange(0, 2 * rows)
    row = tl.program_id(0) * rows + both // 2
    at = row.to(tl.int64) * k
    starts = tl.where(both % 2 == 0, gate + at, up + at)
    result = _products(x, norm, epsilon, starts, row < n, k, columns, dependent)
    gated, upped = tl.split(tl.reshape(result.to(out.dtype.element_ty).to(tl.float32), (rows, 2)))
    active = (gated / (1 + tl.exp(-gated))).to(out.dtype.element_ty).to(tl.float32)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    tl.store(out + row, (active * upped).to(out.dtype.element_ty), mask=row < n)


@triton.jit
def _rotate(vector, cos, sin, dim: tl.constexpr):
    """As transformers' `apply_rotary_pos_emb` of one head (dim,): each product and the sum rounded."""
    at = tl.arange(0, dim)
    straight = tl.load(vector + at).to(tl.float32)
    crossed = tl.load(vector + (at + dim // 2) % dim).to(tl.float32)
    crossed = tl.where(at < dim // 2, -crossed, crossed)
    dtype = vector.dtype.element_ty
    return ((straight * cos).to(dtype).to(tl.float32) + (crossed * sin).to(dtype).to(tl.float32)).to(dtype)


@triton.jit
def _cached(held, first, position, block: tl.constexpr, dim: tl.constexpr):
    """One head's keys or values from token `first` on, of those before `position`: (block, dim)."""
    token, at = first + tl.arange(0, block), tl.arange(0, dim)
    return tl.load(held + token[:, None] * dim + at[None, :], mask=(token < position)[:, None], other=0.0)


@triton.jit
def _attend_kernel(
    qkv, keys, values, length, inverse_frequencies, rope_scale, softmax_scale, maxima, sums, partial,
    heads, kv_heads, capacity,
    dim: tl.constexpr, splits: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Rotary embedding, this token into the cache, and the attention of one head to its share of the tokens.

    Of the softmax's numerator only the part under this program's own maximum: partial (heads, splits, dim). A position
    beyond the cache writes nothing into it.
    """
    head, split = tl.program_id(0), tl.program_id(1)
    position = tl.load(length).to(tl.int32)
    first = split * block
    if first > position:
        return
    dtype = qkv.dtype.element_ty
    at = tl.arange(0, dim)
    kv_head = head // (heads // kv_heads)
    keys += kv_head.to(tl.int64) * capacity * dim
    values += kv_head.to(tl.int64) * capacity * dim
    stored = tl.minimum(position, capacity)
    earlier_keys = _cached(keys, first, stored, block, dim)
    earlier_values = _cached(values, first, stored, block, dim)
    angles = position.to(tl.float32) * tl.load(inverse_frequencies + at % (dim // 2)).to(tl.float32)
    cos = (tl.cos(angles) * rope_scale).to(dtype).to(tl.float32)
    sin = (tl.sin(angles) * rope_scale).to(dtype).to(tl.float32)
    _wait(dependent)
    query = _rotate(qkv + head * dim, cos, sin, dim).to(tl.float32)
    key = _rotate(qkv + (heads + kv_head) * dim, cos, sin, dim)
    value = tl.load(qkv + (heads + kv_heads + kv_head) * dim + at)
    if (split == position // block % splits) & (head % (heads // kv_heads) == 0) & (position < capacity):
        tl.store(keys + position * dim + at, key)
        tl.store(values + position * dim + at, value)

    maximum, total = float("-inf"), 0.0
    weighted = tl.zeros((dim,), tl.float32)
    while first <= position:
        token = first + tl.arange(0, block)
        current = (token == position)[:, None]
        all_keys = tl.where(current, key[None, :], earlier_keys).to(tl.float32)
        all_values = tl.where(current, value[None, :], earlier_values).to(tl.float32)
        scores = tl.sum(all_keys * query[None, :], axis=1) * softmax_scale
        scores = tl.where(token <= position, scores, float("-inf"))
        higher = tl.maximum(maximum, tl.max(scores))
        weights, shrink = tl.exp(scores - higher), tl.exp(maximum - higher)
        total = total * shrink + tl.sum(weights)
        weighted = weighted * shrink + tl.sum(weights[:, None] * all_values, axis=0)
        maximum = higher
        first += splits * block
        earlier_keys = _cached(keys, first, stored, block, dim)
        earlier_values = _cached(values, first, stored, block, dim)
    tl.store(maxima + head * splits + split, maximum)
    tl.store(sums + head * splits + split, total)
    tl.store(partial + (head * splits + split) * dim + at, weighted)


@triton.jit
def _combine_kernel(
    maxima, sums, partial, length, out,
    dim: tl.constexpr, splits: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """What the programs of a head found, each under its own maximum, into the head's output: out (heads, dim)."""
    head, split, at = tl.program_id(0), tl.arange(0, padded), tl.arange(0, dim)
    used = (split < splits) & (split * block <= tl.load(length))
    _wait(dependent)
    place = head * splits + split
    maximum = tl.load(maxima + place, mask=used, other=float("-inf"))
    share = tl.exp(maximum - tl.max(maximum))
    total = tl.sum(share * tl.load(sums + place, mask=used, other=0.0))
    weighted = tl.load(partial + place[:, None] * dim + at[None, :], mask=used[:, None], other=0.0)
    result = tl.sum(share[:, None] * weighted, axis=0) / total
    tl.store(out + head * dim + at, result.to(out.dtype.element_ty))


class _Scratch:
    """What the kernels of a step hand to each other, allocated once: the residual stream, and one layer's results."""

    def __init__(self, config: Any, layer: StaticLayer, vocabulary: int) -> None:
        def empty(*shape: int, dtype: torch.dtype = layer.keys.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=layer.keys.device)

        heads, dim = config.num_attention_heads, config.head_dim
        self.splits = min(SPLITS, triton.cdiv(layer.keys.shape[2], BLOCK_TOKENS))
        self.hidden = empty(1, config.hidden_size)
        self.qkv = empty((heads + 2 * config.num_key_value_heads) * dim)
        self.maxima = empty(heads, self.splits, dtype=torch.float32)
        self.sums = empty(heads, self.splits, dtype=torch.float32)
        self.partial = empty(heads, self.splits, dim, dtype=torch.float32)
        self.attended = empty(heads * dim)
        self.active = empty(config.intermediate_size)
        self.logits = empty(1, 1, vocabulary)
        self.dependent = _dependent(layer.keys.device)


def fused_step(hf_model: PreTrainedModel, cache: StaticCache) -> Callable[[Tensor], Tensor]:
    """Prepare a decode step of a network over a cache that its prefill has filled.

    Args:
        hf_model: its decoder is transformers' `LlamaModel`; the weights stay the network's own.
        cache: initialised, for one sequence. Every call appends one token to it; the caller sees to it that it fits.

    Returns:
        step(tokens): int64 (1, 1) ids on the device to logits (1, 1, vocabulary) in the network's dtype, in a buffer
        that the next call overwrites. It never waits for the device and can be captured into a CUDA graph.

    Raises:
        ModelError: for a network that the kernels don't compute.
        StageError: for a cache that is not this network's, or from the step for other tokens.
    """
    decoder, head = hf_model.get_decoder(), hf_model.get_output_embeddings()
    _check_architecture(decoder)
    _check_weights(decoder, head)
    _check_cache(decoder, cache)
    lengths = [layer.cumulative_length for layer in cache.layers]
    scratch = _Scratch(decoder.config, cache.layers[0], head.out_features)

    @torch.no_grad()
    def step(tokens: Tensor) -> Tensor:
        if tokens.shape != (1, 1) or tokens.dtype != torch.int64:
            raise StageError(f"a fused step takes int64 tokens (1, 1), got {tokens.dtype} {tuple(tokens.shape)}")
        torch.index_select(decoder.embed_tokens.weight, 0, tokens[0], out=scratch.hidden)
        for layer, cached in zip(decoder.layers, cache.layers, strict=True):
            _attention(scratch, layer, cached, decoder.rotary_emb)
            _feed_forward(scratch, layer)
        norm = decoder.norm
        _project(scratch, "head", head, scratch.hidden, scratch.logits, norm.weight, norm.variance_epsilon)
        torch._foreach_add_(lengths, 1)
        return scratch.logits

    return step


def _attention(scratch: _Scratch, layer: LlamaDecoderLayer, cached: StaticLayer, rotary: Any) -> None:
    """Add one layer's attention to the residual stream, and this token to its cache."""
    attention, norm = layer.self_attn, layer.input_layernorm
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    _stream(
        scratch, _qkv_kernel, "qkv", scratch.qkv.numel(), query.in_features,
        scratch.hidden, norm.weight, norm.variance_epsilon, query.weight, key.weight, value.weight, scratch.qkv,
        query.out_features, key.out_features,
    )  # fmt: skip
    kv_heads, capacity, dim = cached.keys.shape[1:]
    heads, partials = query.out_features // dim, (scratch.maxima, scratch.sums, scratch.partial)
    fixed = {"dim": dim, "splits": scratch.splits, "block": BLOCK_TOKENS, **scratch.dependent}
    _attend_kernel[(heads, scratch.splits)](
        scratch.qkv, cached.keys, cached.values, cached.cumulative_length, rotary.inv_freq, rotary.attention_scaling,
        attention.scaling, *partials, heads, kv_heads, capacity, num_warps=TOKEN_WARPS, **fixed,
    )  # fmt: skip
    padded = triton.next_power_of_2(scratch.splits)
    _combine_kernel[(heads,)](*partials, cached.cumulative_length, scratch.attended, padded=padded, **fixed)
    _project(scratch, "output", attention.o_proj, scratch.attended, scratch.hidden, residual=True)


def _feed_forward(scratch: _Scratch, layer: LlamaDecoderLayer) -> None:
    """Add one layer's gated feed-forward network to the residual stream."""
    gate, up, norm = layer.mlp.gate_proj, layer.mlp.up_proj, layer.post_attention_layernorm
    _stream(
        scratch, _gate_up_kernel, "gate_up", gate.out_features, gate.in_features,
        scratch.hidden, norm.weight, norm.variance_epsilon, gate.weight, up.weight, scratch.active, gate.out_features,
    )  # fmt: skip
    _project(scratch, "down", layer.mlp.down_proj, scratch.active, scratch.hidden, residual=True)


def _project(
    scratch: _Scratch,
    name: str,
    linear: nn.Linear,
    x: Tensor,
    out: Tensor,
    norm: Tensor | None = None,
    epsilon: float = 0.0,
    residual: bool = False,
) -> None:
    rows, columns = linear.out_features, linear.in_features
    _stream(scratch, _project_kernel, name, rows, columns, x, norm, epsilon, linear.weight, out, rows, residual)


def _stream(scratch: _Scratch, kernel: Any, name: str, rows: int, columns: int, *arguments: Any) -> None:
    """Launch a kernel over all rows of the matrix (rows, columns) that it reads."""
    tiles = TILES[name]
    kernel[(triton.cdiv(rows, tiles.rows),)](
        *arguments,
        k=columns,
        rows=tiles.rows,
        columns=min(tiles.columns, triton.next_power_of_2(columns)),
        num_warps=tiles.warps,
        **scratch.dependent,
    )


def _dependent(device: torch.device) -> dict[str, bool]:
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return dict.fromkeys(("dependent", "launch_pdl"), DEPENDENT_LAUNCH and hopper)


def _check_architecture(decoder: Any) -> None:
    """Refuse what the kernels would compute otherwise than transformers."""
    if type(decoder).forward is not LlamaModel.forward:
        raise ModelError(f"the fused step needs transformers' LlamaModel as decoder, got {type(decoder).__name__}")
    for layer in decoder.layers:
        if type(layer) is not LlamaDecoderLayer:
            raise ModelError(f"the fused step needs LlamaDecoderLayer, got {type(layer).__name__}")
    config, rope = decoder.config, decoder.rotary_emb.rope_type
    if config.hidden_act not in ("silu", "swish"):
        raise ModelError(f"the fused step needs the activation silu, got {config.hidden_act}")
    if rope != "default":
        raise ModelError(f"the fused step needs default rotary embeddings, got {rope}")
    if config.head_dim != triton.next_power_of_2(config.head_dim):
        raise ModelError(f"the fused step needs a head_dim that is a power of two, got {config.head_dim}")


def _check_weights(decoder: Any, head: Any) -> None:
    """Refuse weights that are not all there, plain, and in one dtype."""
    like = decoder.embed_tokens.weight
    if like.dtype not in DTYPES:
        raise ModelError(f"the fused step needs float32, float16 or bfloat16, got {like.dtype}")
    for name, linear, shape in _linears(decoder, head):
        _check_linear(name, linear, shape)
    for weight in (*decoder.layers.parameters(), decoder.norm.weight, head.weight):
        if (weight.dtype, weight.device) != (like.dtype, like.device):
            raise ModelError(
                f"the fused step needs all weights in {like.dtype} on {like.device}, "
                f"got {weight.dtype} on {weight.device}"
            )


def _linears(decoder: Any, head: Any) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Each linear layer that a step reads: its name, itself, and the shape that the config gives it."""
    config = decoder.config
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for layer in decoder.layers:
        yield "q_proj", layer.self_attn.q_proj, (queries, hidden)
        yield "k_proj", layer.self_attn.k_proj, (keys, hidden)
        yield "v_proj", layer.self_attn.v_proj, (keys, hidden)
        yield "o_proj", layer.self_attn.o_proj, (hidden, queries)
        yield "gate_proj", layer.mlp.gate_proj, (inner, hidden)
        yield "up_proj", layer.mlp.up_proj, (inner, hidden)
        yield "down_proj", layer.mlp.down_proj, (hidden, inner)
    yield "lm_head", head, tuple(decoder.embed_tokens.weight.shape)


def _check_linear(name: str, linear: Any, shape: tuple[int, ...]) -> None:
    """Refuse a layer with a bias, and one that is quantised, adapted or sharded."""
    if getattr(linear, "bias", None) is not None:
        raise ModelError(f"the fused step needs {name} without a bias, got one")
    if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter:
        raise ModelError(f"the fused step needs a plain Linear as {name}, got {type(linear).__name__}")
    if tuple(linear.weight.shape) != shape or not linear.weight.is_contiguous():
        raise ModelError(f"the fused step needs {name} whole, {shape} in row order, got {tuple(linear.weight.shape)}")


def _check_cache(decoder: Any, cache: StaticCache) -> None:
    """Refuse a cache whose layout the attention kernels don't read."""
    config, like = decoder.config, decoder.embed_tokens.weight
    if len(cache.layers) != len(decoder.layers):
        raise StageError(f"a fused step needs {len(decoder.layers)} layers of cache, got {len(cache.layers)}")
    for layer in cache.layers:
        if type(layer) is not StaticLayer or not layer.is_initialized:
            raise StageError(f"a fused step needs a filled StaticCache, got a {type(layer).__name__}")
        wanted = (1, config.num_key_value_heads, cache.layers[0].keys.shape[2], config.head_dim)
        for held in (layer.keys, layer.values):
            if tuple(held.shape) != wanted:
                raise StageError(f"a fused step needs a cache of shape {wanted}, got {tuple(held.shape)}")
            if (held.dtype, held.device) != (like.dtype, like.device):
                raise StageError(
                    f"a fused step needs a cache in {like.dtype} on {like.device}, got {held.dtype} on {held.device}"
                )
