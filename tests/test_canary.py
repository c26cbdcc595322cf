"""What we assume of transformers. A release that breaks assumptions fails by their names, all in one message."""

import importlib
import inspect

import torch
import transformers
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM

ARGUMENTS = {
    "_prepare_generation_config": ["generation_config"],
    "_prefill": ["input_ids", "generation_config", "model_kwargs"],
    "_update_model_kwargs_for_generation": ["outputs", "model_kwargs"],
    "prepare_inputs_for_generation": ["input_ids", "next_sequence_length", "is_first_iteration"],
}
CALLBACK = {
    "logits_processor",
    "stopping_criteria",
    "generation_config",
    "inputs_embeds",
    "use_cache",
}
NAMES = {
    "transformers.models.clip.image_processing_pil_clip": ["CLIPImageProcessorPil"],
    "transformers.tokenization_utils_sentencepiece": ["SentencePieceBackend"],
    "transformers.generation": ["GenerationMode", "EosTokenCriteria", "MaxLengthCriteria", "StoppingCriteriaList"],
}
FEATURES = {
    "LlavaForConditionalGeneration": ("get_image_features", "pixel_values"),
    "VideoLlavaModel": ("get_video_features", "pixel_values_videos"),
}


def missing_arguments():
    for method, expected in ARGUMENTS.items():
        found = inspect.signature(getattr(GenerationMixin, method, lambda: None)).parameters
        for name in expected:
            if name not in found:
                yield f"GenerationMixin.{method} takes no {name} any more"


def missing_names():
    for module, names in NAMES.items():
        try:
            found = dir(importlib.import_module(module))
        except ImportError:
            found = []
        yield from (f"{module}.{name} is gone" for name in names if name not in found)


def missing_features():
    for owner, (method, argument) in FEATURES.items():
        function = getattr(getattr(transformers, owner, None), method, None)
        if function is None or argument not in inspect.signature(function).parameters:
            yield f"{owner}.{method}({argument}=...) is gone"


def broken_callback():
    """The contract of `custom_generate`: what it is called with, and that its result comes back as it is."""
    hf_model = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    )
    seen = {}

    def callback(hf_model, input_ids, **rest):
        seen.update(rest | {"input_ids": input_ids})
        return "as it is"

    ids = torch.tensor([[1, 4, 5]])
    result = hf_model.generate(
        input_ids=ids, inputs_embeds=hf_model.get_input_embeddings()(ids), max_new_tokens=2, custom_generate=callback
    )
    if result != "as it is":
        yield "generate() does not return what custom_generate returned"
    yield from (f"custom_generate is not called with {name} any more" for name in sorted(CALLBACK - seen.keys()))
    if not torch.equal(seen["input_ids"], ids):
        yield "custom_generate is not called with the input_ids that were given beside inputs_embeds"
    if not hasattr(seen["generation_config"], "_pad_token_tensor"):
        yield "generation_config has no _pad_token_tensor any more"
    cache = seen.get("cache", seen.get("past_key_values"))  # renamed in 5.24
    if not hasattr(cache, "get_seq_length") or int(cache.get_seq_length()) != 0:
        yield "the cache has no get_seq_length(), or does not start at 0"


def test_transformers_is_what_we_take_it_for():
    broken = [*missing_arguments(), *missing_names(), *missing_features(), *broken_callback()]
    assert broken == [], f"transformers {transformers.__version__} broke {len(broken)} assumptions: {'; '.join(broken)}"
