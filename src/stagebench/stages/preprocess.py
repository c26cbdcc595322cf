"""preprocess: images and a question in host memory -> model-ready tensors on the device.

Resize, crop, normalise, grid, tokenise, copy. The unit of work is the image.
"""

from __future__ import annotations

from stagebench.errors import StageError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.types import Inputs, Media

UNIT = "images"


def preprocess(model: VisionLanguageModel, media: Media, question: str) -> Inputs:
    """Run the stage.

    Raises:
        StageError: where the media do not hold as many images as the model takes, or the question is blank.
    """
    if len(media.images) != model.images_per_sample:
        raise StageError(f"{model.name} takes {model.images_per_sample} images, got {len(media.images)}")
    if not question.strip():
        raise StageError(f"the question must not be blank, got {question!r}")
    return model.preprocess(media, question)
