"""The split is `generate()`, token for token, over the models, batches and options that Hypothesis draws."""

import os
import random
import re
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    VideoLlavaConfig,
    WatermarkingConfig,
)

from stagebench.backends.graph import GraphBackend, Recipe
from stagebench.core.artifacts import Features, Inputs
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import random_model
from stagebench.models.eventgpt import EventGPT
from stagebench.models.llava import Llava
from stagebench.models.modeling_eventgpt import EventGPTConfig
from stagebench.models.video_llava import VideoLlava
from stagebench.pipeline.decode import advance, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill

MODELS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 48  # all tests and examples share them
VOCABULARY = 128
FIRST_WORD = 4  # after <unk>, <s>, </s>, <pad>
LAST_WORD = 120  # before the added tokens of any family
PAD = 3
WORDS = st.integers(FIRST_WORD, LAST_WORD)


def text_sizes(choose):
    heads = choose([1, 2, 4])
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": choose([16, 48]),
        "num_hidden_layers": choose([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": choose([n for n in (1, 2, 4) if heads % n == 0]),
        "max_position_embeddings": 256,
        "initializer_range": choose([0.2, 0.5, 1.0]),
        "pad_token_id": PAD,
    }


def vision_sizes(choose):
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": choose([2, 3, 4]),
        "num_attention_heads": choose([1, 2]),
        "image_size": choose([14, 28]),
        "patch_size": 14,
        "initializer_range": 0.3,
    }


def build_eventgpt(text, vision, model_settings):
    config = EventGPTConfig(**text, vision_config=vision, mm_use_im_start_end=True, event_feature_adaptor=True)
    return random_model(EventGPT, config, model_settings)


def build_llava(text, vision, model_settings):
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**text), image_token_id=VOCABULARY - 1
    )
    return random_model(Llava, config, model_settings)


def build_video_llava(text, vision, model_settings):
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_id=VOCABULARY - 2,
        video_token_id=VOCABULARY - 1,
    )
    return random_model(VideoLlava, config, model_settings)


# Family: how it is built, its placeholder id, the visual tokens of so many images of so many patches.
FAMILIES = {
    "eventgpt": (build_eventgpt, VOCABULARY - 3, lambda images, patches: images + patches + 1),
    "llava-1.5": (build_llava, VOCABULARY - 1, lambda images, patches: images * patches),
    "video-llava": (build_video_llava, VOCABULARY - 1, lambda images, patches: images * (patches + 1)),
}


@lru_cache(maxsize=MODELS)
def random_tiny_model(number):
    """A model of any family, of any sizes and weights, and its side in pixels: all that the number says."""
    choose = random.Random(number).choice
    vision, attention = vision_sizes(choose), choose(["eager", "sdpa"])
    build = FAMILIES[sorted(FAMILIES)[number % 3]][0]
    return build(text_sizes(choose), vision, ModelSettings(attention=attention, seed=number)), attention, vision


