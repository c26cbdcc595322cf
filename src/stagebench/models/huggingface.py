"""Any vision-language model of transformers, from a folder or the hub's cache. Nothing here is specific to a family."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import GENERATION_CONFIG_NAME

from stagebench.core import meter
from stagebench.core.artifacts import Features, Inputs, Media
from stagebench.core.errors import ModelError, StagebenchError, StageError
from stagebench.core.settings import ModelSettings
from stagebench.core.shown import one_line
from stagebench.models import weights
from stagebench.models.processors import as_images, as_video, processed, read_processor
from stagebench.models.profiles import narrow
from stagebench.models.protocol import CallBackend, VisionLanguageModel
from stagebench.models.tape import DirectCalls, Encoders, Tape

_OWN_CLASSES = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM", "AutoModel")
"""Keys of a checkpoint's `auto_map` for the class that reads images and writes text, the best first."""


@dataclass(frozen=True, eq=False)
class HuggingFaceModel(VisionLanguageModel):
    """A checkpoint's network and processor. Prefill replays the encoders' outputs to `generate()`."""

    input_kind = "video"
    placeholder_tokens: ClassVar = ()  # special tokens of the processor's tokenizer

    shown_as: ClassVar[str]  # how its processor gets a clip, one of `core.settings.SHOWN_AS`

    backend: CallBackend | None = None
    encoders: Encoders = field(kw_only=True)
    # How encode calls the encoders, by names and shapes of its inputs: learnt at the first use
    direct: dict[Any, DirectCalls] = field(default_factory=dict)

    @property
    def counted_modules(self) -> dict[str, nn.Module]:
        """Return the language model, and as the tower the largest other module that encode runs (once it has run)."""
        modules = [self.encoders.modules[path] for path in self.encoders.ran or self.encoders.modules]
        tower = max(modules, key=lambda module: sum(map(Tensor.numel, module.parameters())))
        language_model = self.hf_model.get_decoder()
        if self.hf_model.config.is_encoder_decoder and hasattr(language_model, "get_decoder"):
            language_model = language_model.get_decoder()  # some call the inner decoder directly
        return {"tower": tower, "language_model": language_model}

    @property
    def setups(self) -> int:
        """Return the number of shapes with learnt encoder calls, plus the backend's set-ups."""
        return len(self.direct) + super().setups

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Make pixels and a prompt with the checkpoint's processor and chat template."""
        device, dtype = self.hf_model.device, self.hf_model.dtype
        shown = as_video(media) if self.shown_as == "video" else as_images(media)
        try:
            made = processed(self.image_processor, shown, question)
            meter.add("images_processed", len(media.images))
            given = {
                name: tensor.to(device, dtype if tensor.is_floating_point() and tensor.ndim > 1 else None)
                for name, tensor in made.items()
                if name != "labels"  # for training
            }
            ids = given.pop("input_ids")
            mask = given.pop("attention_mask", torch.ones_like(ids))
        except Exception as error:  # not narrower: templates and processors are the checkpoint's code
            got = str(error) if isinstance(error, StagebenchError) else one_line(error)
            raise StageError(f"the processor of {self.name} must take the sample, got {got}") from error
        return Inputs(ids, mask, given, images=len(media.images))

    def features(self, inputs: Inputs) -> Features:
        """Encode, by the backend where there is one."""
        tape: Tape = (self.backend or self).encode(inputs)
        return Features(_tokens(tape), tape)

    def encode(self, inputs: Inputs) -> Tape:
        """Call the encoders directly; where they need intermediate values of `generate()`, run it up to there."""
        given, calls = self.reference_inputs(inputs), self.calls(inputs)
        return self.encoders.record(given)[0] if calls is None else self.encoders.call(calls, given)

    def calls(self, inputs: Inputs) -> DirectCalls:
        """Return the encoders' direct calls for inputs of these shapes, learnt once; None where there are none."""
        given = self.reference_inputs(inputs)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(given.items()))
        if shapes not in self.direct:
            self.direct[shapes] = self.encoders.record(given)[1]
        return self.direct[shapes]

    @contextmanager
    def prompted(self, inputs: Inputs, features: Features) -> Iterator[dict[str, Any]]:
        """Yield all inputs, and answer the encoders' calls from the features."""
        prompting = nullcontext() if self.backend is None else self.backend.prompting(inputs.input_ids.shape[1])
        with self.encoders.replayed(features.tape), prompting:
            yield self.reference_inputs(inputs)


