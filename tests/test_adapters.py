"""What each model is shown, and that a model's stages refuse what is not theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CompileConfig, DynamicCache, GenerationConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.core.artifacts import Features, Media
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import DEFAULT_MODELS, ModelSettings
from stagebench.models import llava
from stagebench.models.llava import Llava
from stagebench.models.pixels import processor_of
from stagebench.models.registry import build_model
from stagebench.models.tape import taped
from stagebench.models.video_llava import VideoLlava
from stagebench.pipeline.decode import advance, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.run_stages import detokenize

SETTINGS = ModelSettings()
OPTIONS = {"max_new_tokens": 6, "do_sample": False}
VISUAL_TOKENS = {"eventgpt": 5 + 577, "llava-1.5": 576, "video-llava": 8 * 257}


def plain_images(count, height=48, width=64):
    """Images of one grey each, all different."""
    return tuple(np.full((height, width, 3), 20 + 25 * i, dtype=np.uint8) for i in range(count))


def media_for(model, seed=0):
    generator = np.random.default_rng(seed)
    images = tuple(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(model.images_per_sample))
    return Media(images, "frames", model.images_per_sample, 0, None)


@pytest.fixture(scope="module", params=sorted(DEFAULT_MODELS))
def model(request, tiny_model):
    return tiny_model(request.param)


def test_a_prompt_has_one_placeholder_a_visual_token(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    features = encode(model, inputs)
    assert features.tokens.shape == (1, VISUAL_TOKENS[model.name], 64)


@pytest.mark.parametrize(("name", "prompt"), [(Llava.name, Llava.prompt), (VideoLlava.name, VideoLlava.prompt)])
def test_a_prompt_is_tokenised_as_if_the_mark_stood_there_for_each_visual_token(name, prompt, tiny_model):
    model = tiny_model(name)
    mark = model.placeholder_tokens[-1]
    written_out = prompt.replace(mark, mark * VISUAL_TOKENS[name]).format(question="What moves?")
    inputs = preprocess(model, media_for(model), "What moves?")
    assert torch.equal(model.tokenizer(written_out, return_tensors="pt")["input_ids"], inputs.input_ids)
    assert torch.equal(model.tokenizer(written_out, return_tensors="pt")["attention_mask"], inputs.attention_mask)


def test_other_images_give_other_tokens(model):
    texts = []
    for seed in (0, 1):
        inputs = preprocess(model, media_for(model, seed), "What moves?")
        prefilled = prefill(model, inputs, encode(model, inputs), OPTIONS)
        texts.append(decode(model, prefilled).token_ids)
    assert texts[0] != texts[1]


def test_the_pixels_are_not_encoded_again_in_prefill(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    features = encode(model, inputs)
    blind = replace(inputs, given={name: tensor * torch.nan for name, tensor in inputs.given.items()})
    seen, unseen = (decode(model, prefill(model, i, features, OPTIONS)) for i in (inputs, blind))
    assert seen.token_ids == unseen.token_ids


@pytest.fixture(scope="module")
def asked(model):
    """Inputs and features of two samples."""
    inputs = [preprocess(model, media_for(model, seed), f"What moves, {seed}?") for seed in (0, 1)]
    return [(each, encode(model, each)) for each in inputs]


def first_logits(model, inputs, features):
    """The logits of the first token, as a processor sees them."""
    seen = []
    prefill(model, inputs, features, OPTIONS | {"logits_processor": [lambda _, scores: seen.append(scores) or scores]})
    return seen[0]


def test_two_samples_in_flight_do_not_disturb_each_other(model, asked):
    alone = [decode(model, prefill(model, *each, OPTIONS)).token_ids for each in asked]
    prefilled = [prefill(model, *each, OPTIONS) for each in asked]
    halfway = [advance(model, each, 2) for each in reversed(prefilled)]
    assert alone == [decode(model, each).token_ids for each in reversed(halfway)]


def test_a_swapped_tape_is_another_prompt(model, asked):
    (inputs, features), (_, other) = asked
    swapped = replace(features, tape=other.tape)
    assert not torch.equal(first_logits(model, inputs, features), first_logits(model, inputs, swapped))


def test_a_scrambled_tape_is_another_prompt(model, asked):
    (inputs, features), _ = asked
    scrambled = replace(features, tape=(taped(features.tape[0].encoder, features.tokens.flip(1)),))
    assert not torch.equal(first_logits(model, inputs, features), first_logits(model, inputs, scrambled))


def test_features_that_were_written_to_are_refused(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    features = encode(model, inputs)
    features.tokens.zero_()
    with pytest.raises(StageError, match=f"^the output of the encoder of {model.name} was overwritten after encode$"):
        prefill(model, inputs, features, OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tape: (), "a tape must hold at least one encoder's output, got none"),
        (lambda tape: tape * 2, "prefill must use all outputs of encode, got no call of the encoder of NAME"),
        (lambda tape: (taped("another", 0), *tape), "prefill must call the encoders that encode called, another, got"),
    ],
    ids=["empty", "too long", "of another encoder"],
)
def test_a_tape_that_is_not_what_encode_made_is_refused(model, asked, change, message):
    (inputs, features), _ = asked
    with pytest.raises(StageError, match=f"^{message.replace('NAME', model.name)}"):
        prefill(model, inputs, replace(features, tape=change(features.tape)), OPTIONS)


@torch.inference_mode()
def test_what_was_encoded_in_inference_mode_can_be_prefilled(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    assert prefill(model, inputs, encode(model, inputs), OPTIONS).sequences.shape[1] == inputs.input_ids.shape[1] + 1


@pytest.mark.parametrize("option", [{"encoder_repetition_penalty": 1e3}, {"encoder_no_repeat_ngram_size": 1}])
def test_options_about_the_words_of_the_prompt_are_those_of_generate(model, asked, option):
    (inputs, features), _ = asked
    options = OPTIONS | option
    expected = model.hf_model.generate(**model.reference_inputs(inputs), **options)[0, inputs.input_ids.shape[1] :]
    actual = decode(model, prefill(model, inputs, features, options)).token_ids[0]
    from_prompt = [token in inputs.input_ids[0].tolist() for token in actual]
    assert (tuple(expected.tolist()), set(from_prompt)) == (actual, {"encoder_repetition_penalty" in option})


def test_pixels_of_another_shape_are_refused(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    flat = replace(inputs, given={name: tensor[0] for name, tensor in inputs.given.items()})
    with pytest.raises(
        StageError, match=rf"{model.pixels_argument} must be \(batch 1, images, 3, height, width\), got"
    ):
        encode(model, flat)


def test_a_prefilled_is_good_for_one_decode(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    prefilled = prefill(model, inputs, encode(model, inputs), OPTIONS)
    decode(model, prefilled)
    with pytest.raises(StageError, match="a Prefilled serves one decode"):
        decode(model, prefilled)


def test_one_new_token_takes_no_decode_step(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    generation = decode(model, prefill(model, inputs, encode(model, inputs), {"max_new_tokens": 1}))
    assert (len(generation.token_ids[0]), generation.steps, generation.finish_reasons) == (1, 0, ("length",))


def test_text_is_the_new_tokens(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    generation = decode(model, prefill(model, inputs, encode(model, inputs), OPTIONS))
    text = detokenize(model, generation)
    assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == list(generation.token_ids[0])


def test_another_number_of_images_is_refused(model):
    media = Media(plain_images(3), "frames", 3, 0, None)
    with pytest.raises(StageError, match=f"{model.name} takes {model.images_per_sample} images, got 3"):
        preprocess(model, media, "What moves?")


def test_a_blank_question_is_refused(model):
    with pytest.raises(StageError, match="the question must not be blank, got ' '"):
        preprocess(model, media_for(model), " ")


def test_a_question_with_half_a_surrogate_pair_is_refused(model):
    with pytest.raises(StageError) as caught:
        preprocess(model, media_for(model), "What is \ud800?")
    assert str(caught.value) == r"the question must be Unicode text, got 'What is \ud800?'"


@pytest.mark.parametrize("token", ["<s>", "</s>", "<unk>", "<pad>"])
def test_a_question_with_a_special_token_of_the_tokenizer_is_refused(model, token):
    with pytest.raises(StageError) as caught:
        preprocess(model, media_for(model), f"What is {token}?")
    expected = f"the question must not hold {model.name}'s special tokens {token}, got 'What is {token}?'"
    assert expected == str(caught.value)


MARKS = {
    "eventgpt": ["<event>", "<ev_start>", "<ev_end>", "<ev_patch>"],
    "llava-1.5": ["<image>"],
    "video-llava": ["<image>", "<video>"],
}


@pytest.mark.parametrize(("name", "mark"), [(name, mark) for name, marks in MARKS.items() for mark in marks])
def test_a_question_with_a_mark_of_the_model_is_refused(name, mark, tiny_model):
    adapter = tiny_model(name)
    with pytest.raises(StageError) as caught:
        preprocess(adapter, media_for(adapter), f"What is an{mark}?")
    assert f"the question must not hold {name}'s special tokens {mark}, got 'What is an{mark}?'" == str(caught.value)


def test_all_special_tokens_of_a_question_are_named(model):
    with pytest.raises(StageError, match="special tokens </s>, <s>, got '<s> and </s>'"):
        preprocess(model, media_for(model), "<s> and </s>")


def test_braces_and_angle_brackets_of_a_question_are_text(model):
    question = "{question} {0} <b>a</b> <0x0A>"
    ids = preprocess(model, media_for(model), question).input_ids[0].tolist()
    asked = model.tokenizer(question, add_special_tokens=False)["input_ids"]
    assert asked in [ids[i : i + len(asked)] for i in range(len(ids))]


def test_each_model_names_its_own_kind_of_media(tiny_model):
    expected = {"eventgpt": "events", "llava-1.5": "video", "video-llava": "video"}
    assert expected == {name: tiny_model(name).input_kind for name in DEFAULT_MODELS}


def test_features_of_another_length_are_refused(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    features = encode(model, inputs)
    n = VISUAL_TOKENS[model.name]
    with pytest.raises(StageError, match=f"one placeholder for each of {n - 1} visual tokens, got {n}"):
        prefill(model, inputs, Features(features.tokens[:, 1:]), OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "only greedy search and sampling can be split into stages, got beam_search"),
        ({"assistant_early_exit": 1}, "only greedy search and sampling can be split into stages, got assisted_generat"),
        ({"prompt_lookup_num_tokens": 3}, "only greedy search and sampling can be split into stages, got assisted_gen"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "only greedy .* got contrastive_search"),
        ({"dola_layers": "high"}, "only greedy .* got dola_generation"),
        ({"force_words_ids": [[5]]}, "only greedy .* got constrained_beam_search"),
        ({"use_cache": False}, "^use_cache can't be split, got False: decode continues from the KV cache$"),
        ({"generation_config": GenerationConfig(use_cache=False)}, "^use_cache can't be split, got False: "),
        ({"generation_config": GenerationConfig(stop_strings="a")}, "^stop_strings can't be split, got 'a': "),
        ({"token_healing": True}, "^token_healing can't be split, got True: it rewrites the prompt"),
        ({"generation_config": GenerationConfig(token_healing=True)}, "^token_healing can't be split, got True: "),
        ({"cache_implementation": "paged"}, "^cache_implementation can't be split, got 'paged': it must be one of dyn"),
        ({"cache_implementation": "offloaded"}, "^cache_implementation can't be split, got 'offloaded': "),
        ({"cache_implementation": "quantized"}, "^cache_implementation can't be split, got 'quantized': "),
        ({"compile_config": CompileConfig()}, "^compile_config can't be split, got a CompileConfig: "),
        ({"max_time": 1.0}, "^max_time can't be split, got 1.0: it ends a text by time$"),
        ({"is_assistant": True}, "^is_assistant can't be split, got True: "),
        *(
            ({name: value}, f"^{name} can't be split: the stages take only options of generation")
            for name, value in {
                "inputs": torch.zeros(1, 3),
                "input_ids": torch.zeros(1, 3),
                "inputs_embeds": torch.zeros(1, 3, 64),
                "attention_mask": torch.ones(1, 3),
                "position_ids": torch.zeros(1, 3),
                "pixel_values": torch.zeros(1, 3, 8, 8),
                "past_key_values": DynamicCache(),
                "decoder_input_ids": torch.zeros(1, 3),
                "encoder_outputs": "any",
                "negative_prompt_ids": torch.zeros(1, 3),
                "negative_prompt_attention_mask": torch.ones(1, 3),
                "logits_to_keep": 3,
                "custom_generate": print,
                "assistant_model": "any",
                "assistant_tokenizer": "any",
                "streamer": "any",
                "synced_gpus": True,
                "trust_remote_code": True,
                "use_model_defaults": True,
                "any": 1,
            }.items()
        ),
        ({"return_dict_in_generate": True}, "got return_dict_in_generate=True"),
        ({"max_new_tokens": 5000}, "must fit the model's 4096 positions, got"),
    ],
)
def test_what_cannot_be_split_is_refused(model, options, message):
    inputs = preprocess(model, media_for(model), "What moves?")
    with pytest.raises(StageError, match=message):
        prefill(model, inputs, encode(model, inputs), OPTIONS | options)


@pytest.mark.parametrize("options", [{"max_length": 5}, {"min_length": 6, "eos_token_id": list(range(4, 400))}])
def test_lengths_count_the_prompt_as_in_generate(model, options):
    inputs = preprocess(model, media_for(model), "What moves?")
    prompt = inputs.input_ids.shape[1]
    lengths = {name: prompt + value for name, value in options.items() if name.endswith("length")}
    options = {"do_sample": False, "max_new_tokens": None if "max_length" in options else 9} | options | lengths
    expected = model.hf_model.generate(**model.reference_inputs(inputs), **options)[0, prompt:]
    actual = decode(model, prefill(model, inputs, encode(model, inputs), options))
    assert tuple(expected.tolist()) == actual.token_ids[0]


def test_what_is_off_of_generate_is_no_option(model):
    inputs = preprocess(model, media_for(model), "What moves?")
    off = {"streamer": None, "assistant_model": None, "custom_generate": None, "synced_gpus": False}
    features = encode(model, inputs)
    first, second = (decode(model, prefill(model, inputs, features, OPTIONS | more)) for more in ({}, off))
    assert first.token_ids == second.token_ids


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, second = (build_model("llava-1.5", SETTINGS).hf_model.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_grid_shows_all_eight_images_to_the_model(tiny_model):
    """A plain centre crop would show the middle 3/8 of it."""
    adapter = tiny_model("llava-1.5")
    pixels = preprocess(adapter, Media(plain_images(8), "frames", 8, 0, None), "What moves?").pixels[0][0, 0, 0]
    reference = adapter.image_processor.reference
    mean, std = reference.image_mean[0], reference.image_std[0]
    seen = {round(value) for value in ((pixels * std + mean) * 255).flatten().tolist()}
    assert seen >= {20 + 25 * i for i in range(8)}


@pytest.fixture(params=["pil", "torch"])
def processor(request):
    """Either way of preprocessing, with a mean colour of (1, 2, 3)."""
    mean = [1.2 / 255, 2.2 / 255, 3.2 / 255]
    return processor_of(CLIPImageProcessorPil(image_mean=mean), ModelSettings(preprocess=request.param))


def test_the_grid_reads_row_by_row(processor):
    picture = llava.grid(plain_images(8), 336, processor)
    # Cells of 84 x 63 pixels; two rows of them in the middle of the square.
    greys = [int(picture[105 + 63 * (0 if i < 4 else 1) + 31, 84 * (i % 4) + 42, 0]) for i in range(8)]
    assert greys == [20 + 25 * i for i in range(8)]


def test_the_grid_keeps_the_proportions_of_a_cell_and_pads_with_the_mean_colour(processor):
    picture = llava.grid(plain_images(8, 36, 128), 336, processor)
    rows = [tuple(pixel) for pixel in picture[:, 168].tolist()]
    assert rows.count((1, 2, 3)) == 336 - 2 * 24


@pytest.mark.parametrize("name", sorted(DEFAULT_MODELS))
def test_both_ways_of_preprocessing_give_the_model_nearly_the_same(name):
    pil, plain = (build_model(name, ModelSettings(preprocess=way)) for way in ("pil", "torch"))
    expected, actual = (preprocess(model, media_for(model), "What moves?") for model in (pil, plain))
    assert torch.equal(expected.input_ids, actual.input_ids)
    std = torch.tensor(pil.image_processor.reference.image_std)[:, None, None]
    steps = (expected.pixels[0] - actual.pixels[0]) * std * 255
    assert float(steps.abs().max()) <= 2 + 1e-3
    assert type(pil.image_processor) is not type(plain.image_processor)


def test_video_llava_sees_the_frames_in_order(tiny_model):
    adapter = tiny_model("video-llava")
    pixels = preprocess(adapter, Media(plain_images(8), "frames", 8, 0, None), "What moves?").pixels[0]
    means = pixels.mean(dim=(0, 2, 3, 4))
    assert torch.equal(means, means.sort().values)


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelError, match=r"a model must be one of eventgpt, llava-1.5, .* or hf:FOLDER, got gpt-9"):
        build_model("gpt-9", SETTINGS)
