"""Build a model from its registration: a config of real or narrow shapes, and a processor without a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.models.huggingface import HuggingFaceModel, assemble
from stagebench.models.processors import read_processor
from stagebench.models.profiles import build_tokenizer, narrow
from stagebench.models.registration import Registration
from stagebench.models.weights import located, read_config, reading

TINY_VOCABULARY = 512
_TEMPLATE = """{% for message in messages %}USER: {% for part in message.content %}\
{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endfor %} ASSISTANT:"""


def build(registration: Registration, settings: ModelSettings) -> HuggingFaceModel:
    """Build a model in the settings' profile; a checkpoint must have the network's model type."""
    name = registration.name
    network: type[PreTrainedModel] = registration.resolve("network")
    if not (isinstance(network, type) and issubclass(network, PreTrainedModel)):
        raise ModelError(f"the network of {name} must be a class of transformers' networks, got {network!r}")
    with reading(f"the model {name}"):
        if settings.profile == "pretrained":
            settings = located(settings)
            config = read_config(f"the config of {settings.weights}", network.config_class, str(settings.weights))
            own = registration.resolve("processor")
            processor = own(config) if callable(own) else read_processor(config, settings)
        else:
            config = config_of(registration, network, settings.profile)
            processor = _processor(registration, config, settings)
        return assemble(name, network, config, processor, settings)


def config_of(registration: Registration, network: type[PreTrainedModel], profile: str) -> PretrainedConfig:
    """Return the config of real shapes, or for "tiny-random" a narrow one with as many visual tokens per image."""
    kind = network.config_class
    config = kind(**registration.config or {})
    if profile == "tiny-random":
        values = narrow(config.to_dict(), vocab_size=TINY_VOCABULARY)
        config = kind(**_updated(values, dict(registration.tiny)))
    return config


def _updated(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = _updated(values[key], value) if nested else value
    return values


def _processor(registration: Registration, config: PretrainedConfig, settings: ModelSettings) -> Any:
    """Make the processor, and set the ids of its tokenizer's special tokens in the config."""
    made = registration.resolve("processor")
    if callable(made):
        return made(config)
    names = registration.tokens
    tokenizer = build_tokenizer(config.get_text_config().vocab_size, tuple(dict.fromkeys(names.values())), names)
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", registration.image).replace("VIDEO", registration.video)
    _give_ids(config, tokenizer)
    _give_ids(config.get_text_config(), tokenizer)
    with TemporaryDirectory() as folder:  # as in a checkpoint: transformers has no other way for all processors
        tokenizer.save_pretrained(folder)
        for file, values in _files(registration, config.model_type, dict(made)).items():
            (Path(folder) / file).write_text(json.dumps(values), encoding="utf-8")
        return read_processor(config, replace(settings, weights=folder, preprocess="checkpoint"))


def _files(registration: Registration, model_type: str, processor: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a checkpoint's files of processor settings by name; those for videos equal those for images."""
    if model_type not in PROCESSOR_MAPPING_NAMES or model_type not in IMAGE_PROCESSOR_MAPPING_NAMES:
        must = f"the processor of {registration.name} must be a function: transformers has none for {model_type}"
        raise ModelError(f"{must}, got settings")
    classes, of_image = IMAGE_PROCESSOR_MAPPING_NAMES[model_type], dict(registration.image_processor)
    files = {
        "preprocessor_config.json": {"image_processor_type": classes.get("torchvision", classes.get("pil"))} | of_image,
        "processor_config.json": {"processor_class": PROCESSOR_MAPPING_NAMES[model_type]} | processor,
    }
    if found := VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type):
        name = found if isinstance(found, str) else found["torchvision"]  # since transformers 5.24
        files["video_preprocessor_config.json"] = {"video_processor_type": name} | of_image
    return files


def _give_ids(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    for name, token in tokenizer.special_tokens_map.items():
        for key in (f"{name}_id", f"{name}_index"):
            if isinstance(token, str) and hasattr(config, key):
                setattr(config, key, tokenizer.convert_tokens_to_ids(token))
