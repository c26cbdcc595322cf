"""The network against a float64 numpy implementation of the same maths, and both against committed numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from stagebench.models.modeling_eventgpt import EventGPTConfig, EventGPTForConditionalGeneration

STAGES = json.loads((Path(__file__).parent / "fixtures" / "eventgpt_maths.json").read_text())

Array = np.ndarray
Weights = Mapping[str, Array]

IMAGES, SIDE, PATCH, PLACEHOLDER = 3, 28, 14, 37
TEXT = {"hidden": 16, "layers": 2, "heads": 4, "kv_heads": 2, "eps": 1e-5, "theta": 10000.0}
VISION = {"hidden": 12, "layers": 2, "heads": 2, "eps": 1e-5}
VISUAL_TOKENS = IMAGES + (SIDE // PATCH) ** 2 + 1
IDS = np.array([1, 5, 9, *[PLACEHOLDER] * VISUAL_TOKENS, 12, 3, 30])
PIXELS = 1.5 * np.sin(0.013 * np.arange(IMAGES * 3 * SIDE * SIDE)).reshape(IMAGES, 3, SIDE, SIDE)


def config() -> EventGPTConfig:
    return EventGPTConfig(
        vocab_size=40,
        hidden_size=TEXT["hidden"],
        intermediate_size=24,
        num_hidden_layers=TEXT["layers"],
        num_attention_heads=TEXT["heads"],
        num_key_value_heads=TEXT["kv_heads"],
        rms_norm_eps=TEXT["eps"],
        event_feature_adaptor=True,
        event_token_id=PLACEHOLDER,
        vision_config={
            "hidden_size": VISION["hidden"],
            "intermediate_size": 20,
            "num_hidden_layers": VISION["layers"],
            "num_attention_heads": VISION["heads"],
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": "quick_gelu",
        },
    )


def closed_form(key: str, shape: tuple[int, ...]) -> Array:
    """Weights that any language can write down: a sine whose step depends on the key."""
    step = 0.1 + sum(key.encode()) % 97 / 97
    wave = np.sin(step * np.arange(1, math.prod(shape) + 1)).reshape(shape)
    if len(shape) == 1 and key.endswith("weight"):  # a norm
        return 1 + 0.2 * wave
    return wave * (1.5 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def hf_model(request: pytest.FixtureRequest) -> EventGPTForConditionalGeneration:
    hf_model = EventGPTForConditionalGeneration._from_config(config(), attn_implementation=request.param)
    state = {k: torch.from_numpy(closed_form(k, tuple(v.shape))) for k, v in hf_model.state_dict().items()}
    hf_model.double().load_state_dict(state)
    return hf_model.eval()


@pytest.fixture(scope="module")
def weights(hf_model: EventGPTForConditionalGeneration) -> Weights:
    return {key: closed_form(key, tuple(value.shape)) for key, value in hf_model.state_dict().items()}


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def layer_norm(w: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + VISION["eps"])
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w: Weights, name: str, x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + TEXT["eps"]) * w[f"{name}.weight"]


def heads(x: Array, count: int) -> Array:
    """(tokens, width) to (heads, tokens, width of a head)."""
    return x.reshape(len(x), count, -1).transpose(1, 0, 2)


def attend(q: Array, k: Array, v: Array, mask: Array | float = 0.0) -> Array:
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + mask
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return (exp / exp.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)


def clip(w: Weights, image: Array) -> Array:
    """(3, side, side) to (1 + patches, hidden): the encoder's last hidden state, without post_layernorm."""
    at = "model.visual_tower.visual_tower.vision_model"
    grid = SIDE // PATCH
    patches = image.reshape(3, grid, PATCH, grid, PATCH).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    kernel = w[f"{at}.embeddings.patch_embedding.weight"].reshape(VISION["hidden"], -1)
    x = np.vstack([w[f"{at}.embeddings.class_embedding"], patches @ kernel.T])
    x = layer_norm(w, f"{at}.pre_layrnorm", x + w[f"{at}.embeddings.position_embedding.weight"])
    for i in range(VISION["layers"]):
        layer = f"{at}.encoder.layers.{i}"
        y = layer_norm(w, f"{layer}.layer_norm1", x)
        q, k, v = (heads(linear(w, f"{layer}.self_attn.{n}_proj", y), VISION["heads"]) for n in "qkv")
        x = x + linear(w, f"{layer}.self_attn.out_proj", attend(q, k, v))
        y = linear(w, f"{layer}.mlp.fc1", layer_norm(w, f"{layer}.layer_norm2", x))
        x = x + linear(w, f"{layer}.mlp.fc2", y / (1 + np.exp(-1.702 * y)))
    return x


