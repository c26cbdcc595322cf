"""encode: pixels -> projected visual features. Tower, projector, adaptor, temporal pooling."""

import torch

from stagebench.core.artifacts import Features, Inputs
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel


@torch.no_grad()
def encode(model: VisionLanguageModel, inputs: Inputs) -> Features:
    """Run the stage; refuse features that are not (batch, visual tokens, hidden size of the language model)."""
    features = Features((model.backend or model).encode(inputs))
    batch, hidden = inputs.pixels.shape[0], model.hf_model.config.get_text_config().hidden_size
    if features.tokens.shape[::2] != (batch, hidden):
        expected, got = f"(batch {batch}, visual tokens, hidden {hidden})", tuple(features.tokens.shape)
        raise StageError(f"{model.name}'s features must be {expected}, got {got}")
    return features
