"""EventGPT: five event images, CLIP, a projector, an adaptor, spatio-temporal pooling, Llama.

This is our own port of the network of https://github.com/XduSyL/EventGPT to a transformers model: its plain
`generate()` takes `pixel_values`. Its state-dict keys are the authors', so their checkpoints load unchanged.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from stagebench.core.errors import CheckpointError, ModelError, StageError
from stagebench.models.protocol import embed_with_features
from stagebench.models.weights import read_config

PATCH_TOKEN, START_TOKEN, END_TOKEN = "<ev_patch>", "<ev_start>", "<ev_end>"


class EventGPTConfig(LlamaConfig):
    """A Llama config with the authors' extra keys, and the CLIP tower's, nested, from the folder `mm_visual_tower`."""

    model_type = "EventChat_llama"
    sub_configs = {"vision_config": CLIPVisionConfig}  # noqa: RUF012 - transformers' own form

    vision_config: dict[str, Any] | CLIPVisionConfig | None = None
    mm_visual_tower: str | None = None  # a folder beside the checkpoint, an absolute folder, or a hub id
    # The authors' defaults, for keys that their checkpoint omits.
    mm_use_im_patch_token: bool = True  # the tokenizer gets <ev_patch>
    mm_use_im_start_end: bool = False  # the tokenizer gets <ev_start> and <ev_end>
    event_feature_adaptor: bool = False  # a linear layer follows the projector
    use_event_qformer: bool = False  # refused: the authors published no code for it
    event_token_id: int | None = None  # id of a visual token; None for `placeholder_id`'s default

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):
            self.vision_config = CLIPVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Return the event tokens appended to the tokenizer at load time, in the authors' order."""
        patch = (PATCH_TOKEN,) if self.mm_use_im_patch_token else ()
        return (*patch, START_TOKEN, END_TOKEN) if self.mm_use_im_start_end else patch

    @property
    def placeholder_id(self) -> int:
        """Return `event_token_id`, else the id of <ev_patch> where the added tokens end the vocabulary, else unk's."""
        if self.event_token_id is not None:
            return self.event_token_id
        return self.vocab_size - len(self.added_tokens) if self.mm_use_im_patch_token else 0

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """Read the config as transformers does, and the CLIP tower's from its place in the authors' layout."""
        config, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config.get("vision_config") and (tower := config.get("mm_visual_tower")):
            source = tower_source(pretrained_model_name_or_path, tower)
            clip = read_config(f"the CLIP config of {source}", CLIPVisionConfig, source, "clip")
            config["vision_config"] = clip.to_dict()
        return config, rest


class _Clip(CLIPVisionModel):
    """CLIP's vision model as our own class: transformers renames the keys of its own class on reading and saving."""


class EventGPTModel(LlamaModel):
    """The Llama decoder; it owns the vision side too, as in the authors' keys, but only decodes."""

    config: EventGPTConfig

    def __init__(self, config: EventGPTConfig) -> None:
        if config.use_event_qformer:
            raise ModelError("use_event_qformer must be absent or false, got true: the query former is not ported")
        if not isinstance(clip := config.vision_config, CLIPVisionConfig):
            raise ModelError(f"an EventGPT config must hold the CLIP tower's vision_config, got {clip!r}")
        super().__init__(config)
        size = config.hidden_size
        # Nested as the authors' keys are: `visual_tower.visual_tower.vision_model.*`.
        self.visual_tower = nn.ModuleDict({"visual_tower": nn.ModuleDict({"vision_model": _Clip(clip)})})
        self.visual_projector = nn.Sequential(nn.Linear(clip.hidden_size, size), nn.GELU(), nn.Linear(size, size))
        self.feature_adaptor = nn.Linear(size, size) if config.event_feature_adaptor else None
        self.post_init()


