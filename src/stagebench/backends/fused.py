"""One decode step of a Llama-family language model in six Triton kernels a layer, for a batch of one.

With one sequence a decode step is reading the weights, so each kernel streams one matrix (or three, or two) and does
everything around it on the way: the norm before, the activation or the residual after. Weights are read where the
network has them. Importing this module needs triton.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from stagebench.backends.fused_kernels import attend_kernel, combine_kernel, gate_up_kernel, project_kernel, qkv_kernel
from stagebench.core.errors import ModelError, StagebenchError, StageError


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

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
        scratch, qkv_kernel, "qkv", scratch.qkv.numel(), query.in_features,
        scratch.hidden, norm.weight, norm.variance_epsilon, query.weight, key.weight, value.weight, scratch.qkv,
        query.out_features, key.out_features,
    )  # fmt: skip
    kv_heads, capacity, dim = cached.keys.shape[1:]
    heads, partials = query.out_features // dim, (scratch.maxima, scratch.sums, scratch.partial)
    fixed = {"dim": dim, "splits": scratch.splits, "block": BLOCK_TOKENS, **scratch.dependent}
    attend_kernel[(heads, scratch.splits)](
        scratch.qkv, cached.keys, cached.values, cached.cumulative_length, rotary.inv_freq, rotary.attention_scaling,
        attention.scaling, *partials, heads, kv_heads, capacity, num_warps=TOKEN_WARPS, **fixed,
    )  # fmt: skip
    padded = triton.next_power_of_2(scratch.splits)
    combine_kernel[(heads,)](*partials, cached.cumulative_length, scratch.attended, padded=padded, **fixed)
    _project(scratch, "output", attention.o_proj, scratch.attended, scratch.hidden, residual=True)


def _feed_forward(scratch: _Scratch, layer: LlamaDecoderLayer) -> None:
    """Add one layer's gated feed-forward network to the residual stream."""
    gate, up, norm = layer.mlp.gate_proj, layer.mlp.up_proj, layer.post_attention_layernorm
    _stream(
        scratch, gate_up_kernel, "gate_up", gate.out_features, gate.in_features,
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
    _stream(scratch, project_kernel, name, rows, columns, x, norm, epsilon, linear.weight, out, rows, residual)


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
    """Ask for Hopper's dependent launch: a kernel reads its first weights while the one before still runs."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return dict.fromkeys(("dependent", "launch_pdl"), hopper)


def _require(held: bool, needs: str, got: object, error: type[StagebenchError] = ModelError) -> None:
    if not held:
        raise error(f"the fused step needs {needs}, got {got}")


def _check_architecture(decoder: Any) -> None:
    """Refuse what the kernels would compute otherwise than transformers."""
    is_llama = type(decoder).forward is LlamaModel.forward
    _require(is_llama, "transformers' LlamaModel as decoder", type(decoder).__name__)
    for layer in decoder.layers:
        _require(type(layer) is LlamaDecoderLayer, "LlamaDecoderLayer", type(layer).__name__)
    config, rope = decoder.config, decoder.rotary_emb.rope_type
    _require(config.hidden_act in ("silu", "swish"), "the activation silu", config.hidden_act)
    _require(rope == "default", "default rotary embeddings", rope)
    is_power = config.head_dim == triton.next_power_of_2(config.head_dim)
    _require(is_power, "a head_dim that is a power of two", config.head_dim)


def _check_weights(decoder: Any, head: Any) -> None:
    """Refuse weights that are not all there, plain, and in one dtype: quantised, adapted or sharded ones."""
    dtype, device = decoder.embed_tokens.weight.dtype, decoder.embed_tokens.weight.device
    _require(dtype in DTYPES, "float32, float16 or bfloat16", dtype)
    for name, linear, shape in _linears(decoder, head):
        _require(getattr(linear, "bias", None) is None, f"{name} without a bias", "one")
        is_plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
        _require(is_plain, f"a plain Linear as {name}", type(linear).__name__)
        is_whole = tuple(linear.weight.shape) == shape and linear.weight.is_contiguous()
        _require(is_whole, f"{name} whole, {shape} in row order", tuple(linear.weight.shape))
    for weight in (*decoder.layers.parameters(), decoder.norm.weight, head.weight):
        is_like = (weight.dtype, weight.device) == (dtype, device)
        _require(is_like, f"all weights in {dtype} on {device}", f"{weight.dtype} on {weight.device}")


def _linears(decoder: Any, head: Any) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield each linear layer that a step reads: its name, itself, and the shape that the config gives it."""
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


def _check_cache(decoder: Any, cache: StaticCache) -> None:
    """Refuse a cache whose layout the attention kernels don't read."""
    config, like, layers = decoder.config, decoder.embed_tokens.weight, len(decoder.layers)
    _require(len(cache.layers) == layers, f"{layers} layers of cache", len(cache.layers), StageError)
    for layer in cache.layers:
        is_filled = type(layer) is StaticLayer and layer.is_initialized
        _require(is_filled, "a filled StaticCache", f"a {type(layer).__name__}", StageError)
        wanted = (1, config.num_key_value_heads, cache.layers[0].keys.shape[2], config.head_dim)
        for held in (layer.keys, layer.values):
            _require(tuple(held.shape) == wanted, f"a cache of shape {wanted}", tuple(held.shape), StageError)
            is_like = (held.dtype, held.device) == (like.dtype, like.device)
            kind = f"a cache in {like.dtype} on {like.device}"
            _require(is_like, kind, f"{held.dtype} on {held.device}", StageError)
