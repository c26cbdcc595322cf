"""EventGPT: five event images of 577 tokens each, pooled to 5 + 577. The network is in `modeling_eventgpt.py`."""

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import CheckpointError, StageError
from stagebench.models import modeling_eventgpt as modeling
from stagebench.models.modeling_eventgpt import EventGPTConfig
from stagebench.models.profiles import TEXT, VISION
from stagebench.models.protocol import Family

MAX_PROMPT_TOKENS = 2048  # the authors truncate longer prompts silently; we refuse them
EVENT = "<event>"


class EventGPT(Family):
    """EventGPT behind the stages' protocol; "pretrained" reads a folder in the authors' layout."""

    name = "eventgpt"
    input_kind = "events"
    images_per_sample = 5
    placeholder_tokens = (EVENT, modeling.PATCH_TOKEN, modeling.START_TOKEN, modeling.END_TOKEN)
    prompt = (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
        "USER: <ev_start><event><ev_end>\n{question} ASSISTANT:"
    )
    hf_class = modeling.EventGPTForConditionalGeneration
    trims_vocabulary = True
    module_paths: ClassVar = {
        "tower": "model.visual_tower.visual_tower.vision_model",
        "projector": "model.visual_projector",
        "language_model": "model",
    }

    @property
    def placeholder(self) -> int:
        """Return the id of <ev_patch>, or unk's in a tokenizer without it."""
        return int(self.hf_model.config.placeholder_id)

    def visual_tokens(self, images: int) -> int:
        """Return the number of tokens: one temporal token per image, and the spatial ones."""
        return images + self.patches + 1

    def prompt_ids(self, question: str, visual_tokens: int) -> list[int]:
        """Tokenise the texts before and after the events separately, as the authors do, with one BOS."""
        parts = (part.format(question=question) for part in self.prompt.split(EVENT))
        before, after = (self.tokenizer(part).input_ids for part in parts)
        after = after[1:] if after[0] == self.tokenizer.bos_token_id else after
        placeholder, length = self.placeholder, len(before) + visual_tokens + len(after)
        if placeholder in (*before, *after):
            raise StageError(f"a prompt must hold the placeholder id {placeholder} only for events, got it in the text")
        if length > MAX_PROMPT_TOKENS:
            got = f"{length}, {visual_tokens} visual tokens among them"
            raise StageError(f"a prompt must be at most {MAX_PROMPT_TOKENS} tokens long, got {got}")
        return [*before, *[placeholder] * visual_tokens, *after]

    def encode(self, inputs: Inputs) -> Tensor:
        """Run tower, projector, adaptor and pooling: (batch, images + tokens per image, hidden size)."""
        features: Tensor = self.hf_model.get_event_features(self.pixels_of(inputs))
        return features

    @classmethod
    def added_tokens(cls, config: EventGPTConfig) -> tuple[str, ...]:
        """Return the event tokens that the config enables."""
        return config.added_tokens

    @classmethod
    def read_tokenizer(cls, weights: str, config: EventGPTConfig) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
        """Read `tokenizer.model`, and append the event tokens that the config enables; it has no ids of them."""
        tokenizer = modeling.SlowLlamaTokenizer.from_pretrained(weights)
        tokenizer.add_tokens(list(config.added_tokens), special_tokens=True)
        patch = modeling.PATCH_TOKEN if config.mm_use_im_patch_token else tokenizer.unk_token
        config.event_token_id = tokenizer.convert_tokens_to_ids(patch)
        return tokenizer, {}

    @classmethod
    def image_source(cls, weights: str, config: EventGPTConfig) -> str:
        """Return the CLIP folder that the config names."""
        if config.mm_visual_tower is None:
            raise CheckpointError(f"the config of {weights} must name its CLIP folder in mm_visual_tower, got none")
        return modeling.tower_source(weights, config.mm_visual_tower)

    @classmethod
    def random_config(cls, profile: str) -> EventGPTConfig:
        """Return a config with 336 px and 5 + 577 visual tokens; "7b" has the shapes of the authors' checkpoint."""
        return EventGPTConfig(
            **{"vocab_size": 32003} | TEXT[profile],
            vision_config=VISION[profile] | {"image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu"},
            mm_use_im_start_end=True,
            event_feature_adaptor=True,
        )
