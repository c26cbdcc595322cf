"""What a stage may ask of a model, and what all families of models share. A stage knows no concrete model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stagebench.core.artifacts import Features, Image, Inputs, Media, Prefilled
from stagebench.core.errors import StageError
from stagebench.models.pixels import ImageProcessor
from stagebench.models.tape import answered, taped


class Backend(Protocol):
    """Run encode, prefill and decode of one model faster than its plain code does."""

    name: str  # one of `core.settings.BACKENDS`

    @property
    def exact(self) -> bool:
        """Say whether it owes the very tokens of the plain path; else it may part from it at a near-tie."""

    @property
    def setups(self) -> Sized:
        """Return all that was set up so far, at which cost: a pass in which they became more is no measurement."""

    def replayed(self) -> Mapping[str, int]:
        """Return counters of all work so far that modules and operators do not show."""

    @property
    def stages(self) -> Mapping[str, str]:
        """Say of encode, prefill and decode what runs them: this backend by its name, or "eager: " and why."""

    def encode(self, inputs: Inputs) -> Any:
        """Encode as the model's own `encode`."""

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """Say to what a prompt of `tokens` is padded, and how many slots its cache has for texts of up to `limit`."""

    def continued(self, prefilled: Prefilled) -> Prefilled:
        """Take over a prompt, for `advance`."""

    def advance(self, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
        """Take decode steps, as `pipeline.decode.advance`."""


class CallBackend(Backend, Protocol):
    """Run the language model's call for a prompt, which any network's `generate()` makes."""

    def prompting(self, tokens: int) -> AbstractContextManager[None]:
        """Answer that call in the block, for a prompt of so many tokens."""


class PromptBackend(Backend, Protocol):
    """Run prompts too, of a model that embeds them itself."""

    def prompt(
        self, embeds: Tensor, attention_mask: Tensor, generation_config: GenerationConfig
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the last position's logits (batch, 1, vocabulary), and the state that `advance` continues from.

        Of embeddings (batch, tokens, hidden size); the config's `max_length` counts the prompt and the new tokens.
        """


@dataclass(frozen=True, eq=False)
class VisionLanguageModel(ABC):
    """A transformers model whose `generate()` can be split into stages: what these may ask of it."""

    name: ClassVar[str]  # as on the command line
    input_kind: ClassVar[str]  # what it is shown, as `media.synthetic_clip` names it: "events" or "video"
    images_per_sample: ClassVar[int]
    placeholder_tokens: ClassVar[tuple[str, ...]]  # what stands for images in its prompt, and so in no question

    profile: str
    hf_model: PreTrainedModel  # its plain `generate()` is the reference for every stage
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any  # a family's `pixels.ImageProcessor`; else transformers' processor, of images and prompt
    backend: Backend | None = None  # None for the model's own plain code, which is the reference

    @property
    @abstractmethod
    def counted_modules(self) -> dict[str, nn.Module]:
        """Return the modules whose forwards are counted, by role: "tower", "projector", "language_model"."""

    @property
    def setups(self) -> int:
        """Count the shapes that something was set up for: a pass in which they become more is no measurement."""
        return 0 if self.backend is None else len(self.backend.setups)

    @abstractmethod
    def preprocess(self, media: Media, question: str) -> Inputs:
        """Resize, crop, normalise, tokenise and copy to the device: a batch of one, pixels in the network's dtype."""

    @abstractmethod
    def features(self, inputs: Inputs) -> Features:
        """Encode, by the backend where there is one."""

    @abstractmethod
    def prompted(self, inputs: Inputs, features: Features) -> AbstractContextManager[dict[str, Any]]:
        """Give arguments with which `generate()`, called within, takes the features and encodes nothing."""

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Return arguments with which `hf_model.generate()` does all of encode, prefill and decode itself."""
        return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.given}


@dataclass(frozen=True, eq=False)
class Family(VisionLanguageModel):
    """A model whose prompt is embedded here, the features in place of its placeholders: what every backend takes.

    A family is a subclass in a file of its own. The last of its placeholder tokens is repeated for each visual token.
    """

    prompt: ClassVar[str]  # with one placeholder, and the place of the "{question}"
    hf_class: ClassVar[type[PreTrainedModel]]  # transformers' own, or a port
    module_paths: ClassVar[Mapping[str, str]]  # of the counted modules, by role
    pixels_argument: ClassVar[str] = "pixel_values"  # of the network's forward
    trims_vocabulary: ClassVar[bool] = False  # rows of the embedding that no token of a checkpoint has are cut off

    image_processor: ImageProcessor
    backend: PromptBackend | None = None

    @property
    def counted_modules(self) -> dict[str, nn.Module]:
        """Find them in the network."""
        return {role: self.hf_model.get_submodule(path) for role, path in self.module_paths.items()}

    @property
    def placeholder(self) -> int:
        """Return the id that stands for one visual token in a prompt."""
        return int(getattr(self.hf_model.config, _key_of(self.placeholder_tokens[-1])))

    @property
    def patches(self) -> int:
        """Return how many patches the tower makes of an image."""
        vision = self.hf_model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    @abstractmethod
    def visual_tokens(self, images: int) -> int:
        """Say how many features become of so many images of the tower's size."""

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
        """Resize, crop and normalise: float32 (images that the tower sees, 3, side, side)."""
        return self.image_processor(images)

    def prompt_ids(self, question: str, visual_tokens: int) -> list[int]:
        """Tokenise the prompt with one placeholder, and repeat its id: to find two thousand takes milliseconds."""
        ids = self.tokenizer(self.prompt.format(question=question)).input_ids
        return [each for id_ in ids for each in [id_] * (visual_tokens if id_ == self.placeholder else 1)]

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Make pixels and a prompt of token ids."""
        device = self.hf_model.device
        pixels = self.picture(media.images).unsqueeze(0).to(device, self.hf_model.dtype)
        input_ids = torch.tensor([self.prompt_ids(question, self.visual_tokens(pixels.shape[1]))], device=device)
        return Inputs(input_ids, torch.ones_like(input_ids), {self.pixels_argument: pixels}, images=pixels.shape[1])

    def features(self, inputs: Inputs) -> Features:
        """Put on tape what `encode` gave: (batch, visual tokens, hidden size of the language model), or refuse it."""
        tokens = (self.backend or self).encode(inputs)
        features = Features(tokens, (taped(self._encoder, tokens),))
        batch, hidden = inputs.input_ids.shape[0], self.hf_model.config.get_text_config().hidden_size
        if features.tokens.shape[::2] != (batch, hidden):
            expected, got = f"(batch {batch}, visual tokens, hidden {hidden})", tuple(features.tokens.shape)
            raise StageError(f"{self.name}'s features must be {expected}, got {got}")
        return features

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """Embed the prompt, the features in place of the placeholders: (batch, prompt tokens, hidden size)."""
        return embed_with_features(self.hf_model.get_input_embeddings(), inputs.input_ids, self.placeholder, features)

    @contextmanager
    def prompted(self, inputs: Inputs, features: Features) -> Iterator[dict[str, Any]]:
        """Give the prompt embedded: to embed it the network itself, and `generate()` before it, wait for the device."""
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
        """Return the config of a profile of random weights, with the real geometry in either of them."""

    @classmethod
    def added_tokens(cls, config: PretrainedConfig) -> tuple[str, ...]:
        """Return the special tokens of the family, the last ones of the vocabulary."""
        return cls.placeholder_tokens

    @classmethod
    def read_tokenizer(cls, weights: str, config: PretrainedConfig) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
        """Read a checkpoint's tokenizer, and the ids that its config gives the placeholders."""
        tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left", trust_remote_code=False)
        return tokenizer, {token: getattr(config, _key_of(token)) for token in cls.placeholder_tokens}

    @classmethod
    def image_source(cls, weights: str, config: PretrainedConfig) -> str:
        """Return the folder or hub id of a checkpoint's image processor."""
        return weights


def _key_of(token: str) -> str:
    """Name the key that a config has for a placeholder's id: `image_token_id` for <image>."""
    return f"{token[1:-1]}_token_id"


def _with_prompt(ids: Tensor, plain: Callable[..., Any], generation_config: GenerationConfig, **given: Any) -> Any:
    """Prepare processors with the prompt's ids, which `generate()` leaves aside for embeddings, where they are needed.

    To look through them the host would wait for the device.
    """
    penalty, size = generation_config.encoder_repetition_penalty, generation_config.encoder_no_repeat_ngram_size
    needed = {} if penalty in (None, 1.0) and size in (None, 0) else {"encoder_input_ids": ids}
    return plain(generation_config, **given | needed)


def embed_with_features(embedding: nn.Module, input_ids: Tensor, placeholder: int, features: Tensor) -> Tensor:
    """Embed a prompt, with features (batch, visual tokens, hidden size) for its placeholders, which must be as many."""
    embeds: Tensor = embedding(input_ids)
    mask = input_ids == placeholder
    expected, got = features.shape[0] * features.shape[1], int(mask.sum())
    if expected != got:
        raise StageError(f"the prompt must hold one placeholder for each of {expected} visual tokens, got {got}")
    return embeds.masked_scatter(mask.unsqueeze(-1), features.to(embeds.dtype))