class EventGPTForConditionalGeneration(LlamaForCausalLM):
    """EventGPT for `generate(input_ids=..., pixel_values=..., attention_mask=...)` with all its options."""

    config: EventGPTConfig
    config_class = EventGPTConfig
    # Constants that older transformers wrote into checkpoints; computed from the config, never read.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$", r"embeddings\.position_ids$"]  # noqa: RUF012 - transformers' own form

    def __init__(self, config: EventGPTConfig) -> None:
        # Skip LlamaForCausalLM's constructor: it would build a second 7B decoder and drop it.
        super(LlamaForCausalLM, self).__init__(config)
        self.model = EventGPTModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Run tower, projector and adaptor: (images, 3, height, width) to (images, tokens, CLS first, hidden size)."""
        tower: CLIPVisionModel = self.get_submodule("model.visual_tower.visual_tower.vision_model")
        # The encoder's last hidden state: no post_layernorm, CLS kept.
        hidden = tower(pixel_values=pixel_values.to(tower.dtype)).last_hidden_state
        tokens: Tensor = self.model.visual_projector(hidden)
        return tokens if self.model.feature_adaptor is None else cast(Tensor, self.model.feature_adaptor(tokens))

    def get_event_features(self, pixel_values: Tensor) -> Tensor:
        """Encode and pool event images: (batch, images, 3, height, width) to (batch, images + tokens, hidden size).

        Of each image the mean over space, then of each token the mean over the images.
        """
        if pixel_values.ndim != 5:
            raise StageError(f"pixel_values must be (batch, images, 3, height, width), got {tuple(pixel_values.shape)}")
        tokens = self.get_image_tokens(pixel_values.flatten(0, 1))
        tokens = tokens.reshape(*pixel_values.shape[:2], *tokens.shape[1:])
        return torch.cat([tokens.mean(dim=2), tokens.mean(dim=1)], dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run Llama's forward, with pixels encoded into the prompt; `generate()` inspects these argument names."""
        if pixel_values is not None:
            if input_ids is None:
                raise StageError("pixel_values need input_ids with placeholders, got inputs_embeds alone")
            features, embedding = self.get_event_features(pixel_values), self.get_input_embeddings()
            inputs_embeds = embed_with_features(embedding, input_ids, self.config.placeholder_id, features)
            input_ids = None
        kwargs |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        kwargs |= {"position_ids": position_ids, "logits_to_keep": logits_to_keep}
        return super().forward(**kwargs)


class SlowLlamaTokenizer(SentencePieceBackend):
    """The sentencepiece Llama tokenizer from before transformers 5, `legacy=True`.

    Text is split at the added tokens, and each part is encoded separately. The normaliser inside `tokenizer.model`
    handles white space beside them; transformers 5's `LlamaTokenizer` ignores it, and needs protobuf.
    """

    padding_side = "left"

    def __init__(self, **kwargs: Any) -> None:
        for name, token in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")):
            kwargs[name] = kwargs.get(name) or token
        kwargs.update(legacy=True, special_tokens_pattern="bos", token_type_ids_pattern="all_zeros")
        super().__init__(**kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text; the base class would not decode byte pieces (`<0x0A>`)."""
        text, pieces = "", list[str]()
        for token in tokens:
            if token in self.added_tokens_encoder:
                text, pieces = text + self.sp_model.decode(pieces) + token, []
            else:
                pieces.append(token)
        return text + cast(str, self.sp_model.decode(pieces))


def tower_source(checkpoint: Any, tower: str) -> str:
    """Return the folder beside the checkpoint, absolute folder, or hub id that `mm_visual_tower` names."""
    folder = Path(checkpoint) / tower  # an absolute path replaces the first part
    if folder.is_dir():
        return str(folder)
    if Path(tower).is_absolute() or tower.startswith(".") or tower.count("/") != 1:
        must = "must name an existing folder or a hub id"
        raise CheckpointError(f"mm_visual_tower of {checkpoint} {must}, got {tower!r}")
    return tower