def _tokens(tape: Tape) -> Tensor:
    """Return the last encoder's output as (1, visual tokens, hidden size)."""
    answer = tape[-1].output
    found = getattr(answer, "pooler_output", answer)
    parts = [part.flatten(0, -2) for part in (found if isinstance(found, list | tuple) else [found])]
    follow = all(one.data_ptr() + one.nbytes == other.data_ptr() for one, other in pairwise(parts))
    of_one = len({part.untyped_storage().data_ptr() for part in parts}) == 1
    if follow and of_one and all(part.is_contiguous() for part in parts):  # split by images: a copy would be timed
        rows, width = sum(map(len, parts)), parts[0].shape[-1]
        whole: Tensor = parts[0].as_strided((1, rows, width), (rows * width, width, 1))
        return whole
    return torch.cat(parts).unsqueeze(0)


def build(name: str, settings: ModelSettings) -> HuggingFaceModel:
    """Build "hf:FOLDER" or "hf:ID", or refuse it in one line; weights are read with the profile "pretrained" only."""
    with weights.reading(f"the checkpoint {settings.weights}"):
        settings, config, cls, processor = parts(name, settings)
        if settings.profile == "tiny-random":  # with an embedding for each token of the processor
            config = type(config)(**narrow(config.to_dict()))
        return assemble(name, cls, config, processor, settings)


def parts(name: str, settings: ModelSettings) -> tuple[ModelSettings, PretrainedConfig, type[PreTrainedModel], Any]:
    """Return where a checkpoint is, its config, its network's class and its processor; call it within `reading`."""
    settings = weights.located(settings)
    with _own_files_of(name):
        config = AutoConfig.from_pretrained(settings.weights, trust_remote_code=settings.trust_remote_code)
        cls = _class_of(name, config, settings)
        return settings, config, cls, read_processor(config, settings)


def assemble(
    name: str, cls: type[PreTrainedModel], config: PretrainedConfig, processor: Any, settings: ModelSettings
) -> HuggingFaceModel:
    """Build a model from a random or pretrained network and a processor; call it within `reading`."""
    quantised = weights.quantised_by(config)
    if not cls._supports_sdpa:
        settings = replace(settings, attention="eager")  # as transformers itself does
    if settings.profile == "pretrained":
        if not quantised:
            weights.skeleton(cls, config, settings)  # refuses files that can't fill it
        hf_model = weights.read_weights(cls, config, settings)
    elif quantised:
        raise ModelError(f"random weights can't be quantised, got {name}, quantised by {quantised}")
    else:
        hf_model = _random_network(cls, config, settings)
    hf_model.requires_grad_(False)  # else some operators can't be counted
    if settings.weights and weights.file_of(settings.weights, GENERATION_CONFIG_NAME):
        hf_model.generation_config = GenerationConfig.from_pretrained(settings.weights)
    weights.only_special_tokens(hf_model, processor.tokenizer)
    of_class = {"name": name, "images_per_sample": settings.frames, "shown_as": settings.as_}
    kind: type[HuggingFaceModel] = type("HuggingFaceModel", (HuggingFaceModel,), of_class)
    return kind(settings.profile, hf_model, processor.tokenizer, processor, encoders=Encoders(hf_model))


@contextmanager
def _own_files_of(name: str) -> Iterator[None]:
    """Name our option where transformers names its argument, and refuse Python files that exit the process."""
    try:
        yield
    except SystemExit as error:
        raise ModelError(f"the Python files of {name} must define its classes, but exit the process") from error
    except ValueError as error:
        if "trust_remote_code=True" not in str(error):
            raise
        raise ModelError(f"{name} needs its own Python files: read them, then pass --trust-remote-code") from error


def _class_of(name: str, config: PretrainedConfig, settings: ModelSettings) -> type[PreTrainedModel]:
    """Return the class of a checkpoint's network: from its own Python files if they are trusted, else transformers'."""
    own, known = getattr(config, "auto_map", None) or {}, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    reference = next((own[kind] for kind in _OWN_CLASSES if kind in own), None)
    if reference and settings.trust_remote_code:
        own_class = get_class_from_dynamic_module(reference, str(settings.weights))
        found: type[PreTrainedModel] = add_generation_mixin_to_remote_model(own_class)
        return found
    if config.model_type not in known:
        also = " with its own Python files (--trust-remote-code)" if reference else ""
        raise ModelError(f"{name} must be a model of images and text, got model_type {config.model_type!r}{also}")
    of_transformers: type[PreTrainedModel] = getattr(transformers, known[config.model_type])
    return of_transformers


def _random_network(cls: type[PreTrainedModel], config: PretrainedConfig, settings: ModelSettings) -> PreTrainedModel:
    """Draw all weights, also those that some families initialise to zero: with these, texts ignore the pixels."""
    hf_model = weights.from_config(cls, config, settings, settings.device).requires_grad_(False)
    seeded = torch.Generator(hf_model.device).manual_seed(settings.seed)
    for weight in hf_model.parameters():
        if not weight.any() or (weight.ndim > 1 and float(weight.std()) < 1e-6):
            weight.normal_(std=getattr(config.get_text_config(), "initializer_range", 0.02), generator=seeded)
    return hf_model
