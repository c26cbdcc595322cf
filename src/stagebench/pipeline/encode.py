"""encode: pixels -> projected visual features. Tower, projector, adaptor, temporal pooling."""

import torch

from stagebench.core.artifacts import Features, Inputs
from stagebench.models.protocol import VisionLanguageModel


@torch.no_grad()
def encode(model: VisionLanguageModel, inputs: Inputs) -> Features:
    """Run the stage."""
    return model.features(inputs)
