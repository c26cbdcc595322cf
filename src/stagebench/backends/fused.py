"""One decode step of a Llama-like language model in six Triton kernels per layer, for a batch of one.

Reading the weights dominates a decode step of one sequence. So each kernel streams its one to three matrices once, and
includes the norm before and the activation or the residual after. Weights are read in place. Importing this module
needs triton.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import StaticLayer

from stagebench.backends.fused_kernels import attend_kernel, combine_kernel, gate_up_kernel, project_kernel, qkv_kernel
from stagebench.backends.llama_like import layers_of, why_not_llama_like
from stagebench.core.errors import ModelError, StageError


class Tiles(NamedTuple):
    """How a matrix is read: tiles of `rows` x `columns` elements, by one program of `warps` warps."""

    rows: int
    columns: int
    warps: int


# By projection, for 7B shapes on an H100. "gate_up" counts the rows of each of its two matrices. The columns determine
# the order of sums, and so ties between tokens: they are fixed here, never tuned at run time.
TILES = {
    "qkv": Tiles(2, 2048, 8),
    "output": Tiles(16, 512, 8),
    "gate_up": Tiles(1, 4096, 8),
    "down": Tiles(4, 4096, 8),
    "head": Tiles(2, 2048, 8),
}
# The most programs that share one head's cached tokens, the tokens per block, and the warps of a program.
SPLITS, BLOCK_TOKENS, TOKEN_WARPS = 32, 32, 2


class FusedStep:
    """A decode step over the network's own filled cache of one sequence, which each call extends by one token.

    It takes int64 (1, 1) ids on the device, and returns logits (1, 1, vocabulary) in the network's dtype. The next call
    overwrites them. It never waits for the device, so it can be captured. The caller ensures that the token fits the
    cache. Raise ModelError for a network that the kernels can't compute.

    The rotary embedding turns a token by its place in the cache, plus an offset, int64 (1,) on the device, where given.
    """

    def __init__(self, hf_model: PreTrainedModel, cache: Cache) -> None:
        self.decoder, self.head, self.cached = hf_model.get_decoder(), hf_model.get_output_embeddings(), cache.layers
        if why := why_not_llama_like(hf_model):
            raise ModelError(f"the fused step needs {why}")
        for held, needs, got in _requirements(self.decoder, self.head, self.cached):
            if not held:
                raise ModelError(f"the fused step needs {needs}, got {got}")
        config, keys = self.decoder.config, cache.layers[0].keys

        def empty(*shape: int, dtype: torch.dtype = keys.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=keys.device)

        # Buffers between kernels: the residual stream, and one layer's results.
        heads, dim = config.num_attention_heads, keys.shape[-1]
        self.splits = min(SPLITS, triton.cdiv(keys.shape[2], BLOCK_TOKENS))
        self.hidden = empty(1, config.hidden_size)
        self.qkv = empty((heads + 2 * config.num_key_value_heads) * dim)
        maxima, sums = (empty(heads, self.splits, dtype=torch.float32) for _ in range(2))
        self.partials = maxima, sums, empty(heads, self.splits, dim, dtype=torch.float32)
        self.attended = empty(heads * dim)
        self.active = empty(config.intermediate_size)
        self.logits = empty(1, 1, self.head.out_features)
        # Hopper's dependent launch: a kernel reads its first weights while the previous one still runs.
        hopper = keys.is_cuda and torch.cuda.get_device_capability(keys.device) >= (9, 0)
        self.dependent = dict.fromkeys(("dependent", "launch_pdl"), hopper)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, offset: Tensor | None = None) -> Tensor:
        """Compute the logits that follow a token."""
        if tokens.shape != (1, 1) or tokens.dtype != torch.int64:
            raise StageError(f"a fused step takes int64 tokens (1, 1), got {tokens.dtype} {tuple(tokens.shape)}")
        torch.index_select(self.decoder.embed_tokens.weight, 0, tokens[0], out=self.hidden)
        for layer, cached in zip(self.decoder.layers, self.cached, strict=True):
            self._attention(layer, cached, offset)
            self._feed_forward(layer)
        self._project("head", self.head, self.hidden, self.logits, self.decoder.norm)
        torch._foreach_add_([layer.cumulative_length for layer in self.cached], 1)
        return self.logits

    def _attention(self, layer: Any, cached: StaticLayer, offset: Tensor | None) -> None:
        """Add one layer's attention to the residual stream, and this token to its cache."""
        attention, norm, rotary = layer.self_attn, layer.input_layernorm, self.decoder.rotary_emb
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        self._stream(
            qkv_kernel, "qkv", self.qkv.numel(), query.in_features,
            self.hidden, norm.weight, norm.variance_epsilon, query.weight, key.weight, value.weight, self.qkv,
            query.out_features, key.out_features, query.bias, key.bias, value.bias,
        )  # fmt: skip
        kv_heads, capacity, dim = cached.keys.shape[1:]
        heads, padded = query.out_features // dim, triton.next_power_of_2(self.splits)
        fixed = {"dim": dim, "splits": self.splits, "block": BLOCK_TOKENS, **self.dependent}
        of_heads = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        norms = [getattr(each, "weight", None) for each in of_heads]
        epsilon = getattr(of_heads[0], "variance_epsilon", 0.0)
        attend_kernel[(heads, self.splits)](
            self.qkv, *norms, epsilon, cached.keys, cached.values, cached.cumulative_length, offset,
            rotary.inv_freq, rotary.attention_scaling, attention.scaling, *self.partials, heads, kv_heads, capacity,
            num_warps=TOKEN_WARPS, **fixed,
        )  # fmt: skip
        combine_kernel[(heads,)](*self.partials, cached.cumulative_length, self.attended, padded=padded, **fixed)
        self._project("output", attention.o_proj, self.attended, self.hidden, residual=True)

    def _feed_forward(self, layer: Any) -> None:
        """Add one layer's gated feed-forward network to the residual stream."""
        gate, up, norm = layer.mlp.gate_proj, layer.mlp.up_proj, layer.post_attention_layernorm
        self._stream(
            gate_up_kernel, "gate_up", gate.out_features, gate.in_features,
            self.hidden, norm.weight, norm.variance_epsilon, gate.weight, up.weight, self.active, gate.out_features,
        )  # fmt: skip
        self._project("down", layer.mlp.down_proj, self.active, self.hidden, residual=True)

    def _project(
        self, name: str, linear: nn.Linear, x: Tensor, out: Tensor, norm: Any = None, residual: bool = False
    ) -> None:
        rows, columns = linear.out_features, linear.in_features
        normed = (None, 0.0) if norm is None else (norm.weight, norm.variance_epsilon)
        self._stream(project_kernel, name, rows, columns, x, *normed, linear.weight, out, rows, residual)

    def _stream(self, kernel: Any, name: str, rows: int, columns: int, *arguments: Any) -> None:
        """Launch a kernel over all rows of its matrix (rows, columns)."""
        tiles = TILES[name]
        width = min(tiles.columns, triton.next_power_of_2(columns))
        sizes = {"k": columns, "rows": tiles.rows, "columns": width, "num_warps": tiles.warps}
        kernel[(triton.cdiv(rows, tiles.rows),)](*arguments, **sizes, **self.dependent)


