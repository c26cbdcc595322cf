"""EventGPT's checkpoints, prompt and `generate()`: what is read, what is refused, and in which words."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.errors import CheckpointError, ModelError, StageError
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import assemble, random_model
from stagebench.models.eventgpt import EventGPT
from stagebench.models.modeling_eventgpt import EventGPTConfig, EventGPTForConditionalGeneration, SlowLlamaTokenizer

TEXT = "USER: Describe in detail what happened in the scene. ASSISTANT: A chat, helpful and polite answers.\n" * 9
SIDE = 28
VISUAL_TOKENS = 5 + (SIDE // 14) ** 2 + 1


def small_config(**changes: Any) -> EventGPTConfig:
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        # Large enough that random weights write different tokens, not one over and over.
        "initializer_range": 0.2,
        "mm_use_im_start_end": True,
        "event_feature_adaptor": True,
        "vision_config": {**vision, "image_size": SIDE, "patch_size": 14},
    }
    return EventGPTConfig(**{**sizes, **changes})


def media(seed: int = 0, images: int = 5) -> Media:
    rng = np.random.default_rng(seed)
    shapes = [(20 + 3 * i, 30 - i, 3) for i in range(images)]
    return Media(tuple(rng.integers(0, 256, s, dtype=np.uint8) for s in shapes), "events", 0, 0, None)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> EventGPT:
    return random_model(EventGPT, small_config(), ModelSettings(attention=request.param))


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    """Llama's kind: pairs of bytes, byte fallback, and a normaliser that changes nothing."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=written,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    return written.getvalue()


def different(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> list[str]:
    """The keys whose tensors aren't equal bit for bit."""
    return [key for key, value in expected.items() if not torch.equal(value, actual[key])]


Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def checkpoint(tmp_path: Path, sentencepiece_model: bytes) -> Path:
    """A folder in the authors' layout, as their transformers 4 wrote it."""
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model)
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": true, "tokenizer_class": "LlamaTokenizer"}')
    vocab = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model).get_piece_size() + 3
    hf_model = EventGPTForConditionalGeneration._from_config(small_config(vocab_size=vocab))
    hf_model.save_pretrained(tmp_path)
    (tmp_path / "clip").mkdir()
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(size))

    def as_the_authors(config: dict[str, Any]) -> None:
        vision = config.pop("vision_config")
        (tmp_path / "clip" / "config.json").write_text(json.dumps(vision))
        config.update(mm_visual_tower="clip", torch_dtype=config.pop("dtype"), mm_use_im_patch_token=True)

    edit_config(tmp_path, as_the_authors)
    return tmp_path


def edit_config(folder: Path, edit: Edit) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, edit: Edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pretrained(folder: Path) -> EventGPT:
    return assemble(EventGPT, ModelSettings(profile="pretrained", weights=str(folder)))


def refusal(folder: Path) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(ModelError) as caught:
        pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"num_hidden_layers": 10**9},
        {"intermediate_size": 10**10},
        {"vocab_size": 10**10},
        {"hidden_size": 10**7},
    ],
)
def test_a_config_that_does_not_fit_itself_or_its_files_is_refused_at_once(
    checkpoint: Path, values: dict[str, int]
) -> None:
    edit_config(checkpoint, lambda config: config.update(values))
    assert build_refusal(checkpoint).startswith(f"the config of {checkpoint} ")


def test_pickled_weights_are_refused_unless_asked_for(checkpoint: Path) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    assert build_refusal(checkpoint).endswith("got only pytorch_model.bin: pickles are read with --pickled-weights")
    settings = ModelSettings(profile="pretrained", weights=str(checkpoint), pickled_weights=True)
    assert assemble(EventGPT, settings).hf_model.model.feature_adaptor is not None


