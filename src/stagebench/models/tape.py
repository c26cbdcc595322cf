"""What the encoders of a transformers model gave `generate()`: recorded by encode, replayed by prefill.

No family is known here. `generate()` itself decides what its encoders are asked and what it does with their answers, so
positions, masks, deepstack features and cross-attention stay the model's own.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from stagebench.core.errors import StageError

_METHODS = ("get_image_features", "get_video_features")


@dataclass(frozen=True, slots=True)
class EncoderCall:
    """One call of an encoder, and its answer."""

    encoder: str  # a method of the base model, or a module's path in the network
    output: Any = field(repr=False)
    versions: tuple[int, ...] = field(repr=False)  # of its tensors, when it was made: a write in place raises them

    def answer(self) -> Any:
        """Return the output once more; raise StageError where somebody wrote into it."""
        if _versions(self.output) != self.versions:
            raise StageError(f"what {self.encoder} gave was overwritten after encode")
        return _shallow(self.output)


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A call that encode can make without `generate()`: each argument is one of its inputs, or a constant."""

    encoder: str
    inputs: Mapping[str, str]  # argument -> name of the input
    constants: Mapping[str, Any]  # argument -> value


Tape = tuple[EncoderCall, ...]
DirectCalls = tuple[DirectCall, ...] | None
"""None where an encoder is asked about something that `generate()` makes on the way."""


class _LanguageModelStartsError(BaseException):
    """Ends a recording. Not an `Exception`, so that no model handles it."""


@torch.no_grad()
def record(hf_model: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Tape, DirectCalls]:
    """Run `generate()` until its language model would start, and keep what its encoders are asked and answer.

    Raise StageError where no encoder is called by then: what sees the pixels is a part of the language model.
    """
    tape: list[EncoderCall] = []
    direct: list[DirectCall | None] = []

    def call(encoder: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        tape.append(_taped(encoder, output))
        direct.append(_direct(encoder, inspect.signature(function).bind(*args, **kwargs), inputs))
        return output

    def start(*_: Any) -> None:
        raise _LanguageModelStartsError

    language_model = hf_model.get_encoder() if hf_model.config.is_encoder_decoder else hf_model.get_decoder()
    handle = language_model.register_forward_pre_hook(start, prepend=True)  # before whoever counts
    try:
        with _outermost_calls(hf_model, call), suppress(_LanguageModelStartsError):
            hf_model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        handle.remove()
    if not tape:
        raise StageError(f"{type(hf_model).__name__} can't be split: no encoder is called before its language model")
    known = [each for each in direct if each is not None]
    return tuple(tape), tuple(known) if len(known) == len(tape) else None


@torch.no_grad()
def call_directly(hf_model: PreTrainedModel, calls: tuple[DirectCall, ...], inputs: Mapping[str, Any]) -> Tape:
    """Call the encoders as `record` saw them called, for inputs of the same shapes."""
    encoders = _encoders(hf_model)
    return tuple(
        _taped(
            call.encoder,
            encoders[call.encoder](**call.constants, **{key: inputs[name] for key, name in call.inputs.items()}),
        )
        for call in calls
    )


@contextmanager
def replayed(hf_model: PreTrainedModel, tape: Tape) -> Iterator[None]:
    """Answer the encoders' calls from the tape, in order; raise StageError for a call too many, too few or another."""
    if not tape:
        raise StageError("a tape must hold at least one encoder's answer, got none")
    left = list(tape)

    def call(encoder: str, *_: Any) -> Any:
        expected = left[0].encoder if left else "no further call"
        if encoder != expected:
            raise StageError(f"prefill must ask the encoders what encode did, {expected}, got {encoder}")
        return left.pop(0).answer()

    with _outermost_calls(hf_model, call):
        yield
    if left:
        raise StageError(f"prefill must use all that encode made, got nothing asked of {left[0].encoder}")


def _encoders(hf_model: PreTrainedModel) -> dict[str, Callable[..., Any]]:
    """Return the methods of the base model, and the topmost modules beside the language model, that encode."""
    base = hf_model.base_model
    methods = {name: getattr(base, name) for name in _METHODS if hasattr(base, name)}
    return methods | {path: module.forward for path, module in visual_modules(hf_model).items()}


def visual_modules(hf_model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the topmost modules beside the language model, by their paths in the network."""
    decoder, embeddings = hf_model.get_decoder(), (hf_model.get_input_embeddings(), hf_model.get_output_embeddings())
    language = {id(part) for module in (decoder, *embeddings) if module is not None for part in module.modules()}
    modules: dict[str, nn.Module] = {}
    for path, module in hf_model.named_modules():
        holds_decoder = any(part is decoder for part in module.modules())
        inside = any(path.startswith(f"{other}.") for other in modules)
        if id(module) not in language and not holds_decoder and not inside:
            modules[path] = module
    return modules


@contextmanager
def _outermost_calls(hf_model: PreTrainedModel, handler: Callable[..., Any]) -> Iterator[None]:
    """Let `handler(encoder, function, args, kwargs)` answer each call of an encoder that no other encoder makes."""
    inside = False

    def wrapped(encoder: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # transformers looks at the signature
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside = True
            try:
                return handler(encoder, function, args, kwargs)
            finally:
                inside = False

        return call

    encoders, owners = _encoders(hf_model), []
    try:
        for encoder, function in encoders.items():
            method = encoder in _METHODS
            owner = hf_model.base_model if method else hf_model.get_submodule(encoder)
            name = encoder if method else "forward"
            owners.append((owner, name, vars(owner).get(name)))
            vars(owner)[name] = wrapped(encoder, function)
        yield
    finally:
        for owner, name, before in owners:
            vars(owner).pop(name)
            if before is not None:  # accelerate wraps a forward in the same place
                vars(owner)[name] = before


def _taped(encoder: str, output: Any) -> EncoderCall:
    kept = _shallow(output)
    return EncoderCall(encoder, kept, _versions(kept))


def _direct(encoder: str, call: inspect.BoundArguments, inputs: Mapping[str, Any]) -> DirectCall | None:
    """Trace each argument to an input; None where one is neither an input nor a plain value."""
    given, constants = {}, {}
    for key, value in _named(call).items():
        name = next((name for name, tensor in inputs.items() if tensor is value), None)
        if isinstance(value, Tensor) and name is not None:
            given[key] = name
        elif _is_plain(value):
            constants[key] = value
        else:
            return None
    return DirectCall(encoder, given, constants)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _named(call: inspect.BoundArguments) -> dict[str, Any]:
    variadic = {p.name for p in call.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD}
    plain = {key: value for key, value in call.arguments.items() if key not in variadic}
    return plain | {key: value for name in variadic for key, value in call.arguments.get(name, {}).items()}


def _shallow(output: Any) -> Any:
    """Copy what holds tensors, not the tensors: models set attributes and entries of an answer after its return."""
    if isinstance(output, ModelOutput):
        twin = copy.copy(output)
        for key, value in vars(output).items():
            object.__setattr__(twin, key, _shallow(value))
        for key, value in output.items():
            dict.__setitem__(twin, key, _shallow(value))
        return twin
    if isinstance(output, dict):
        return {key: _shallow(value) for key, value in output.items()}
    if type(output) in (list, tuple):
        return type(output)(_shallow(part) for part in output)
    return output


def _versions(output: Any) -> tuple[int, ...]:
    if isinstance(output, Tensor):
        return (output._version,)
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return tuple(version for part in parts for version in _versions(part))
