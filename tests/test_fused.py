"""The fused decode step against the network's own and a float64 copy of it; without a GPU in Triton's interpreter."""

import inspect
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import DEFAULT_MODELS, ModelSettings
from stagebench.models.registry import build_model

pytest.importorskip("triton", reason="needs triton, which comes with torch's CUDA builds or the extra test")

from stagebench.backends import fused  # the import needs triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
PROMPT, CAPACITY = 62, 100  # the third step begins the second block of tokens
SIZES = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512, "num_attention_heads": 4}
ODD = {"hidden_size": 96, "intermediate_size": 200, "vocab_size": 515, "num_attention_heads": 4, "head_dim": 32}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Large tiles: in the interpreter every program costs, and 7B's tiles would make hundreds of them."""
    for name, tiles in fused.TILES.items():
        monkeypatch.setitem(fused.TILES, name, tiles._replace(rows=128))
    monkeypatch.setattr(fused, "BLOCK_TOKENS", 64)


def llama(dtype=torch.float32, device=DEVICE, cls=LlamaForCausalLM, config=LlamaConfig, **sizes):
    """A Llama whose logits depend on everything: wide weights, norms that are not one."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        settings = {"num_hidden_layers": 2, "initializer_range": 0.3, "rms_norm_eps": 1e-5, **SIZES, **sizes}
        hf_model = cls._from_config(config(**settings), dtype=dtype).eval()
        for name, weight in hf_model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                nn.init.uniform_(weight, 0.5, 1.5)
    return hf_model


@torch.no_grad()
def own_step(hf_model, cache):
    return lambda tokens: hf_model(**{"input_ids": tokens, CACHE: cache}).logits


@torch.no_grad()
def prefilled(hf_model, length=PROMPT, batch=1, like=None):
    """A cache over a random prompt; with the contents of the cache `like` where given."""
    cache = StaticCache(config=hf_model.config.get_text_config(), max_cache_len=CAPACITY)
    generator = torch.Generator().manual_seed(1)
    tokens = hf_model.config.get_text_config().vocab_size
    ids = torch.randint(4, tokens, (batch, length), generator=generator).to(hf_model.device)
    hf_model.get_decoder()(**{"input_ids": ids, CACHE: cache})
    for layer, other in zip(cache.layers, [] if like is None else like.layers, strict=like is not None):
        layer.keys.copy_(other.keys)
        layer.values.copy_(other.values)
    return cache


@torch.no_grad()
def follow(step, tokens):
    """The logits (tokens, vocabulary) of a step fed with given tokens, on the CPU in float64."""
    return torch.cat([step(token.view(1, 1)).double().cpu().flatten(1) for token in tokens])


def relative(found, reference):
    return float((found - reference).norm() / reference.norm())


def three_ways(hf_model, tokens):
    """The logits of the network's own steps, of fused ones, and of float64 ones, over the same cache and weights."""
    exact = deepcopy(hf_model).double()
    own, mine = prefilled(hf_model), prefilled(hf_model)
    wide = prefilled(exact, like=own)
    steps = own_step(hf_model, own), fused.FusedStep(hf_model, mine), own_step(exact, wide)
    return [follow(step, tokens) for step in steps]


def errors(hf_model):
    """Of the network's own steps and of the fused ones."""
    own, mine, exact = three_ways(hf_model, torch.arange(7, 10, device=hf_model.device))
    return relative(own, exact), relative(mine, exact)


@torch.no_grad()
def greedy(step, device, count=5):
    tokens = [torch.tensor([7], device=device)]
    while len(tokens) < count:
        tokens.append(step(tokens[-1].view(1, 1)).argmax(-1).flatten())
    return torch.cat(tokens)


@pytest.mark.parametrize("family", sorted(DEFAULT_MODELS))
def test_every_family_says_the_same_as_exactly_with_the_fused_step(family):
    hf_model = build_model(family, ModelSettings(device=DEVICE)).hf_model
    text = greedy(own_step(hf_model, prefilled(hf_model)), DEVICE)
    own, mine, exact = three_ways(hf_model, text)
    assert mine.argmax(-1).tolist() == own.argmax(-1).tolist()
    assert len(set(text.tolist())) > len(text) // 2, "a text of one word would show nothing"
    assert relative(mine, exact) <= min(1e-5, 3 * relative(own, exact))


