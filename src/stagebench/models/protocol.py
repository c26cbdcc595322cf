"""What a stage may ask of a model. A stage knows this protocol and no concrete model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stagebench.core.artifacts import Inputs, Media, Prefilled


class Accelerator(Protocol):
    """Runs the stages of one model faster than its plain code does."""

    @property
    def name(self) -> str:
        """One of `core.settings.BACKENDS`."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it owes the very tokens of the plain path; else it may part from it at a near-tie."""
        ...

    @property
    def setups(self) -> Sequence[Setup]:
        """All that was set up so far: a pass in which they became more is no measurement."""
        ...

    def replayed(self) -> Mapping[str, int]:
        """Counters of all work so far that modules and operators do not show."""
        ...

    def encode(self, inputs: Inputs) -> Tensor:
        """As the model's."""
        ...

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """To what a prompt of so many tokens is padded, and how many slots its cache has for texts of up to `limit`."""
        ...

    def prompt(
        self, embeds: Tensor, attention_mask: Tensor, generation_config: GenerationConfig
    ) -> tuple[Tensor, dict[str, Any]]:
        """The last position's logits (batch, 1, vocabulary), and the state that `advance` continues from."""
        ...

    def advance(self, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
        """Take decode steps."""
        ...


class Setup(Protocol):
    """What something cost that is done once."""

    @property
    def seconds(self) -> float:
        """Wall time."""
        ...

    @property
    def nbytes(self) -> int:
        """Of the device's memory, kept."""
        ...


class VisionLanguageModel(Protocol):
    """A vision-language model whose `generate()` can be split into stages."""

    @property
    def name(self) -> str:
        """As on the command line ("eventgpt")."""
        ...

    @property
    def profile(self) -> str:
        """One of `core.settings.PROFILES`."""
        ...

    @property
    def media(self) -> str:
        """Its own kind of media, as `media.scene.Scene` names it: "events" or "video"."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """What marks a place in its prompt, and so must not stand in a question ("<image>")."""
        ...

    @property
    def images_per_sample(self) -> int:
        """How many frames or event images `load` hands over."""
        ...

    @property
    def network(self) -> PreTrainedModel:
        """The transformers model; its plain `generate()` is the reference for every stage."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Decodes what the network generates."""
        ...

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules whose forwards are counted: "tower", "projector", "language_model"."""
        ...

    @property
    def backend(self) -> Accelerator | None:
        """What runs its encode, prefill and decode; None for its own plain code, which is the reference."""
        ...

    def visual_tokens(self, images: int) -> int:
        """How many features become of so many images of the tower's size."""
        ...

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Resize, normalise, tokenise and copy to the device; a batch of one."""
        ...

    def encode(self, inputs: Inputs) -> Tensor:
        """Tower, projector, adaptor, pooling: (batch, visual tokens, hidden size)."""
        ...

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """The prompt's embeddings with the features in place: (batch, prompt tokens, hidden size)."""
        ...

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Keyword arguments with which `network.generate()` does all of encode, prefill and decode itself."""
        ...
