"""The processors of checkpoints: what makes pixels and a prompt of images and a question."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.tokenization_python import TOKENIZER_CONFIG_FILE
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, is_torchvision_available

from stagebench.core.errors import CheckpointError, ModelError
from stagebench.models.weights import file_of


def read_processor(source: str, config: PretrainedConfig, trusted: bool) -> ProcessorMixin:
    """Read a checkpoint's processor; without torchvision that of its family with a PIL image processor, and no video.

    One of the checkpoint's own Python files is read where they are trusted. Raise ModelError where the family has none,
    which says what to install, and CheckpointError for what is no processor of images and text.
    """
    if is_torchvision_available() or (trusted and _has_own(source)):
        found = AutoProcessor.from_pretrained(source, trust_remote_code=trusted)
        if not isinstance(found, ProcessorMixin):
            got = type(found).__name__
            raise CheckpointError(f"the checkpoint {source} must have a processor of images and text, got {got}")
        return found
    return _without_torchvision(source, config, trusted)


def _has_own(source: str) -> bool:
    """Say whether the checkpoint's own files make its pixels."""
    files = [file_of(source, name) for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, TOKENIZER_CONFIG_FILE)]
    mapped = [json.loads(file.read_text(encoding="utf-8")).get("auto_map") or {} for file in files if file is not None]
    return any(kind in names for names in mapped for kind in ("AutoProcessor", "AutoImageProcessor"))


def _without_torchvision(source: str, config: PretrainedConfig, trusted: bool) -> ProcessorMixin:
    kind = config.model_type
    settings, _ = ProcessorMixin.get_processor_dict(source)
    family = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(kind, settings.get("processor_class", "")), None)
    default = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, {}).get("pil", "")
    pil = None
    if family is not None and (default or kind not in PROCESSOR_MAPPING_NAMES):
        said, _ = ImageProcessingMixin.get_image_processor_dict(source)
        named = said.get("image_processor_type", default).removesuffix("Fast").removesuffix("Pil")
        pil = getattr(transformers, f"{named}Pil", getattr(transformers, default) if named == default else None)
    if pil is None or family is None:
        raise ModelError(f"the processor of {kind} needs torchvision: pip install torchvision")
    if (named := settings.get("processor_class", family.__name__)) != family.__name__:
        also = ", of its own Python files, for which there is --trust-remote-code" if _has_own(source) else ""
        must = f"the checkpoint {source} must name {family.__name__} as its processor"
        raise CheckpointError(f"{must}, got {named}{also}")
    accepted = set(inspect.signature(family.__init__).parameters)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    parts = {"image_processor": pil.from_pretrained(source), "tokenizer": tokenizer}
    given: Mapping[str, Any] = dict.fromkeys(accepted & {"video_processor"}) | settings | parts
    without_video = type(family.__name__, (_WithoutVideo, family), {})
    processor: ProcessorMixin = without_video(**{key: value for key, value in given.items() if key in accepted})
    return processor


class _WithoutVideo:
    """Let a processor be built where its video processor, which needs torchvision, is left out."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return None if argument is None else super().check_argument_for_proper_class(name, argument)  # type: ignore[misc] # of the family, which is mixed in
