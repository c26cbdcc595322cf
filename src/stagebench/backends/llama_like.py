"""Which decoders the fused step computes: Llama's, and those that differ in biases, norms of heads, and positions."""

from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLTextModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer, Qwen2VLTextModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, Qwen3VLTextModel

_LAYERS = {
    LlamaModel: LlamaDecoderLayer,
    Qwen2Model: Qwen2DecoderLayer,
    Qwen2VLTextModel: Qwen2VLDecoderLayer,
    Qwen2_5_VLTextModel: Qwen2_5_VLDecoderLayer,
    Qwen3Model: Qwen3DecoderLayer,
    Qwen3VLTextModel: Qwen3VLTextDecoderLayer,
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
    return None if layers_of(decoder) else f"a decoder of {', '.join(names)}, got {type(decoder).__name__}"