@st.composite
def models_and_inputs(draw, max_batch=4):
    """A random tiny model, and a left-padded batch for it, one or several images a row."""
    model, attention, vision = random_tiny_model(draw(st.integers(0, MODELS - 1)))
    family, (_, placeholder, visual_tokens) = model.name, FAMILIES[model.name]
    images = draw(st.integers(1, 4))
    visual = [placeholder] * visual_tokens(images, (vision["image_size"] // vision["patch_size"]) ** 2)
    texts = st.lists(WORDS, min_size=1, max_size=6)
    rows = [[1, *draw(texts), *visual, *draw(texts)] for _ in range(draw(st.integers(1, max_batch)))]
    width = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    pixels = torch.randn(len(rows), images, 3, vision["image_size"], vision["image_size"], generator=generator)
    event(f"family: {family}")
    event(f"attention: {attention}")
    event(f"batch of {len(rows)}{', padded' if (mask == 0).any() else ''}")
    event("several images" if images > 1 else "one image")
    return model, Inputs(input_ids, mask, {model.pixels_argument: pixels}, images=len(rows) * images)


@st.composite
def lengths_and_stops(draw):
    """A limit, and one EOS id or so many that a text of a few tokens often meets one."""
    many = st.lists(WORDS, min_size=8, max_size=40, unique=True)
    return {
        "max_new_tokens": draw(st.integers(1, 12)),
        "eos_token_id": draw(st.one_of(st.just([2]), many, many)),
        "pad_token_id": PAD,
    }


@st.composite
def sampling(draw):
    """Greedy, or sampling in the ways of `generate()`."""
    if draw(st.booleans()):
        event("greedy")
        return {"do_sample": False}
    event("sampling")
    choices = {
        "temperature": st.sampled_from([0.3, 1.0, 2.0]),
        "top_k": st.sampled_from([1, 5, 50]),
        "top_p": st.sampled_from([0.2, 0.9]),
        "min_p": st.sampled_from([0.01, 0.3]),
        "top_h": st.sampled_from([0.2, 0.9]),
        "typical_p": st.sampled_from([0.2, 0.9]),
        "epsilon_cutoff": st.sampled_from([0.001, 0.1]),
        "eta_cutoff": st.sampled_from([0.001, 0.1]),
    }
    names = draw(st.sets(st.sampled_from(sorted(choices))))
    return {"do_sample": True, "top_k": 0} | {name: draw(choices[name]) for name in sorted(names)}


def some_words(share):
    """Allows all words but one in `share`, another part of them after each token."""
    return lambda row, ids: [w for w in range(FIRST_WORD, LAST_WORD + 1) if w % share != int(ids[-1]) % share]


@st.composite
def processors(draw):
    """Some of the options that change scores."""
    choices = {
        "repetition_penalty": st.sampled_from([0.5, 1.3, 3.0]),
        "no_repeat_ngram_size": st.integers(1, 3),
        "encoder_repetition_penalty": st.sampled_from([0.5, 1.3, 3.0]),
        "encoder_no_repeat_ngram_size": st.integers(1, 3),
        "min_new_tokens": st.integers(1, 12),
        "suppress_tokens": st.lists(WORDS, min_size=1, max_size=20),
        "bad_words_ids": st.lists(st.lists(WORDS, min_size=1, max_size=2), min_size=1, max_size=5),
        "sequence_bias": st.lists(
            st.tuples(st.lists(WORDS, min_size=1, max_size=2), st.sampled_from([-9.0, 9.0])).map(list),
            min_size=1,
            max_size=5,
            unique_by=lambda pair: tuple(pair[0]),
        ),
        "exponential_decay_length_penalty": st.tuples(st.integers(0, 6), st.sampled_from([1.1, 2.0])),
        "begin_suppress_tokens": st.lists(WORDS, min_size=1, max_size=20),
        "forced_eos_token_id": st.integers(LAST_WORD + 1, VOCABULARY - 4),  # none that another option forbids
        "renormalize_logits": st.just(True),
        "remove_invalid_values": st.just(True),
        "guidance_scale": st.sampled_from([0.5, 2.0]),
        "watermarking_config": st.builds(WatermarkingConfig, bias=st.just(4.0)),
        "prefix_allowed_tokens_fn": st.integers(2, 5).map(some_words),
    }
    names = draw(st.sets(st.sampled_from(sorted(choices)), max_size=3))
    for name in sorted(names):
        event(f"option: {name}")
    return {name: draw(choices[name]) for name in sorted(names)}


@st.composite
def caches(draw):
    implementation = draw(st.sampled_from([{}, {"cache_implementation": "static", "disable_compile": True}]))
    event(f"cache: {implementation.get('cache_implementation', 'dynamic')}")
    return implementation


class TokenCriterion(StoppingCriteria):
    """A criterion of the user's own: stop a row at a given token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


@st.composite
def criteria(draw, model):
    """Stop strings and a criterion of the user's own, made twice because they may have state."""
    token, word = draw(WORDS), draw(WORDS)
    kind = draw(st.sampled_from(["none", "none", "own", "stop string"]))
    event(f"criteria: {kind}")

    def make():
        if kind == "none":
            return StoppingCriteriaList()
        if kind == "own":
            return StoppingCriteriaList([TokenCriterion(token)])
        return StoppingCriteriaList([StopStringCriteria(model.tokenizer, [model.tokenizer.decode([word])])])

    return make


def reference(model, inputs, options, make_criteria=StoppingCriteriaList):
    """What plain `generate()` gives: padded rows."""
    torch.manual_seed(0)
    options = options | {"stopping_criteria": make_criteria()}
    sequences = model.hf_model.generate(**model.reference_inputs(inputs), **options)
    return sequences[:, inputs.input_ids.shape[1] :].tolist()


def split(model, inputs, options, make_criteria=StoppingCriteriaList):
    """The same through the stages: a `Generation`."""
    torch.manual_seed(0)
    options = options | {"stopping_criteria": make_criteria()}
    return decode(model, prefill(model, inputs, encode(model, inputs), options))


def padded(generation):
    width = max(map(len, generation.token_ids))
    return [[*row, *[PAD] * (width - len(row))] for row in generation.token_ids]


def ends(rows, options, criteria):
    """Length and finish reason of each row, worked out afresh from `generate()`'s padded rows."""
    result = []
    for row in rows:
        stops = (i + 1 for i in range(len(row)) if row[i] in options["eos_token_id"] or _meets(criteria, row[: i + 1]))
        stop = next(stops, None)
        result.append((stop or len(row), "stop" if stop else "length"))
    return result


def _meets(criteria, tokens):
    return any(bool(criterion(torch.tensor([tokens]), None)) for criterion in criteria)


def note_stops(rows, options):
    stopped = len(rows[0]) < options["max_new_tokens"] or any(PAD in row for row in rows)
    event(f"some row stopped before the limit: {stopped}")


def require_same_end(model, plain, inputs, options, make_criteria):
    """Require the tokens, lengths and reasons of `generate()`, or its error: some options make scores of no numbers."""
    try:
        expected = reference(plain, inputs, options, make_criteria)
    except (ValueError, RuntimeError) as error:
        event("generate() fails")
        with pytest.raises(type(error), match=re.escape(str(error)[:40])):
            split(model, inputs, options, make_criteria)
        return
    note_stops(expected, options)
    generation = split(model, inputs, options, make_criteria)
    assert expected == padded(generation)
    expected_ends = ends(expected, options, make_criteria())
    assert expected_ends == list(zip(map(len, generation.token_ids), generation.finish_reasons, strict=True))


@given(models_and_inputs(), lengths_and_stops())
def test_the_split_equals_generate_greedily(model_and_inputs, stops):
    model, inputs = model_and_inputs
    options = stops | {"do_sample": False}
    expected = reference(model, inputs, options)
    note_stops(expected, options)
    assert expected == padded(split(model, inputs, options))


@given(models_and_inputs(), lengths_and_stops(), sampling(), processors(), caches(), st.data())
def test_the_split_equals_generate_under_every_option(model_and_inputs, stops, sample, processor, cache, data):
    model, inputs = model_and_inputs
    options = stops | sample | processor | cache
    options["min_new_tokens"] = min(options.get("min_new_tokens", 0), options["max_new_tokens"])
    make_criteria = data.draw(criteria(model))
    require_same_end(model, model, inputs, options, make_criteria)


@given(models_and_inputs(), lengths_and_stops(), caches())
def test_features_encoded_once_serve_two_decodes(model_and_inputs, stops, cache):
    model, inputs = model_and_inputs
    options = stops | cache | {"do_sample": False}
    features = encode(model, inputs)
    first, second = (decode(model, prefill(model, inputs, features, options)) for _ in range(2))
    assert (first.token_ids, first.finish_reasons) == (second.token_ids, second.finish_reasons)


@given(models_and_inputs(), lengths_and_stops(), caches(), processors(), st.integers(0, 12))
def test_some_steps_and_then_the_rest_are_all_steps(model_and_inputs, stops, cache, processor, steps):
    model, inputs = model_and_inputs
    options = stops | cache | processor | {"do_sample": False}
    options["min_new_tokens"] = min(options.get("min_new_tokens", 0), options["max_new_tokens"])
    features = encode(model, inputs)
    whole = decode(model, prefill(model, inputs, features, options))
    halfway = advance(model, prefill(model, inputs, features, options), steps)
    rest = decode(model, halfway)
    assert (whole.token_ids, whole.finish_reasons, whole.steps) == (rest.token_ids, rest.finish_reasons, rest.steps)


@given(models_and_inputs(), lengths_and_stops(), st.integers(1, 20))
def test_prefill_in_chunks_equals_prefill_at_once(model_and_inputs, stops, size):
    model, inputs = model_and_inputs
    options = stops | {"do_sample": False}
    whole = split(model, inputs, options)
    chunked = split(model, inputs, options | {"prefill_chunk_size": size})
    assert whole.token_ids == chunked.token_ids


@given(models_and_inputs(), lengths_and_stops())
def test_features_moved_to_the_host_and_back_change_nothing(model_and_inputs, stops):
    model, inputs = model_and_inputs
    options = stops | {"do_sample": False}
    features = encode(model, inputs)
    moved = Features(torch.from_numpy(features.tokens.cpu().numpy().copy()).to(features.tokens.device))
    stayed, returned = (decode(model, prefill(model, inputs, f, options)) for f in (features, moved))
    assert stayed.token_ids == returned.token_ids


@given(models_and_inputs(max_batch=3), lengths_and_stops())
def test_a_row_of_a_padded_batch_is_the_row_alone(model_and_inputs, stops):
    model, inputs = model_and_inputs
    options = stops | {"do_sample": False}
    together = split(model, inputs, options).token_ids
    alone = []
    for i, mask in enumerate(inputs.attention_mask.bool()):
        pixels = {name: tensor[i : i + 1] for name, tensor in inputs.given.items()}
        images = inputs.images // len(inputs.input_ids)
        row = Inputs(inputs.input_ids[i : i + 1, mask], inputs.attention_mask[i : i + 1, mask], pixels, images)
        alone.extend(split(model, row, options).token_ids)
    assert together == tuple(alone)


@st.composite
def unpadded(draw):
    """A model with a static backend, the plain one, and a batch of one prompt with different images."""
    plain, inputs = draw(models_and_inputs(max_batch=1))
    rows = draw(st.integers(1, 3))
    ids, mask = inputs.input_ids.repeat(rows, 1), inputs.attention_mask.repeat(rows, 1)
    # What a CPU has no graphs for is called there, and is asked for by nobody but tests.
    fast = replace(plain, backend=GraphBackend(plain, "graph", None, Recipe(bucket=draw(st.sampled_from([1, 16])))))
    pixels = torch.cat([inputs.pixels[0] * (i + 1) for i in range(rows)])
    return fast, plain, Inputs(ids, mask, {plain.pixels_argument: pixels}, rows * inputs.images)


@given(unpadded(), lengths_and_stops(), sampling(), processors(), st.data())
def test_a_static_backend_equals_generate_under_every_option(models_and_inputs, stops, sample, processor, data):
    fast, plain, inputs = models_and_inputs
    options = stops | sample | processor
    options["min_new_tokens"] = min(options.get("min_new_tokens", 0), options["max_new_tokens"])
    make_criteria = data.draw(criteria(plain))
    require_same_end(fast, plain, inputs, options, make_criteria)


@given(unpadded(), lengths_and_stops(), st.integers(0, 12))
def test_some_steps_of_a_backend_and_then_the_rest_are_all_steps(models_and_inputs, stops, steps):
    fast, plain, inputs = models_and_inputs
    options = stops | {"do_sample": False}
    whole = split(plain, inputs, options)
    rest = decode(fast, advance(fast, prefill(fast, inputs, encode(fast, inputs), options), steps))
    assert (whole.token_ids, whole.finish_reasons, whole.steps) == (rest.token_ids, rest.finish_reasons, rest.steps)
