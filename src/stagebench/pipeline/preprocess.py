"""preprocess: images and a question -> model-ready tensors on the device: resize, crop, normalise, tokenise, copy."""

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel


def preprocess(model: VisionLanguageModel, media: Media, question: str) -> Inputs:
    """Run the stage; refuse other image counts, and questions that are blank, not Unicode or hold special tokens."""
    if len(media.images) != model.images_per_sample:
        raise StageError(f"{model.name} takes {model.images_per_sample} images, got {len(media.images)}")
    if not question.strip():
        raise StageError(f"the question must not be blank, got {question!r}")
    try:
        question.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise StageError(f"the question must be Unicode text, got {question!r}") from error
    special = {*model.placeholder_tokens, *model.tokenizer.all_special_tokens, *model.tokenizer.get_added_vocab()}
    # Some tokenizers add runs of blanks.
    if held := ", ".join(sorted(token for token in special if token.strip() and token in question)):
        raise StageError(f"the question must not hold {model.name}'s special tokens {held}, got {question!r}")
    return model.preprocess(media, question)
