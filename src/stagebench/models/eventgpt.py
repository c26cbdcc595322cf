"""EventGPT: five event images, CLIP, a projector, an adaptor, spatio-temporal pooling, Llama.

Our own port of the network of https://github.com/XduSyL/EventGPT, as a transformers model whose plain
`generate()` takes `pixel_values`. Its state-dict keys are the authors': their checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.errors import CheckpointError, ModelError, StageError
from stagebench.core.settings import ModelSettings
from stagebench.models.assembly import image_processor, pretrained_image_processor
from stagebench.models.checkpoint import check_tokens, rehearse, skeleton
from stagebench.models.embedding import embed_with_features
from stagebench.models.pixels import ImageProcessor
from stagebench.models.protocol import Accelerator
from stagebench.models.sizes import text_shape, vision_shape
from stagebench.models.tokenizer import build_tokenizer
from stagebench.models.weights import (
    check_model_type,
    only_special_tokens,
    pretrained_network,
    random_network,
    reading,
    require_exact_keys,
)

EVENT_TOKEN_INDEX = -200
"""What the authors put into `input_ids` where the event features go."""

MAX_PROMPT_TOKENS = 2048
"""The authors cut the embedded prompt off here without a word; we refuse to."""

PATCH_TOKEN, START_TOKEN, END_TOKEN = "<ev_patch>", "<ev_start>", "<ev_end>"
EVENT_MARK = "<event>"
IMAGES_PER_SAMPLE = 5

_PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
    "USER: <ev_start><event><ev_end>\n{question} ASSISTANT:"
)


class EventGPTConfig(LlamaConfig):
    """A Llama config with the authors' extra keys and, nested, the config of the CLIP tower.

    The authors keep the tower's config in a folder of its own, which `mm_visual_tower` names; reading their
    config reads that one too. What we save has it nested, and needs no such folder.

    Attributes:
        vision_config: of the CLIP tower.
        mm_visual_tower: a folder beside the checkpoint, an absolute folder, or a hub id.
        mm_use_im_patch_token: the tokenizer gets `<ev_patch>`.
        mm_use_im_start_end: the tokenizer gets `<ev_start>` and `<ev_end>`.
        event_feature_adaptor: a linear layer follows the projector.
        use_event_qformer: of the authors' experiments; refused, they published no code for it.
        event_token_id: the placeholder of one visual token; None for `placeholder_id`'s default.
    """

    model_type = "EventChat_llama"
    sub_configs = {"vision_config": CLIPVisionConfig}  # noqa: RUF012 - transformers' own form

    vision_config: dict[str, Any] | CLIPVisionConfig | None = None
    mm_visual_tower: str | None = None
    # The authors' defaults where their checkpoint says nothing.
    mm_use_im_patch_token: bool = True
    mm_use_im_start_end: bool = False
    event_feature_adaptor: bool = False
    use_event_qformer: bool = False
    event_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):
            self.vision_config = CLIPVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """The event tokens appended to the tokenizer at load time, in the authors' order."""
        patch = (PATCH_TOKEN,) if self.mm_use_im_patch_token else ()
        return (*patch, START_TOKEN, END_TOKEN) if self.mm_use_im_start_end else patch

    @property
    def placeholder_id(self) -> int:
        """The id that stands for one visual token in `input_ids`.

        `event_token_id`, else that of `<ev_patch>` in a vocabulary ending with the added tokens, else unk's.
        """
        if self.event_token_id is not None:
            return self.event_token_id
        return self.vocab_size - len(self.added_tokens) if self.mm_use_im_patch_token else 0

    @property
    def tower(self) -> CLIPVisionConfig:
        """The CLIP tower's config, or a one-line error where there is none."""
        if not isinstance(self.vision_config, CLIPVisionConfig):
            raise ModelError(f"an EventGPT config must hold the CLIP tower's vision_config, got {self.vision_config!r}")
        return self.vision_config

    def visual_tokens(self, images: int) -> int:
        """Visual tokens that `images` event images become: one temporal token each, and the spatial ones."""
        # CLIP's config would take pairs too; its position embedding is square.
        side = cast(int, self.tower.image_size) // cast(int, self.tower.patch_size)
        return images + side * side + 1

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """As transformers', and the CLIP tower's config from where the authors' layout keeps it."""
        config, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_model_type(f"the config of {pretrained_model_name_or_path}", config, cls.model_type)
        if not config.get("vision_config") and (tower := config.get("mm_visual_tower")):
            source = _tower_source(pretrained_model_name_or_path, tower)
            with reading(f"the CLIP config of {source}"):
                found, _ = CLIPVisionConfig.get_config_dict(source)
                check_model_type(f"the CLIP config of {source}", found, CLIPVisionConfig.model_type, "clip")
                config["vision_config"] = CLIPVisionConfig.from_pretrained(source).to_dict()
        return config, rest


