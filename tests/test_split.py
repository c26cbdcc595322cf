"""The split is `generate()`, token for token: over models, tiny architectures and batches that Hypothesis draws."""

import torch
from hypothesis import event, given
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, VideoLlavaConfig

from stagebench.models import eventgpt, llava, video_llava
from stagebench.stages.decode import decode
from stagebench.stages.encode import encode
from stagebench.stages.prefill import prefill
from stagebench.types import Inputs, ModelSettings

VOCABULARY = 128
FIRST_WORD = 4  # after <unk>, <s>, </s>, <pad>
LAST_WORD = 120  # before the added tokens of any family
PAD = 3


@st.composite
def text_shapes(draw):
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": draw(st.sampled_from([16, 48])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
        "max_position_embeddings": 256,
        "initializer_range": draw(st.sampled_from([0.2, 0.5, 1.0])),
        "pad_token_id": PAD,
    }


@st.composite
def vision_shapes(draw):
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": draw(st.integers(1, 3)) + 1,
        "num_attention_heads": draw(st.sampled_from([1, 2])),
        "image_size": draw(st.sampled_from([14, 28])),
        "patch_size": 14,
        "initializer_range": 0.3,
    }


def build_eventgpt(text, vision, model_settings):
    config = eventgpt.EventGPTConfig(**text, vision_config=vision, mm_use_im_start_end=True, event_feature_adaptor=True)
    return eventgpt.build_from_config(config, model_settings)


def build_llava(text, vision, model_settings):
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**text), image_token_id=VOCABULARY - 1
    )
    return llava.build_from_config(config, model_settings)


def build_video_llava(text, vision, model_settings):
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_id=VOCABULARY - 2,
        video_token_id=VOCABULARY - 1,
    )
    return video_llava.build_from_config(config, model_settings)


# Family: how it is built, its placeholder id, its images a sample as the tower sees them, its visual tokens.
FAMILIES = {
    "eventgpt": (build_eventgpt, VOCABULARY - 3, 5, lambda patches: 5 + patches + 1),
    "llava-1.5": (build_llava, VOCABULARY - 1, 1, lambda patches: patches),
    "video-llava": (build_video_llava, VOCABULARY - 1, 8, lambda patches: 8 * (patches + 1)),
}


@st.composite
def models_and_inputs(draw):
    """A random tiny model, and a left-padded batch for it."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    build, placeholder, images, visual_tokens = FAMILIES[family]
    vision = draw(vision_shapes())
    attention = draw(st.sampled_from(["eager", "sdpa"]))
    seed = draw(st.integers(0, 2**16))
    model = build(draw(text_shapes()), vision, ModelSettings(attention=attention, seed=seed))
    words = st.lists(st.integers(FIRST_WORD, LAST_WORD), min_size=1, max_size=6)
    visual = [placeholder] * visual_tokens((vision["image_size"] // vision["patch_size"]) ** 2)
    rows = [[1, *draw(words), *visual, *draw(words)] for _ in range(draw(st.integers(1, 4)))]
    width = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(rows), images, 3, vision["image_size"], vision["image_size"], generator=generator)
    event(f"family: {family}")
    event(f"batch: {len(rows)}, padded: {bool((mask == 0).any())}")
    return model, Inputs(input_ids, mask, pixels)


@st.composite
def stop_tokens(draw):
    """One EOS id, or so many that a text of a few tokens often meets one."""
    many = st.lists(st.integers(FIRST_WORD, LAST_WORD), min_size=8, max_size=24, unique=True)
    return draw(st.one_of(st.just([2]), many))


def reference(model, inputs, options, seed):
    """What plain `generate()` gives: rows cut after their first stop token, and why each ended."""
    torch.manual_seed(seed)
    sequences = model.network.generate(**model.reference_inputs(inputs), **options)
    rows = sequences[:, inputs.input_ids.shape[1] :].tolist()
    stops = options["eos_token_id"]
    ends = [next((i + 1 for i, token in enumerate(row) if token in stops), None) for row in rows]
    tokens = tuple(tuple(row[:end]) for row, end in zip(rows, ends, strict=True))
    return tokens, tuple("length" if end is None else "stop" for end in ends)


def split(model, inputs, options, seed):
    """The same through the stages."""
    torch.manual_seed(seed)
    generation = decode(model, prefill(model, inputs, encode(model, inputs), options))
    return generation.token_ids, generation.finish_reasons


@given(models_and_inputs(), stop_tokens(), st.integers(1, 12))
def test_the_split_equals_generate_greedily(model_and_inputs, eos, new_tokens):
    model, inputs = model_and_inputs
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": eos, "pad_token_id": PAD}
    expected = reference(model, inputs, options, seed=0)
    event(f"some row stopped early: {any(len(row) < new_tokens for row in expected[0])}")
    assert split(model, inputs, options, seed=0) == expected