@pytest.mark.parametrize("sizes", [ODD, {**SIZES, "num_key_value_heads": 2}, {**ODD, "num_key_value_heads": 1}])
def test_sizes_that_fill_no_tile_and_grouped_queries_are_as_exact(sizes):
    own, mine = errors(llama(**sizes))
    assert mine <= min(1e-5, 3 * own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("cls", "config"), [(Qwen2ForCausalLM, Qwen2Config), (Qwen3ForCausalLM, Qwen3Config)], ids=["biases", "head norms"]
)
def test_biases_and_norms_of_heads_are_as_exact(cls, config, dtype):
    own, mine = errors(llama(dtype, cls=cls, config=config, head_dim=16, num_key_value_heads=2))
    assert mine <= (1.5 * own if dtype is torch.float16 else min(1e-5, 3 * own))


def test_an_offset_turns_a_token_as_a_later_position_does():
    hf_model = llama()
    own, mine = prefilled(hf_model), prefilled(hf_model)
    token, offset = torch.tensor([[7]], device=DEVICE), torch.tensor([5], device=DEVICE)
    later = {"input_ids": token, CACHE: own, "position_ids": offset.view(1, 1) + PROMPT}
    with torch.no_grad():
        expected = hf_model(**later).logits
    step = fused.FusedStep(hf_model, mine)
    assert relative(step(token, offset), expected) < 1e-5
    assert relative(step(token), expected) > 1e-3


def test_half_precision_is_rounded_where_transformers_rounds():
    own, mine = errors(llama(torch.float16, **ODD, num_key_value_heads=2))
    assert mine <= 1.5 * own


def test_bfloat16_is_served():
    """Loosely: Triton's interpreter cuts bfloat16 off where a GPU rounds it, which doubles each error."""
    own, mine = errors(llama(torch.bfloat16))
    assert mine <= 4 * own


def test_the_tiles_of_the_table_compute_the_same(monkeypatch):
    few = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64, "num_attention_heads": 2}
    hf_model = llama(num_hidden_layers=1, **few)
    tall = follow(fused.FusedStep(hf_model, prefilled(hf_model)), torch.tensor([7], device=DEVICE))
    monkeypatch.undo()
    tiles = follow(fused.FusedStep(hf_model, prefilled(hf_model)), torch.tensor([7], device=DEVICE))
    assert relative(tiles, tall) < 1e-6


def test_programs_take_several_blocks_of_tokens_in_turn(monkeypatch):
    monkeypatch.setattr(fused, "SPLITS", 2)
    monkeypatch.setattr(fused, "BLOCK_TOKENS", 16)
    own, mine = errors(llama())
    assert mine <= min(1e-5, 3 * own)


def test_the_first_token_of_a_cache_and_its_last_are_served():
    hf_model = llama()
    own, mine = prefilled(hf_model, 1), prefilled(hf_model, 1)
    for cache in (own, mine):
        for layer in cache.layers:
            layer.cumulative_length.zero_()
    token = torch.tensor([7], device=DEVICE)
    first = follow(own_step(hf_model, own), token)
    assert relative(follow(fused.FusedStep(hf_model, mine), token), first) < 1e-5
    own, mine = prefilled(hf_model, CAPACITY - 1), prefilled(hf_model, CAPACITY - 1)
    last = follow(own_step(hf_model, own), token)
    assert relative(follow(fused.FusedStep(hf_model, mine), token), last) < 1e-5


def test_the_cache_holds_what_the_plain_step_writes_and_is_one_token_longer():
    hf_model = llama(num_key_value_heads=2)
    own, mine = prefilled(hf_model), prefilled(hf_model)
    token = torch.tensor([[7]], device=DEVICE)
    own_step(hf_model, own)(token)
    fused.FusedStep(hf_model, mine)(token)
    for expected, actual in zip(own.layers, mine.layers, strict=True):
        assert actual.cumulative_length.item() == expected.cumulative_length.item() == PROMPT + 1
        torch.testing.assert_close(actual.keys, expected.keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(actual.values, expected.values, rtol=1e-4, atol=1e-5)
        assert actual.keys[:, :, PROMPT].abs().min() > 0
        assert torch.equal(actual.keys[:, :, PROMPT + 1 :], torch.zeros_like(actual.keys[:, :, PROMPT + 1 :]))


def test_a_weight_changed_later_is_seen():
    hf_model = llama()
    step = fused.FusedStep(hf_model, prefilled(hf_model))
    with torch.no_grad():
        hf_model.lm_head.weight.zero_()
    assert step(torch.tensor([[7]], device=DEVICE)).abs().max() == 0


REFUSED_CONFIGS = {
    "o_proj without a bias": {"attention_bias": True},
    "gate_proj without a bias": {"mlp_bias": True},
    "activation silu, got gelu": {"hidden_act": "gelu"},
    "default rotary embeddings, got linear": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    },
    "power of two, got 24": {"head_dim": 24},
    "float32, float16 or bfloat16, got torch.float64": {"dtype": torch.float64},
    "a decoder of LlamaModel, .*, got MistralModel": {
        "cls": MistralForCausalLM,
        "config": MistralConfig,
        "num_key_value_heads": 4,
    },
}