class _Clip(CLIPVisionModel):
    """CLIP's vision model; of its own class transformers renames the keys as it reads and saves, of ours not."""


class _VisionModel(nn.Module):
    """The middle level of the authors' keys `visual_tower.visual_tower.vision_model.*`."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_model = _Clip(config)


class _VisualTower(nn.Module):
    """The outer level of the same keys."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.visual_tower = _VisionModel(config)


class EventGPTModel(LlamaModel):
    """The Llama decoder; it owns the vision side too, as in the authors' keys, but only decodes."""

    config: EventGPTConfig

    def __init__(self, config: EventGPTConfig) -> None:
        if config.use_event_qformer:
            raise ModelError("use_event_qformer must be absent or false, got true: the query former is not ported")
        super().__init__(config)
        self.visual_tower = _VisualTower(config.tower)
        self.visual_projector = nn.Sequential(
            nn.Linear(config.tower.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.feature_adaptor = (
            nn.Linear(config.hidden_size, config.hidden_size) if config.event_feature_adaptor else None
        )
        self.post_init()


class EventGPTForConditionalGeneration(LlamaForCausalLM):
    """EventGPT for `generate(input_ids=..., pixel_values=..., attention_mask=...)` with all its options."""

    config: EventGPTConfig
    config_class = EventGPTConfig
    # Constants that older transformers wrote into checkpoints; computed from the config, never read.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$", r"embeddings\.position_ids$"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: EventGPTConfig) -> None:
        # Past LlamaForCausalLM's own constructor: it would build a second 7B decoder and drop it.
        super(LlamaForCausalLM, self).__init__(config)
        self.model = EventGPTModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def tower(self) -> CLIPVisionModel:
        """The CLIP vision model; one forward takes all images of a batch."""
        return cast(CLIPVisionModel, self.model.visual_tower.visual_tower.vision_model)

    def get_image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Tower, projector and adaptor, each image on its own.

        Args:
            pixel_values: (images, 3, height, width); the authors encode one at a time, with the same numbers.

        Returns:
            (images, tokens per image with CLS first, hidden size), in the model's dtype.
        """
        # The encoder's last hidden state: no post_layernorm, CLS kept.
        hidden: Tensor = self.tower(pixel_values=pixel_values.to(self.tower.dtype)).last_hidden_state
        tokens: Tensor = self.model.visual_projector(hidden)
        return tokens if self.model.feature_adaptor is None else cast(Tensor, self.model.feature_adaptor(tokens))

    def get_event_features(self, pixel_values: Tensor) -> Tensor:
        """Encode and pool the event images.

        Args:
            pixel_values: (batch, images, 3, height, width).

        Returns:
            (batch, images + tokens per image, hidden size): of each image the mean over space, then of each
            token the mean over the images.

        Raises:
            StageError: where the pixels have another shape.
        """
        if pixel_values.ndim != 5:
            raise StageError(f"pixel_values must be (batch, images, 3, height, width), got {tuple(pixel_values.shape)}")
        tokens = self.get_image_tokens(pixel_values.flatten(0, 1))
        tokens = tokens.reshape(*pixel_values.shape[:2], *tokens.shape[1:])
        return torch.cat([tokens.mean(dim=2), tokens.mean(dim=1)], dim=1)

    def get_prompt_embeds(self, input_ids: Tensor, features: Tensor) -> Tensor:
        """The prompt's embeddings (batch, tokens, hidden size), with the features in their place."""
        return embed_with_features(self.get_input_embeddings(), input_ids, self.config.placeholder_id, features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Llama's forward, after encoding `pixel_values` (batch, images, 3, height, width) where given.

        The KV cache is among `kwargs`, under the name that this transformers has for it.
        """
        if pixel_values is not None:
            if input_ids is None:
                raise StageError("pixel_values need input_ids with placeholders, got inputs_embeds alone")
            inputs_embeds = self.get_prompt_embeds(input_ids, self.get_event_features(pixel_values))
            input_ids = None
        outputs: CausalLMOutputWithPast = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return outputs

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As transformers', but strict: every key of the model, nothing else, and the right shapes.

        Raises:
            CheckpointError: naming the missing, unexpected or mismatched keys.
        """
        # Without this transformers refuses a wrong shape before it says which key has it.
        kwargs["ignore_mismatched_sizes"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        network, report = loaded
        require_exact_keys(pretrained_model_name_or_path, report)
        return (network, report) if output_loading_info else network


class SlowLlamaTokenizer(SentencePieceBackend):
    """The sentencepiece Llama tokenizer as it was before transformers 5, `legacy=True`.

    Text is split at the added tokens, and sentencepiece encodes each part on its own: what becomes of white
    space beside an added token is up to the normaliser inside `tokenizer.model` (Llama's keeps it, others
    drop it). transformers 5's `LlamaTokenizer` ignores that normaliser, and needs protobuf.
    """

    padding_side = "left"

    def __init__(self, **kwargs: Any) -> None:
        for name, token in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")):
            kwargs[name] = kwargs.get(name) or token
        kwargs.update(legacy=True, special_tokens_pattern="bos", token_type_ids_pattern="all_zeros")
        super().__init__(**kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text; the base class would leave byte pieces (`<0x0A>`) as they are."""
        text, pieces = "", list[str]()
        for token in tokens:
            if token in self.added_tokens_encoder:
                text, pieces = text + self.sp_model.decode(pieces) + token, []
            else:
                pieces.append(token)
        return text + cast(str, self.sp_model.decode(pieces))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """The prompt's token ids in the authors' form: BOS first, one `EVENT_TOKEN_INDEX` where the events go.

    The template is split at `<event>` and each part tokenised on its own; the second part's BOS is dropped.
    """
    before, after = (tokenizer(part.format(question=question)).input_ids for part in _PROMPT.split(EVENT_MARK))
    return [*before, EVENT_TOKEN_INDEX, *(after[1:] if after[0] == tokenizer.bos_token_id else after)]


def expand_placeholder(ids: list[int], placeholder: int, visual_tokens: int) -> list[int]:
    """The authors' form of a prompt into ours: one placeholder id for each visual token.

    Raises:
        StageError: where the prompt holds the placeholder otherwise, or is longer than `MAX_PROMPT_TOKENS`.
    """
    if placeholder in ids:
        raise StageError(f"a prompt must hold the placeholder id {placeholder} only for events, got it in the text")
    length = len(ids) - 1 + visual_tokens
    if length > MAX_PROMPT_TOKENS:
        raise StageError(
            f"a prompt must be at most {MAX_PROMPT_TOKENS} tokens long, got {length}, "
            f"{visual_tokens} visual tokens among them"
        )
    at = ids.index(EVENT_TOKEN_INDEX)
    return [*ids[:at], *[placeholder] * visual_tokens, *ids[at + 1 :]]


@dataclass(slots=True, eq=False)
class EventGPT:
    """EventGPT behind the stages' protocol (`stagebench.models.protocol.VisionLanguageModel`)."""

    profile: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    backend: Accelerator | None = None
    name: str = field(default="eventgpt", init=False)
    media: str = field(default="events", init=False)
    marks: tuple[str, ...] = field(default=(EVENT_MARK, PATCH_TOKEN, START_TOKEN, END_TOKEN), init=False)
    images_per_sample: int = field(default=IMAGES_PER_SAMPLE, init=False)

    @property
    def eventgpt(self) -> EventGPTForConditionalGeneration:
        """The network under its own type; the protocol promises no more than a transformers model."""
        return cast(EventGPTForConditionalGeneration, self.network)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The counted modules: one forward each a sample, and the language model's one a step."""
        model = self.eventgpt.model
        return {"tower": self.eventgpt.tower, "projector": model.visual_projector, "language_model": model}

    def visual_tokens(self, images: int) -> int:
        """As the protocol says."""
        return self.eventgpt.config.visual_tokens(images)

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Resize, crop and normalise the images (their sizes may differ), tokenise, copy to the device.

        Returns:
            A batch of one: `pixels` (1, images, 3, size, size) in the model's dtype.

        Raises:
            StageError: for a prompt that `expand_placeholder` refuses.
        """
        config, device = self.eventgpt.config, self.network.device
        ids = expand_placeholder(
            prompt_ids(self.tokenizer, question),
            config.placeholder_id,
            self.visual_tokens(len(media.images)),
        )
        input_ids = torch.tensor([ids], device=device)
        return Inputs(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixels=self.image_processor(media.images).unsqueeze(0).to(device, self.network.dtype),
        )

    def encode(self, inputs: Inputs) -> Tensor:
        """Tower, projector, adaptor, pooling: (batch, images + tokens per image, hidden size)."""
        return self.eventgpt.get_event_features(inputs.pixels)

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """The prompt's embeddings with the features in place: (batch, prompt tokens, hidden size)."""
        return self.eventgpt.get_prompt_embeds(inputs.input_ids, features)

    def reference_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """What `network.generate()` needs to do all of encode, prefill and decode itself."""
        return {
            "input_ids": inputs.input_ids,
            "attention_mask": inputs.attention_mask,
            "pixel_values": inputs.pixels,
        }


def build(settings: ModelSettings) -> EventGPT:
    """Build EventGPT in one of its profiles.

    Raises:
        CheckpointError: where a pretrained folder isn't the authors' layout, or its keys aren't the model's.
    """
    if settings.profile == "pretrained":
        with reading(f"the checkpoint {settings.weights}"):
            return _build_pretrained(settings)
    return build_from_config(config_of(settings.profile), settings)


def config_of(profile: str) -> EventGPTConfig:
    """Real geometry (336 px, 5 + 577 visual tokens); "7b" has the shapes of the authors' checkpoint."""
    return EventGPTConfig(
        **text_shape(profile, 512 if profile == "tiny" else 32003),
        vision_config={**vision_shape(profile, 336), "hidden_act": "quick_gelu"},
        mm_use_im_start_end=True,
        event_feature_adaptor=True,
    )


def build_from_config(config: EventGPTConfig, settings: ModelSettings) -> EventGPT:
    """Build any architecture with random weights, and a tokenizer and an image processor that fit it.

    Args:
        config: left as it is; a copy goes into the network.
        settings: device, dtype, attention and seed; `profile` names the result.
    """
    config = deepcopy(config)
    tokenizer = build_tokenizer(config.vocab_size, config.added_tokens)
    config.event_token_id = _placeholder(tokenizer, config)
    network = random_network(EventGPTForConditionalGeneration, config, settings)
    only_special_tokens(network, tokenizer)
    return EventGPT(settings.profile, network, tokenizer, image_processor(cast(int, config.tower.image_size), settings))


def _build_pretrained(settings: ModelSettings) -> EventGPT:
    weights = str(settings.weights)
    with reading(f"the config of {weights}"):
        config = EventGPTConfig.from_pretrained(weights)
    tokenizer = load_tokenizer(weights, config)
    bones = skeleton(EventGPTForConditionalGeneration, config, settings)
    if config.mm_visual_tower is None:
        raise CheckpointError(f"the config of {weights} must name its CLIP folder in mm_visual_tower, got none")
    source = _tower_source(weights, config.mm_visual_tower)
    processor = pretrained_image_processor(source, cast(int, config.tower.image_size), settings)
    rehearse(EventGPT("pretrained", bones, tokenizer, processor), weights, cast(int, config.tower.image_size))
    check_tokens(weights, config, tokenizer, {})
    config.event_token_id = _placeholder(tokenizer, config)
    network = pretrained_network(EventGPTForConditionalGeneration, settings, config=config)
    if config.vocab_size > len(tokenizer):
        # As the authors do: rows that no token has can't be generated.
        network.resize_token_embeddings(len(tokenizer))
    only_special_tokens(network, tokenizer)
    return EventGPT(settings.profile, network, tokenizer, processor)


def load_tokenizer(folder: str, config: EventGPTConfig) -> SlowLlamaTokenizer:
    """Read a checkpoint's `tokenizer.model` and append the event tokens that its config asks for.

    Raises:
        CheckpointError: where it can't be read.
    """
    with reading(f"the tokenizer of {folder}"):
        tokenizer = SlowLlamaTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(config.added_tokens), special_tokens=True)
    return cast(SlowLlamaTokenizer, tokenizer)


def _placeholder(tokenizer: PreTrainedTokenizerBase, config: EventGPTConfig) -> int:
    token = PATCH_TOKEN if config.mm_use_im_patch_token else tokenizer.unk_token
    return int(cast(int, tokenizer.convert_tokens_to_ids(token)))


def _tower_source(checkpoint: Any, tower: str) -> str:
    """Where `mm_visual_tower` points: a folder beside the checkpoint, an absolute folder, or a hub id."""
    folder = Path(checkpoint) / tower  # of an absolute path only that is left
    if folder.is_dir():
        return str(folder)
    if Path(tower).is_absolute() or tower.startswith(".") or tower.count("/") != 1:
        raise CheckpointError(
            f"mm_visual_tower of {checkpoint} must name an existing folder or a hub id, got {tower!r}"
        )
    return tower