def build_refusal(folder: Path) -> str:
    """The message in which `build` alone refuses, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Checkpoints


def test_a_checkpoint_of_the_authors_layout_is_read_whole(checkpoint: Path) -> None:
    expected = load_file(checkpoint / "model.safetensors")
    actual = pretrained(checkpoint).hf_model.state_dict()
    assert expected.keys() == actual.keys()
    assert not different(expected, actual)


def test_saved_and_read_again_the_weights_are_the_same(model: EventGPT, tmp_path: Path) -> None:
    model.hf_model.save_pretrained(tmp_path)
    expected = model.hf_model.state_dict()
    actual = EventGPTForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert expected.keys() == actual.keys() == load_file(tmp_path / "model.safetensors").keys()
    assert not different(expected, actual)


def test_saved_and_read_again_the_config_is_the_same(tmp_path: Path) -> None:
    config = small_config(event_token_id=7)
    config.save_pretrained(tmp_path)
    actual = EventGPTConfig.from_pretrained(tmp_path)
    assert config.to_diff_dict() == actual.to_diff_dict()
    assert config.vision_config.to_diff_dict() == actual.vision_config.to_diff_dict()


def test_a_missing_key_is_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.pop("model.feature_adaptor.bias"))
    assert refusal(checkpoint).endswith("got missing keys: model.feature_adaptor.bias")


def test_an_unexpected_key_is_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.update({"model.query_embedder.weight": torch.ones(2)}))
    assert refusal(checkpoint).endswith("got unexpected keys: model.query_embedder.weight")


def test_a_key_of_another_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.update({"model.norm.weight": torch.ones(9)}))
    assert refusal(checkpoint).endswith("got mismatched keys: model.norm.weight (9,) for (32,)")


def test_buffers_of_older_transformers_are_harmless(checkpoint: Path) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.visual_tower.visual_tower.vision_model.embeddings.position_ids": torch.arange(5).unsqueeze(0),
    }
    edit_weights(checkpoint, lambda weights: weights.update(buffers))
    assert set(buffers).isdisjoint(pretrained(checkpoint).hf_model.state_dict())


def test_a_missing_clip_folder_is_named(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(mm_visual_tower="no-clip"))
    assert refusal(checkpoint).endswith("must name an existing folder or a hub id, got 'no-clip'")


def test_the_clip_folder_may_be_absolute(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(mm_visual_tower=str(checkpoint / "clip")))
    expected = SIDE
    assert expected == EventGPTConfig.from_pretrained(checkpoint).vision_config.image_size


def test_a_clip_folder_without_a_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "clip" / "config.json").unlink()
    expected = f"the CLIP config of {checkpoint / 'clip'} must have model_type clip_vision_model or clip, got None"
    assert expected == refusal(checkpoint)


def test_a_clip_folder_without_an_image_processor_is_named(checkpoint: Path) -> None:
    (checkpoint / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="can't read the image processor of") as caught:
        pretrained(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_config_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert f"the config of {checkpoint} must have model_type EventChat_llama, got None" == refusal(checkpoint)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(model_type="llama"))
    assert f"the config of {checkpoint} must have model_type EventChat_llama, got llama" == refusal(checkpoint)


def test_a_missing_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="can't read the tokenizer of") as caught:
        pretrained(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_text("hello")
    assert build_refusal(checkpoint).startswith(f"can't read the tokenizer of {checkpoint}: ")


@pytest.mark.parametrize("content", ["{", '{"crop_size": "big"}'])
def test_a_damaged_image_processor_is_named(checkpoint: Path, content: str) -> None:
    (checkpoint / "clip" / "preprocessor_config.json").write_text(content)
    assert build_refusal(checkpoint).startswith(f"can't read the image processor of {checkpoint / 'clip'}: ")


def test_an_image_processor_of_another_size_is_refused(checkpoint: Path) -> None:
    size = {"size": {"shortest_edge": 14}, "crop_size": {"height": 14, "width": 14}}
    (checkpoint / "clip" / "preprocessor_config.json").write_text(json.dumps(size))
    expected = f"the image processor of {checkpoint / 'clip'} must give the tower's 28 x 28 pixels, got 14 x 14"
    assert expected == build_refusal(checkpoint)


def test_truncated_weights_are_refused(checkpoint: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert build_refusal(checkpoint).startswith(f"can't read the checkpoint {checkpoint}: SafetensorError: ")


def test_a_config_value_of_another_type_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(hidden_size="32"))
    assert build_refusal(checkpoint).startswith(f"can't read the config of {checkpoint}: ")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere must be a folder, in the hub's cache, or on a hub"):
        pretrained(tmp_path / "nowhere")


def test_the_query_former_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(use_event_qformer=True))
    assert refusal(checkpoint).startswith("use_event_qformer must be absent or false, got true")


def test_without_event_feature_adaptor_there_is_none(checkpoint: Path) -> None:
    def without_adaptor(weights: dict[str, Any]) -> None:
        del weights["model.feature_adaptor.weight"], weights["model.feature_adaptor.bias"]

    edit_config(checkpoint, lambda config: config.pop("event_feature_adaptor"))
    edit_weights(checkpoint, without_adaptor)
    assert pretrained(checkpoint).hf_model.model.feature_adaptor is None


def test_a_vocabulary_too_small_for_the_event_tokens_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(vocab_size=config["vocab_size"] - 1))
    with pytest.raises(CheckpointError, match=r"must embed all .* tokens of its tokenizer, got vocab_size"):
        pretrained(checkpoint)


def test_rows_of_no_token_are_cut_off_as_the_authors_do(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.pop("mm_use_im_start_end"))
    model = pretrained(checkpoint)
    assert len(model.tokenizer) == model.hf_model.get_output_embeddings().weight.shape[0]


# Prompt


@pytest.mark.parametrize(
    ("patch", "start_end", "expected"),
    [
        (True, True, ("<ev_patch>", "<ev_start>", "<ev_end>")),
        (True, False, ("<ev_patch>",)),
        (False, True, ("<ev_start>", "<ev_end>")),
        (False, False, ()),
    ],
)
def test_event_tokens_are_those_the_config_asks_for(
    checkpoint: Path, patch: bool, start_end: bool, expected: tuple[str, ...]
) -> None:
    config = small_config(mm_use_im_patch_token=patch, mm_use_im_start_end=start_end)
    tokenizer, _ = EventGPT.read_tokenizer(str(checkpoint), config)
    first = tokenizer.vocab_size
    assert {token: first + i for i, token in enumerate(expected)} == {
        token: i for token, i in tokenizer.get_added_vocab().items() if i >= first
    }


def test_without_a_patch_token_the_placeholder_is_unk() -> None:
    model = random_model(EventGPT, small_config(mm_use_im_patch_token=False), ModelSettings())
    inputs = model.preprocess(media(), "What?")
    expected = VISUAL_TOKENS
    assert expected == int((inputs.input_ids == model.tokenizer.unk_token_id).sum())


def test_the_placeholder_is_the_same_whether_or_not_a_tokenizer_named_it(model: EventGPT) -> None:
    assert model.tokenizer.convert_tokens_to_ids("<ev_patch>") == model.placeholder


def test_white_space_beside_an_event_token_is_the_sentencepiece_models_affair(checkpoint: Path) -> None:
    tokenizer = pretrained(checkpoint).tokenizer
    tokens = tokenizer.convert_ids_to_tokens(pretrained(checkpoint).prompt_ids("What?", 1))
    expected = ["<ev_start>", "<ev_patch>", "<ev_end>", "▁", "<0x0A>"]
    assert expected == tokens[tokens.index("<ev_start>") :][:5]


def test_pieces_of_bytes_are_decoded_to_text(checkpoint: Path) -> None:
    tokenizer = SlowLlamaTokenizer.from_pretrained(checkpoint)
    expected = "scene\n漢字"
    assert expected == tokenizer.decode(tokenizer("scene\n漢字").input_ids, skip_special_tokens=True)


def test_a_question_with_the_placeholder_is_refused(model: EventGPT) -> None:
    with pytest.raises(StageError, match="only for events"):
        model.preprocess(media(), "What is an <ev_patch> ?")


def test_a_prompt_may_be_2048_tokens_long(model: EventGPT) -> None:
    text = len(model.prompt_ids("What?", 0))
    expected = 2048
    assert expected == len(model.prompt_ids("What?", 2048 - text))


def test_a_prompt_that_the_authors_would_cut_is_refused(model: EventGPT) -> None:
    text = len(model.prompt_ids("What?", 0))
    with pytest.raises(StageError, match=f"at most 2048 tokens long, got 2049, {2049 - text} visual"):
        model.prompt_ids("What?", 2049 - text)


def test_the_prompt_is_the_authors_template(model: EventGPT) -> None:
    ids = model.prompt_ids("What?", 3)
    start, end = model.tokenizer.convert_tokens_to_ids(["<ev_start>", "<ev_end>"])
    expected = (1, 1, [start, *[model.placeholder] * 3, end])
    assert expected == (ids[0], ids.count(1), ids[ids.index(start) :][:5])


# The network


def test_inputs_are_on_the_device_in_the_models_dtype() -> None:
    model = random_model(EventGPT, small_config(), ModelSettings(dtype="bfloat16"))
    inputs = model.preprocess(media(), "What?")
    assert ((1, 5, 3, SIDE, SIDE), torch.bfloat16) == (tuple(inputs.pixels[0].shape), inputs.pixels[0].dtype)
    assert torch.bfloat16 == model.encode(inputs).dtype


def test_a_wrong_number_of_placeholders_is_refused(model: EventGPT) -> None:
    inputs = model.preprocess(media(), "What?")
    with pytest.raises(StageError, match=f"one placeholder for each of {VISUAL_TOKENS - 1} visual tokens"):
        model.hf_model.generate(inputs.input_ids, pixel_values=inputs.pixels[0][:, 1:], max_new_tokens=2)


def test_images_without_a_batch_are_refused(model: EventGPT) -> None:
    with pytest.raises(StageError, match="pixel_values must be \\(batch, images, 3, height, width\\)"):
        model.hf_model.get_event_features(torch.zeros(5, 3, SIDE, SIDE))


@torch.inference_mode()
def test_images_encoded_together_are_as_one_by_one(model: EventGPT) -> None:
    pixels = model.preprocess(media(), "What?").pixels[0][0]
    one_by_one = torch.cat([model.hf_model.get_image_tokens(image.unsqueeze(0)) for image in pixels])
    torch.testing.assert_close(model.hf_model.get_image_tokens(pixels), one_by_one, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_features_are_temporal_tokens_then_spatial_ones(model: EventGPT) -> None:
    inputs = model.preprocess(media(), "What?")
    tokens = model.hf_model.get_image_tokens(inputs.pixels[0][0])
    expected = torch.cat([tokens.mean(1), tokens.mean(0)]).unsqueeze(0)
    torch.testing.assert_close(model.encode(inputs), expected)


def test_parts_are_forwarded_once_a_sample_and_once_a_step(model: EventGPT) -> None:
    inputs, calls = model.preprocess(media(), "What?"), Counter[str]()
    handles = [
        part.register_forward_hook(lambda *_, role=role: calls.update([role]))
        for role, part in model.counted_modules.items()
    ]
    generate(model, inputs, 4)
    for handle in handles:
        handle.remove()
    expected = {"tower": 1, "projector": 1, "language_model": 4}
    assert expected == dict(calls)


def generate(model: EventGPT, inputs: Inputs, tokens: int = 12, **options: Any) -> list[list[int]]:
    """Greedy new tokens, exactly so many, so that rows of a batch compare."""
    sequences = model.hf_model.generate(
        **model.reference_inputs(inputs),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        **options,
    )
    return sequences[:, inputs.input_ids.shape[1] :].tolist()


def left_padded(model: EventGPT, samples: list[Inputs]) -> Inputs:
    width = max(s.input_ids.shape[1] for s in samples)
    pad = model.tokenizer.pad_token_id
    ids = [torch.nn.functional.pad(s.input_ids, (width - s.input_ids.shape[1], 0), value=pad) for s in samples]
    masks = [torch.nn.functional.pad(s.attention_mask, (width - s.input_ids.shape[1], 0)) for s in samples]
    pixels = torch.cat([s.pixels[0] for s in samples])
    return Inputs(torch.cat(ids), torch.cat(masks), {"pixel_values": pixels}, images=sum(s.images for s in samples))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_left_padded_batch_writes_what_its_rows_write_alone(model: EventGPT, cache: str) -> None:
    questions = ["What?", "Describe in detail what happened in the scene."]
    samples = [model.preprocess(media(seed), question) for seed, question in enumerate(questions)]
    alone = [generate(model, sample)[0] for sample in samples]
    batch = left_padded(model, samples)
    assert alone == generate(model, batch, cache_implementation=cache, disable_compile=True)
    assert alone[0] != alone[1]


def test_without_a_cache_the_same_is_written(model: EventGPT) -> None:
    inputs = model.preprocess(media(), "What?")
    assert generate(model, inputs) == generate(model, inputs, use_cache=False)


@torch.inference_mode()
def test_embed_and_encode_give_what_the_forward_of_pixels_gives(model: EventGPT) -> None:
    inputs = model.preprocess(media(), "What?")
    embeds = model.embed(inputs, model.encode(inputs))
    expected = model.hf_model(**model.reference_inputs(inputs)).logits
    assert torch.equal(expected, model.hf_model(inputs_embeds=embeds, attention_mask=inputs.attention_mask).logits)


def test_the_tiny_profile_has_the_real_token_counts() -> None:
    model = assemble(EventGPT, ModelSettings())
    inputs = model.preprocess(media(), "What?")
    expected = (1, 582, 64)
    assert expected == tuple(model.encode(inputs).shape)


def test_the_7b_profile_has_the_real_shapes() -> None:
    with torch.device("meta"):
        hf_model = EventGPTForConditionalGeneration(EventGPT.random_config("7b"))
    clip, projector, adaptor, llama = 303_507_456, 20_979_712, 16_781_312, 6_738_440_192
    expected = clip + projector + adaptor + llama
    assert expected == sum(p.numel() for p in hf_model.parameters())


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = (random_model(EventGPT, small_config(), ModelSettings(seed=3)).hf_model for _ in range(2))
    expected, actual = first.state_dict(), second.state_dict()
    assert not different(expected, actual)