_BIASED = ("q_proj", "k_proj", "v_proj")


def _requirements(decoder: Any, head: Any, cached: Sequence[Any]) -> Iterator[tuple[bool, str, object]]:
    """Yield each requirement of the kernels: whether it holds, what is needed, and what was found."""
    config, rope, like = decoder.config, decoder.rotary_emb.rope_type, decoder.embed_tokens.weight
    kind: Any = layers_of(decoder)
    for layer in decoder.layers:
        yield type(layer) is kind, kind.__name__, type(layer).__name__
    for each in cached:
        yield type(each) is StaticLayer, "layers that attend to all tokens", type(each).__name__
    yield config.hidden_act in ("silu", "swish"), "the activation silu", config.hidden_act
    yield rope == "default", "default rotary embeddings", rope
    dim = cached[0].keys.shape[-1]
    yield dim == triton.next_power_of_2(dim), "a head_dim that is a power of two", dim
    is_served = like.dtype in (torch.float32, torch.float16, torch.bfloat16)
    yield is_served, "float32, float16 or bfloat16", like.dtype
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    shapes |= {"o_proj": (hidden, queries), "gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
    shapes |= {"down_proj": (hidden, inner), "lm_head": tuple(like.shape)}
    projections = [each for each in decoder.layers.named_modules() if each[0].endswith("_proj")]
    for layer in decoder.layers:
        biased = [name for name in _BIASED if getattr(layer.self_attn, name).bias is not None]
        yield len(biased) in (0, len(_BIASED)), f"a bias of all of {', '.join(_BIASED)} or of none", ", ".join(biased)
    for path, linear in (*projections, ("lm_head", head)):
        name = path.rpartition(".")[2]
        yield name in _BIASED or getattr(linear, "bias", None) is None, f"{name} without a bias", "one"
        is_plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
        yield is_plain, f"a plain Linear as {name}", type(linear).__name__
        is_whole = tuple(linear.weight.shape) == shapes[name] and linear.weight.is_contiguous()
        yield is_whole, f"{name} whole, {shapes[name]} in row order", tuple(linear.weight.shape)
    for weight in (*decoder.layers.parameters(), decoder.norm.weight, head.weight):
        is_like = (weight.dtype, weight.device) == (like.dtype, like.device)
        yield is_like, f"all weights in {like.dtype} on {like.device}", f"{weight.dtype} on {weight.device}"
