"""Processors of checkpoints: they make pixels and a prompt from a clip's frames and a question."""

import inspect
import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import transformers
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.tokenization_python import TOKENIZER_CONFIG_FILE
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, is_torchvision_available
from transformers.video_utils import VideoMetadata

from stagebench.core.artifacts import Media
from stagebench.core.errors import CheckpointError, MediaError, ModelError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import one_line
from stagebench.models.weights import file_of

_CLOCK = 1000  # ticks per second of the frames' times


Shown = tuple[list[dict[str, str]], dict[str, Any]]
"""A clip for a processor: parts of a message, as a chat template takes them, and the processor's own arguments."""


def as_images(media: Media) -> Shown:
    """Return the frames as several images."""
    images = [Image.fromarray(image) for image in media.images]
    return [{"type": "image"}] * len(images), {"images": [images]}


def as_video(media: Media) -> Shown:
    """Return all frames as one video, each at its own time; raise MediaError for several sizes or unknown times."""
    times, number = media.times, len(media.images)
    if not times or not times[-1]:
        raise MediaError(f"a video needs the times of its frames, got {'one alone' if times else 'none'}")
    if len(sizes := {image.shape[:2] for image in media.images}) > 1:
        raise MediaError(f"a video needs frames of one size, got {len(sizes)} sizes (--image-size)")
    total = round(times[-1] * _CLOCK * number / (number - 1))
    metadata = VideoMetadata(
        total_num_frames=total,
        fps=float(_CLOCK),
        height=media.images[0].shape[0],
        width=media.images[0].shape[1],
        duration=total / _CLOCK,
        frames_indices=[round(time * _CLOCK) for time in times],
    )
    video = {"videos": [np.stack(media.images)], "video_metadata": [metadata], "do_sample_frames": False}
    return [{"type": "video"}], video


def prompt_of(processor: ProcessorMixin, content: list[dict[str, str]], question: str) -> tuple[str, dict[str, bool]]:
    """Return a prompt in the chat template, or the question without one; and arguments for the tokenizer."""
    tokenizer = processor.tokenizer
    if not (template := _template_of(processor)):
        return question, {}
    message = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    text: str = processor.apply_chat_template(message, template, tokenize=False, add_generation_prompt=True)
    # A template may write BOS itself.
    own = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return text, {"add_special_tokens": False} if own else {}


def _template_of(processor: ProcessorMixin) -> Any:
    return processor.chat_template or getattr(processor.tokenizer, "chat_template", None)


def processed(processor: ProcessorMixin, shown: Shown, question: str) -> Mapping[str, Any]:
    """Return a processor's tensors, for a batch of one, from a clip and a prompt in its chat template.

    Without a template the prompt is the question alone, and the processor must put one image before it. Raise
    ModelError where it does not, and for more than one image.
    """
    tokenizer, (content, arguments) = processor.tokenizer, shown
    template, (text, special) = _template_of(processor), prompt_of(processor, content, question)
    if not template:
        if content != [{"type": "image"}]:
            got = f"{len(content)} images (--frames)" if content[1:] else "a video"
            raise ModelError(f"without a chat template a prompt must hold one image, got {got}")
        arguments = {"images": arguments["images"][0]}
    try:
        made: Mapping[str, Any] = processor(text=[text], return_tensors="pt", **arguments, **special)
    except Exception as error:  # not narrower: processors are the checkpoint's code
        if template:
            raise
        raise ModelError(f"it has no chat template, and refuses a prompt without one: {one_line(error)}") from error
    placeholder = str(getattr(processor, "image_token", ""))
    if not (template or not placeholder or tokenizer.convert_tokens_to_ids(placeholder) in made["input_ids"]):
        raise ModelError(f"it has no chat template, and puts no {placeholder} into a prompt without one")
    return made


def read_processor(config: PretrainedConfig, settings: ModelSettings) -> ProcessorMixin:
    """Read a checkpoint's processor; without torchvision, its family's with a PIL image processor and no video.

    A processor in the checkpoint's own Python files is read where they are trusted. Raise ModelError where torchvision
    is needed, or a video requested and not supported; CheckpointError where it is no processor of images and text.
    """
    source, trusted, videos = str(settings.weights), settings.trust_remote_code, settings.as_ == "video"
    if is_torchvision_available() or (trusted and _has_own_code(source)):
        found = AutoProcessor.from_pretrained(source, trust_remote_code=trusted)
        if not isinstance(found, ProcessorMixin):
            got = type(found).__name__
            raise CheckpointError(f"the checkpoint {source} must have a processor of images and text, got {got}")
    else:
        found = _without_torchvision(source, config, trusted)
        if videos and hasattr(found, "video_processor"):
            raise ModelError(f"a video for {config.model_type} needs torchvision: pip install torchvision")
    call = type(found).__call__
    named = call is not ProcessorMixin.__call__ and "videos" in inspect.signature(call).parameters  # the base's has all
    if videos and not named and getattr(found, "video_processor", None) is None:
        raise ModelError(f"{config.model_type} takes images but no video, got --as video")
    return found


def _has_own_code(source: str) -> bool:
    """Return whether the checkpoint's own Python files make its pixels."""
    files = [file_of(source, name) for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, TOKENIZER_CONFIG_FILE)]
    mapped = [json.loads(file.read_text(encoding="utf-8")).get("auto_map") or {} for file in files if file is not None]
    return any(kind in names for names in mapped for kind in ("AutoProcessor", "AutoImageProcessor"))


def _without_torchvision(source: str, config: PretrainedConfig, trusted: bool) -> ProcessorMixin:
    """Build the processor of a checkpoint's family with a PIL image processor and no video processor."""
    kind = config.model_type
    settings, _ = ProcessorMixin.get_processor_dict(source)
    try:
        family = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(kind, settings.get("processor_class", "")), None)
    except ModuleNotFoundError:  # such as gemma4's before transformers 5.17
        family = None
    default = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, {}).get("pil", "")
    pil = None
    if family is not None and (default or kind not in PROCESSOR_MAPPING_NAMES):
        said, _ = ImageProcessingMixin.get_image_processor_dict(source)
        named = said.get("image_processor_type", default).removesuffix("Fast").removesuffix("Pil")
        pil = getattr(transformers, f"{named}Pil", getattr(transformers, default) if named == default else None)
    if pil is None or family is None or getattr(pil, "is_dummy", False):  # a dummy class
        raise ModelError(f"the processor of {kind} needs torchvision: pip install torchvision")
    if (named := settings.get("processor_class", family.__name__)) != family.__name__:
        also = " from its own Python files (--trust-remote-code)" if _has_own_code(source) else ""
        must = f"the checkpoint {source} must name {family.__name__} as its processor"
        raise CheckpointError(f"{must}, got {named}{also}")
    accepted = set(inspect.signature(family.__init__).parameters)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    parts = {"image_processor": pil.from_pretrained(source), "tokenizer": tokenizer}
    given: Mapping[str, Any] = dict.fromkeys(accepted & {"video_processor", "feature_extractor"}) | settings | parts
    checked = ProcessorMixin.check_argument_for_proper_class
    with patch.object(ProcessorMixin, checked.__name__, lambda *each: each[-1] is None or checked(*each)):
        processor: ProcessorMixin = family(**{key: value for key, value in given.items() if key in accepted})
    # The base class's method: some families' own calls the video processor.
    processor.apply_chat_template = partial(ProcessorMixin.apply_chat_template, processor)
    return processor