def image_tokens(w: Weights, image: Array) -> Array:
    y = linear(w, "model.visual_projector.0", clip(w, image))
    y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
    return linear(w, "model.feature_adaptor", linear(w, "model.visual_projector.2", y))


def event_features(tokens: Array) -> Array:
    return np.vstack([tokens.mean(axis=1), tokens.mean(axis=0)])


def rotate(x: Array) -> Array:
    """Rotary position embedding of (heads, tokens, width), the second half of a head paired with its first."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), TEXT["theta"] ** (-np.arange(half) / half))
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def last_logits(w: Weights, features: Array) -> Array:
    x = w["model.embed_tokens.weight"][IDS].copy()
    x[IDS == PLACEHOLDER] = features
    causal = np.triu(np.full((len(IDS), len(IDS)), -np.inf), 1)
    for i in range(TEXT["layers"]):
        layer = f"model.layers.{i}"
        y = rms_norm(w, f"{layer}.input_layernorm", x)
        q = rotate(heads(linear(w, f"{layer}.self_attn.q_proj", y), TEXT["heads"]))
        k = rotate(heads(linear(w, f"{layer}.self_attn.k_proj", y), TEXT["kv_heads"]))
        v = heads(linear(w, f"{layer}.self_attn.v_proj", y), TEXT["kv_heads"])
        k, v = (np.repeat(t, TEXT["heads"] // TEXT["kv_heads"], axis=0) for t in (k, v))
        x = x + linear(w, f"{layer}.self_attn.o_proj", attend(q, k, v, causal))
        y = rms_norm(w, f"{layer}.post_attention_layernorm", x)
        gate = linear(w, f"{layer}.mlp.gate_proj", y)
        up = linear(w, f"{layer}.mlp.up_proj", y)
        x = x + linear(w, f"{layer}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    return linear(w, "lm_head", rms_norm(w, "model.norm", x[-1:]))[0]


def reference(w: Weights) -> dict[str, Array]:
    tokens = np.stack([image_tokens(w, image) for image in PIXELS])
    features = event_features(tokens)
    return {
        "first_image_tokens": tokens[0],
        "event_features": features,
        "last_logits": last_logits(w, features),
    }


@torch.inference_mode()
def network_stages(hf_model: EventGPTForConditionalGeneration) -> dict[str, Array]:
    pixels = torch.from_numpy(PIXELS)
    features = hf_model.get_event_features(pixels.unsqueeze(0))
    outputs = hf_model(input_ids=torch.from_numpy(IDS).unsqueeze(0), pixel_values=pixels.unsqueeze(0))
    return {
        "first_image_tokens": hf_model.get_image_tokens(pixels)[0].numpy(),
        "event_features": features[0].numpy(),
        "last_logits": outputs.logits[0, -1].numpy(),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_numpy_reference_gives_the_committed_numbers(weights: Weights, stage: str) -> None:
    np.testing.assert_allclose(reference(weights)[stage], STAGES[stage], rtol=0, atol=1e-8)


@pytest.mark.parametrize("stage", STAGES)
def test_network_gives_the_committed_numbers(hf_model: EventGPTForConditionalGeneration, stage: str) -> None:
    # Llama's norms and rotary angles, and eager attention's softmax, are float32 whatever the weights are.
    np.testing.assert_allclose(network_stages(hf_model)[stage], STAGES[stage], rtol=0, atol=1e-5)
