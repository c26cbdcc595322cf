"""preprocess: images and a question -> model-ready tensors on the device: resize, crop, normalise, tokenise, copy."""

from collections.abc import Iterable
from typing import Any

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel


def preprocess(model: VisionLanguageModel, media: Media, question: str) -> Inputs:
    """Run the stage; refuse other image counts, and questions that are blank, not Unicode or hold special tokens."""
    if len(media.images) != model.images_per_sample:
        raise StageError(f"{model.name} takes {model.images_per_sample} images, got {len(media.images)}")
    require_question(question, model.name, model.tokenizer, model.placeholder_tokens)
    return model.preprocess(media, question)


def require_question(question: str, name: str, tokenizer: Any, placeholder_tokens: Iterable[str] = ()) -> None:
    """Refuse a question that is blank, not Unicode or holds special tokens of the model of that name."""
    if not question.strip():
        raise StageError(f"the question must not be blank, got {question!r}")
    try:
        question.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise StageError(f"the question must be Unicode text, got {question!r}") from error
    special = {*placeholder_tokens, *tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    # Some tokenizers add runs of blanks.
    if held := ", ".join(sorted(token for token in special if token.strip() and token in question)):
        raise StageError(f"the question must not hold {name}'s special tokens {held}, got {question!r}")