@pytest.mark.parametrize("message", REFUSED_CONFIGS)
def test_a_network_that_the_kernels_would_compute_otherwise_is_refused(message):
    hf_model = llama(**REFUSED_CONFIGS[message])
    with pytest.raises(ModelError, match=message):
        fused.FusedStep(hf_model, prefilled(hf_model))


class Adapted(nn.Linear):
    """Stands for a quantised or adapted layer."""


class OtherLayer(LlamaDecoderLayer):
    """Stands for a layer that computes something else."""


def adapt(hf_model):
    hf_model.model.layers[1].self_attn.k_proj.__class__ = Adapted


def shard(hf_model):
    up = hf_model.model.layers[1].mlp.up_proj
    up.weight = nn.Parameter(up.weight[:32])


def transpose(hf_model):
    down = hf_model.model.layers[0].mlp.down_proj
    down.weight = nn.Parameter(down.weight.t().contiguous().t())


def widen_a_norm(hf_model):
    hf_model.model.norm.double()


def give_the_head_a_bias(hf_model):
    hf_model.lm_head.bias = nn.Parameter(torch.zeros(512))


def give_a_key_a_bias(hf_model):
    hf_model.model.layers[1].self_attn.k_proj.bias = nn.Parameter(torch.ones(64))


def exchange_a_layer(hf_model):
    hf_model.model.layers[1].__class__ = OtherLayer


REFUSED_CHANGES = {
    "plain Linear as k_proj, got Adapted": adapt,
    r"up_proj whole, \(128, 64\) in row order, got \(32, 64\)": shard,
    r"down_proj whole, \(64, 128\) in row order": transpose,
    "all weights in torch.float32 on .*, got torch.float64": widen_a_norm,
    "lm_head without a bias": give_the_head_a_bias,
    "a bias of all of q_proj, k_proj, v_proj or of none, got k_proj": give_a_key_a_bias,
    "LlamaDecoderLayer, got OtherLayer": exchange_a_layer,
}


@pytest.mark.parametrize("message", REFUSED_CHANGES)
def test_a_network_changed_beyond_its_config_is_refused(message):
    hf_model = llama()
    cache = prefilled(hf_model)
    REFUSED_CHANGES[message](hf_model)
    with pytest.raises(ModelError, match=message):
        fused.FusedStep(hf_model, cache)


@pytest.mark.parametrize("tokens", [torch.zeros(1, 1, dtype=torch.int32), torch.zeros(2, 1, dtype=torch.int64)])
def test_a_step_takes_one_token_of_one_sequence(tokens):
    hf_model = llama()
    step = fused.FusedStep(hf_model, prefilled(hf_model))
    with pytest.raises(StageError, match=r"int64 tokens \(1, 1\), got"):
        step(tokens.to(DEVICE))


@pytest.mark.gpu
def test_at_7b_widths_the_captured_step_is_as_exact_as_the_plain_one(gpu, monkeypatch):
    """In bfloat16, two layers, the tiles of the table, replayed from a CUDA graph."""
    monkeypatch.undo()
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32064, "num_attention_heads": 32}
    hf_model = llama(torch.bfloat16, gpu, initializer_range=0.02, **sizes)
    own, mine = prefilled(hf_model), prefilled(hf_model)
    exact = deepcopy(hf_model).double()
    token = torch.tensor([7], device=gpu)
    reference = follow(own_step(exact, prefilled(exact, like=own)), token)
    plain = relative(follow(own_step(hf_model, own), token), reference)
    step, tokens = fused.FusedStep(hf_model, mine), token.view(1, 1).clone()
    step(tokens)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step(tokens)
    for layer in mine.layers:
        layer.cumulative_length.fill_(PROMPT)
    graph.replay()
    assert relative(logits.double().cpu().flatten(1), reference) <= 2 * plain
    assert [layer.cumulative_length.item() for layer in mine.layers] == [PROMPT + 1] * 2
