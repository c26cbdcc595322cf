"""Any vision-language model of transformers, out of a folder or the hub's cache: nothing here is of one family."""

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
"""What a checkpoint's config calls the class in its own Python files that reads images and writes text, best first."""


@dataclass(frozen=True, eq=False)
class HuggingFaceModel(VisionLanguageModel):
    """A checkpoint's network and processor. What its encoders gave, prefill replays to `generate()`."""

    input_kind = "video"
    placeholder_tokens: ClassVar = ()  # the processor's, which are special tokens of its tokenizer

    shown_as: ClassVar[str]  # what its processor gets of a clip, one of `core.settings.SHOWN_AS`

    backend: CallBackend | None = None
    encoders: Encoders = field(kw_only=True)
    # How encode calls them, by names and shapes of its inputs: learnt when they come for the first time
    direct: dict[Any, DirectCalls] = field(default_factory=dict)

    @property
    def counted_modules(self) -> dict[str, nn.Module]:
        """Call the largest module beside the language model the tower: of those that encode runs, once it has."""
        modules = [self.encoders.modules[path] for path in self.encoders.ran or self.encoders.modules]
        tower = max(modules, key=lambda module: sum(map(Tensor.numel, module.parameters())))
        language_model = self.hf_model.get_decoder()
        if self.hf_model.config.is_encoder_decoder and hasattr(language_model, "get_decoder"):
            language_model = language_model.get_decoder()  # some call it without what holds it and the encoder of texts
        return {"tower": tower, "language_model": language_model}

    @property
    def setups(self) -> int:
        """Count the shapes for which the encoders' calls were learnt, and what a backend set up."""
        return len(self.direct) + super().setups

    def preprocess(self, media: Media, question: str) -> Inputs:
        """Let the checkpoint's processor make pixels, and a prompt of its chat template."""
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
        except Exception as error:  # no narrower: templates and processors are the checkpoint's
            got = str(error) if isinstance(error, StagebenchError) else one_line(error)
            raise StageError(f"the processor of {self.name} must take the sample, got {got}") from error
        return Inputs(ids, mask, given, images=len(media.images))

    def features(self, inputs: Inputs) -> Features:
        """Encode, by the backend where there is one."""
        tape: Tape = (self.backend or self).encode(inputs)
        return Features(_tokens(tape), tape)

    def encode(self, inputs: Inputs) -> Tape:
        """Call the encoders directly; where they need what `generate()` makes on the way, let it go as far as that."""
        given, calls = self.reference_inputs(inputs), self.calls(inputs)
        return self.encoders.record(given)[0] if calls is None else self.encoders.call(calls, given)

    def calls(self, inputs: Inputs) -> DirectCalls:
        """Say how the encoders are called directly for inputs of these shapes, which is learnt once."""
        given = self.reference_inputs(inputs)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(given.items()))
        if shapes not in self.direct:
            self.direct[shapes] = self.encoders.record(given)[1]
        return self.direct[shapes]

    @contextmanager
    def prompted(self, inputs: Inputs, features: Features) -> Iterator[dict[str, Any]]:
        """Give all inputs, and answer the encoders' calls with the features."""
        prompting = nullcontext() if self.backend is None else self.backend.prompting(inputs.input_ids.shape[1])
        with self.encoders.replayed(features.tape), prompting:
            yield self.reference_inputs(inputs)


def _tokens(tape: Tape) -> Tensor:
    """Return what the last encoder gave as (1, visual tokens, hidden size)."""
    answer = tape[-1].output
    found = getattr(answer, "pooler_output", answer)
    parts = [part.flatten(0, -2) for part in (found if isinstance(found, list | tuple) else [found])]
    follow = all(one.data_ptr() + one.nbytes == other.data_ptr() for one, other in pairwise(parts))
    of_one = len({part.untyped_storage().data_ptr() for part in parts}) == 1
    if follow and of_one and all(part.is_contiguous() for part in parts):  # split by images: no copy is to be timed
        rows, width = sum(map(len, parts)), parts[0].shape[-1]
        whole: Tensor = parts[0].as_strided((1, rows, width), (rows * width, width, 1))
        return whole
    return torch.cat(parts).unsqueeze(0)


