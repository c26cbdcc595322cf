"""Which decoders the fused step computes: Llama's, and those that differ in biases and in positions alone."""

from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLTextModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer, Qwen2VLTextModel

_LAYERS = {
    LlamaModel: LlamaDecoderLayer,
    Qwen2Model: Qwen2DecoderLayer,
    Qwen2VLTextModel: Qwen2VLDecoderLayer,
    Qwen2_5_VLTextModel: Qwen2_5_VLDecoderLayer,
}
"""Each decoder with its layers' class."""


def layers_of(decoder: object) -> type | None:
    """Return the class that a decoder's layers must have; None for a decoder that is not like Llama's."""
    forward = getattr(type(decoder), "forward", None)
    return next((layer for known, layer in _LAYERS.items() if forward is known.forward), None)


def why_not_llama_like(hf_model: PreTrainedModel) -> str | None:
    """Return which decoder the fused step needs and a network lacks; None where it has one."""
    decoder = hf_model.get_decoder()
    names = [known.__name__ for known in _LAYERS]
    needed = f"{', '.join(names[:-1])} or {names[-1]} of transformers as decoder"
    return None if layers_of(decoder) else f"{needed}, got {type(decoder).__name__}"
