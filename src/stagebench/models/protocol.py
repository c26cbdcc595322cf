"""What a stage may ask of a model. A stage knows this protocol and no concrete model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stagebench.types import Inputs, Media


class VisionLanguageModel(Protocol):
    """A vision-language model whose `generate()` can be split into stages."""

    @property
    def name(self) -> str:
        """As on the command line ("eventgpt")."""
        ...

    @property
    def profile(self) -> str:
        """One of `types.PROFILES`."""
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
