"""A model of classes that nobody else has: a tower of one convolution before a Llama, and what makes its inputs.

stagebench verify --model mine
pytest --pyargs stagebench.benchmarks --stage-model=mine
"""

from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import BatchFeature, GenerationMixin, LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from stagebench.models.profiles import build_tokenizer


class MyConfig(PretrainedConfig):
    """The Llama's config, and two numbers of our own."""

    model_type = "my_vlm"
    sub_configs = {"text_config": LlamaConfig}  # noqa: RUF012 # as transformers has it
    text_config: Any = None
    side: int = 64
    image_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, LlamaConfig):
            self.text_config = LlamaConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)


class MyModel(PreTrainedModel, GenerationMixin):
    """What transformers asks of a network whose `generate()` is its own."""

    config_class = MyConfig
    _supports_sdpa = True

    def __init__(self, config: MyConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.tower = nn.Conv2d(3, text.hidden_size, 16, stride=16)
        self.language_model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> Any:
        """Return the language model: what comes before its first call is encode."""
        return self.language_model

    def get_input_embeddings(self) -> Any:
        """Return those of tokens."""
        return self.language_model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Put the features in place of the image tokens, and run the language model."""
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            features = self.tower(pixel_values).flatten(2).transpose(1, 2)
            embeds = embeds.masked_scatter((input_ids == self.config.image_token_id)[..., None], features)
        output = self.language_model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(None, logits, output[1])  # the cache, which had another name before 5.24

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the pixels to the first step only."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        return {**inputs, **({"pixel_values": pixel_values} if is_first_iteration else {})}


class MyProcessor:
    """What stagebench asks of a processor: a tokenizer, a chat template, and tensors of a prompt and its images."""

    chat_template = "images, and a question"

    def __init__(self, config: MyConfig) -> None:
        self.tokenizer, self.side = build_tokenizer(config.text_config.vocab_size, ("<image>",)), config.side
        config.image_token_id = self.tokenizer.convert_tokens_to_ids("<image>")

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], chat_template: str, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Write the prompt as text."""
        parts = conversation[0]["content"]
        return " ".join("<image>" if part["type"] == "image" else part["text"] for part in parts)

    def __call__(self, text: list[str], images: list[list[Image]], return_tensors: str) -> Any:
        """Make pixels (images, 3, side, side) and a prompt with as many image tokens as there will be features."""
        (prompt,), (pictures,) = text, images
        resized = [np.asarray(picture.resize((self.side, self.side))) for picture in pictures]
        pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255
        tokens = (self.side // 16) ** 2
        made = self.tokenizer(prompt.replace("<image>", "<image>" * tokens), return_tensors=return_tensors)
        return BatchFeature({**made, "pixel_values": pixels})