def build(name: str, settings: ModelSettings) -> HuggingFaceModel:
    """Build "hf:FOLDER" or "hf:ID", or refuse it in one line; weights are read if it is to be pretrained."""
    with weights.reading(f"the checkpoint {settings.weights}"):
        settings = weights.located(settings)
        with _own_files_of(name):
            config = AutoConfig.from_pretrained(settings.weights, trust_remote_code=settings.trust_remote_code)
            cls = _class_of(name, config, settings)
            processor = read_processor(config, settings)
        if settings.profile == "tiny":  # but with an embedding for each token that the processor may give
            config = type(config)(**narrow(config.to_dict()))
        return assemble(name, cls, config, processor, settings)


def assemble(
    name: str, cls: type[PreTrainedModel], config: PretrainedConfig, processor: Any, settings: ModelSettings
) -> HuggingFaceModel:
    """Build a network, random or of the settings' weights, and the model of it and a processor; within `reading`."""
    quantised = weights.quantised_by(config)
    if not cls._supports_sdpa:
        settings = replace(settings, attention="eager")  # as transformers itself would
    if settings.profile == "pretrained":
        if not quantised:
            weights.skeleton(cls, config, settings)  # refuses files that can't fill it
        hf_model = weights.read_weights(cls, config, settings)
    elif quantised:
        raise ModelError(f"random weights are not quantised, as those of {name} are, by {quantised}")
    else:
        hf_model = _random_network(cls, config, settings)
    hf_model.requires_grad_(False)  # or some operators can't be counted
    if settings.weights and weights.file_of(settings.weights, GENERATION_CONFIG_NAME):
        hf_model.generation_config = GenerationConfig.from_pretrained(settings.weights)
    weights.only_special_tokens(hf_model, processor.tokenizer)
    of_class = {"name": name, "images_per_sample": settings.frames, "shown_as": settings.as_}
    kind: type[HuggingFaceModel] = type("HuggingFaceModel", (HuggingFaceModel,), of_class)
    return kind(settings.profile, hf_model, processor.tokenizer, processor, encoders=Encoders(hf_model))


@contextmanager
def _own_files_of(name: str) -> Iterator[None]:
    """Name our option where transformers names its argument, and refuse files that end the process."""
    try:
        yield
    except SystemExit as error:
        raise ModelError(f"the Python files of {name} must define its classes, got an exit of the process") from error
    except ValueError as error:
        if "trust_remote_code=True" not in str(error):
            raise
        raise ModelError(f"{name} needs Python files of its own: read them, and give --trust-remote-code") from error


def _class_of(name: str, config: PretrainedConfig, settings: ModelSettings) -> type[PreTrainedModel]:
    """Return the class of a checkpoint's network: of its own Python files where they are trusted, or transformers'."""
    own, known = getattr(config, "auto_map", None) or {}, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    reference = next((own[kind] for kind in _OWN_CLASSES if kind in own), None)
    if reference and settings.trust_remote_code:
        own_class = get_class_from_dynamic_module(reference, str(settings.weights))
        found: type[PreTrainedModel] = add_generation_mixin_to_remote_model(own_class)
        return found
    if config.model_type not in known:
        also = ", and Python files of its own, for which there is --trust-remote-code" if reference else ""
        raise ModelError(f"{name} must be a model of images and text, got model_type {config.model_type!r}{also}")
    of_transformers: type[PreTrainedModel] = getattr(transformers, known[config.model_type])
    return of_transformers


def _random_network(cls: type[PreTrainedModel], config: PretrainedConfig, settings: ModelSettings) -> PreTrainedModel:
    """Draw all weights; also those that some families start at zero, with which a text would not depend on pixels."""
    hf_model = weights.from_config(cls, config, settings, settings.device).requires_grad_(False)
    seeded = torch.Generator(hf_model.device).manual_seed(settings.seed)
    for weight in hf_model.parameters():
        if not weight.any() or (weight.ndim > 1 and float(weight.std()) < 1e-6):
            weight.normal_(std=getattr(config.get_text_config(), "initializer_range", 0.02), generator=seeded)
    return hf_model
