"""What a stage may ask of a model, and what all families share. No stage knows a concrete model."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stagebench.core.artifacts import Features, Image, Inputs, Media, Prefilled
from stagebench.core.errors import StageError
from stagebench.models.pixels import ImageProcessor
from stagebench.models.tape import answered, taped

# What a forward calls the KV cache; transformers 5.24 renamed it.
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


class Backend(Protocol):
    """Runs encode, prefill and decode of one model faster than its plain code."""

    name: str  # one of `core.settings.BACKENDS`

    @property
    def exact(self) -> bool:
        """Return whether it must give exactly the plain path's tokens; otherwise they may diverge at a near-tie."""

    @property
    def setups(self) -> Sized:
        """Return all set-ups so far, with their cost; a pass that adds one is not a measurement."""

    def replayed(self) -> Mapping[str, int]:
        """Return counters of all replayed work so far, which modules and operators do not show."""

    @property
    def stages(self) -> Mapping[str, str]:
        """Return what runs encode, prefill and decode: this backend's name, or "eager: " and the reason."""

    def encode(self, inputs: Inputs) -> Any:
        """Encode, as the model's own `encode`."""

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """Return the padded length of a prompt of `tokens`, and the cache's slots for texts of up to `limit` tokens."""

    def continued(self, prefilled: Prefilled) -> Prefilled:
        """Prepare a prompt for `advance`."""

    def advance(self, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
        """Run decode steps, as `pipeline.decode.advance`."""


class CallBackend(Backend, Protocol):
    """Runs the call of the language model for a prompt, which any network's `generate()` makes."""

    def prompting(self, tokens: int) -> AbstractContextManager[None]:
        """Answer that call during the block, for a prompt of `tokens`."""


class PromptBackend(Backend, Protocol):
    """Also runs prompts of a model that embeds them itself."""

    def prompt(
        self, embeds: Tensor, attention_mask: Tensor, generation_config: GenerationConfig
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the last logits (batch, 1, vocabulary) and `advance`'s state of embeds (batch, tokens, hidden)."""


@dataclass(frozen=True, eq=False)
class VisionLanguageModel(ABC):
    """A transformers model with a `generate()` that can be split into stages: what these may ask of it."""

    name: ClassVar[str]  # as on the command line
    input_kind: ClassVar[str]  # "events" or "video", as in `media.synthetic_clip`
    images_per_sample: ClassVar[int]
    placeholder_tokens: ClassVar[tuple[str, ...]]  # stand for images in a prompt; no question may hold them

    profile: str
    hf_model: PreTrainedModel  # its plain `generate()` is the reference of every stage
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any  # a family's `pixels.ImageProcessor`, or transformers' processor of images and prompt
    backend: Backend | None = None  # None for the model's plain code, the reference

    @property
    @abstractmethod
    def counted_modules(self) -> dict[str, nn.Module]:
        """Return the modules with counted forwards, by role: "tower", "projector", "language_model"."""

    @property
    def setups(self) -> int:
        """Return the number of set-ups so far; a pass that adds one is not a measurement."""
        return 0 if self.backend is None else len(self.backend.setups)

    @abstractmethod
    def preprocess(self, media: Media, question: str) -> Inputs:
        """Resize, crop, normalise, tokenise and copy to the device: a batch of one, pixels in the network's dtype."""

    @abstractmethod
    def features(self, inputs: Inputs) -> Features:
        """Encode, by the backend where there is one."""

    @abstractmethod
    def prompted(self, inputs: Inputs, features: Features) -> AbstractContextManager[dict[str, Any]]:
        """Yield arguments with which `generate()`, called in the block, takes the features and encodes nothing."""

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Return arguments with which `hf_model.generate()` does encode, prefill and decode itself."""
        return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.given}


@dataclass(frozen=True, eq=False)
class Family(VisionLanguageModel):
    """A model with its prompt embedded here, and features in place of its placeholders, as every backend needs.

    Each family is a subclass in its own file. The last of its placeholder tokens is repeated for each visual token.
    """

    prompt: ClassVar[str]  # with one placeholder, and "{question}"
    hf_class: ClassVar[type[PreTrainedModel]]  # transformers' own, or a port
    module_paths: ClassVar[Mapping[str, str]]  # of the counted modules, by role
    pixels_argument: ClassVar[str] = "pixel_values"  # of the network's forward
    trims_vocabulary: ClassVar[bool] = False  # whether embedding rows beyond a checkpoint's tokens are removed

    image_processor: ImageProcessor
    backend: PromptBackend | None = None

    @property
    def counted_modules(self) -> dict[str, nn.Module]:
        """Return the network's modules at `module_paths`."""
        return {role: self.hf_model.get_submodule(path) for role, path in self.module_paths.items()}

    @property
    def placeholder(self) -> int:
        """Return the id that stands for one visual token in a prompt."""
        return int(getattr(self.hf_model.config, key_of(self.placeholder_tokens[-1])))

    @property
    def patches(self) -> int:
        """Return the number of patches per image in the tower."""
        vision = self.hf_model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    @abstractmethod
    def visual_tokens(self, images: int) -> int:
        """Return the number of features for `images` of the tower's size."""

    def pixels_of(self, inputs: Inputs) -> Tensor:
        """Return the pixels (batch, images, 3, height, width); raise StageError for others."""
        pixels, rows = inputs.given.get(self.pixels_argument), inputs.input_ids.shape[0]
        if pixels is None or pixels.ndim != 5 or pixels.shape[0] != rows:
            got = "none" if pixels is None else tuple(pixels.shape)
            raise StageError(f"{self.pixels_argument} must be (batch {rows}, images, 3, height, width), got {got}")
        return pixels

    @abstractmethod
    def encode(self, inputs: Inputs) -> Tensor:
        """Run tower, projector, adaptor and pooling: (batch, visual tokens, hidden size)."""

    def picture(self, images: Sequence[Image]) -> Tensor:
        """Resize, crop and normalise: float32 (images of the tower, 3, side, side)."""
        return self.image_processor(images)

    def prompt_ids(self, question: str, visual_tokens: int) -> list[int]:
        """Tokenise the prompt with one placeholder, then repeat its id: tokenising two thousand takes milliseconds."""
        ids = self.tokenizer(self.prompt.format(question=question)).input_ids
        return [each for id_ in ids for each in [id_] * (visual_tokens if id_ == self.placeholder else 1)]

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Make pixels and the token ids of the prompt."""
        device = self.hf_model.device
        pixels = self.picture(media.images).unsqueeze(0).to(device, self.hf_model.dtype)
        input_ids = torch.tensor([self.prompt_ids(question, self.visual_tokens(pixels.shape[1]))], device=device)
        return Inputs(input_ids, torch.ones_like(input_ids), {self.pixels_argument: pixels}, images=pixels.shape[1])

    def features(self, inputs: Inputs) -> Features:
        """Return the tape of `encode`'s output; refuse one not (batch, visual tokens, language model's hidden size)."""
        tokens = (self.backend or self).encode(inputs)
        features = Features(tokens, (taped(self._encoder, tokens),))
        batch, hidden = inputs.input_ids.shape[0], self.hf_model.config.get_text_config().hidden_size
        if features.tokens.shape[::2] != (batch, hidden):
            expected, got = f"(batch {batch}, visual tokens, hidden {hidden})", tuple(features.tokens.shape)
            raise StageError(f"{self.name}'s features must be {expected}, got {got}")
        return features

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """Embed the prompt with features in place of the placeholders: (batch, prompt tokens, hidden size)."""
        return embed_with_features(self.hf_model.get_input_embeddings(), inputs.input_ids, self.placeholder, features)

    @contextmanager
    def prompted(self, inputs: Inputs, features: Features) -> Iterator[dict[str, Any]]:
        """Yield the embedded prompt: embedding in the network, or in `generate()`, would wait for the device."""
        prepared = partial(_with_prompt, inputs.input_ids, self.hf_model._get_logits_processor)
        tape = (taped(self._encoder, features.tokens),) if features.tape is None else features.tape
        with answered(tape) as answer, patch.object(self.hf_model, "_get_logits_processor", prepared):
            embeds = self.embed(inputs, answer(self._encoder))
            yield {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, "inputs_embeds": embeds}

    @property
    def _encoder(self) -> str:
        return f"the encoder of {self.name}"

    @classmethod
    @abstractmethod
    def random_config(cls, profile: str) -> PretrainedConfig:
        """Return the config of a profile of random weights, always with the real geometry."""

    @classmethod
    def added_tokens(cls, config: PretrainedConfig) -> tuple[str, ...]:
        """Return the family's special tokens, the last ones of the vocabulary."""
        return cls.placeholder_tokens

    @classmethod
    def read_tokenizer(cls, weights: str, config: PretrainedConfig) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
        """Return a checkpoint's tokenizer, and the placeholders' ids in its config."""
        tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left", trust_remote_code=False)
        return tokenizer, {token: getattr(config, key_of(token)) for token in cls.placeholder_tokens}

    @classmethod
    def image_source(cls, weights: str, config: PretrainedConfig) -> str:
        """Return the folder or hub id of a checkpoint's image processor."""
        return weights


def key_of(token: str) -> str:
    """Return the config's key of a placeholder's id: `image_token_id` for <image>."""
    return f"{token[1:-1]}_token_id"


def _with_prompt(ids: Tensor, plain: Callable[..., Any], generation_config: GenerationConfig, **given: Any) -> Any:
    """Prepare logits processors; pass the prompt's ids, for which the host waits, only where they are needed."""
    penalty, size = generation_config.encoder_repetition_penalty, generation_config.encoder_no_repeat_ngram_size
    needed = {} if penalty in (None, 1.0) and size in (None, 0) else {"encoder_input_ids": ids}
    return plain(generation_config, **given | needed)


def embed_with_features(embedding: nn.Module, input_ids: Tensor, placeholder: int, features: Tensor) -> Tensor:
    """Embed a prompt with features (batch, visual tokens, hidden size) for as many placeholders; else refuse it."""
    embeds: Tensor = embedding(input_ids)
    mask = input_ids == placeholder
    expected, got = features.shape[0] * features.shape[1], int(mask.sum())
    if expected != got:
        raise StageError(f"the prompt must hold one placeholder for each of {expected} visual tokens, got {got}")
    return embeds.masked_scatter(mask.unsqueeze(-1), features.to(embeds.dtype))
