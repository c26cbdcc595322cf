"""The outputs of a transformers model's encoders in `generate()`: recorded by encode, replayed by prefill.

Nothing here is specific to a family. `generate()` itself decides how its encoders are called and how their outputs are
used, so positions, masks, deepstack features and cross-attention stay the model's own.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from stagebench.core.errors import StageError


@dataclass(frozen=True, slots=True)
class EncoderCall:
    """One call of an encoder, and its output."""

    encoder: str  # a method of the base model, or a module's path in the network
    output: Any = field(repr=False)
    versions: tuple[int, ...] = field(repr=False)  # of its tensors when recorded; a write in place raises them

    def answer(self) -> Any:
        """Return a copy of the output; raise StageError where its tensors were written to."""
        if _versions(self.output) != self.versions:
            raise StageError(f"the output of {self.encoder} was overwritten after encode")
        return _shallow(self.output)


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A call that encode can make without `generate()`: each argument is one of the inputs, or constant."""

    encoder: str
    inputs: Mapping[str, str]  # argument -> name of the input
    constants: Mapping[str, Any]  # argument -> value
    by_position: tuple[str, ...] = ()  # arguments passed by position


Tape = tuple[EncoderCall, ...]
DirectCalls = tuple[DirectCall, ...] | None  # None where an encoder needs intermediate values of `generate()`


class _LanguageModelStartsError(BaseException):
    """Ends a recording. It is not an `Exception`, so that no model catches it."""


class Encoders:
    """A network's encoders: methods of its base model, and the topmost modules outside its language model."""

    def __init__(self, hf_model: PreTrainedModel) -> None:
        self._hf_model = hf_model
        self.modules = _beside_language_model(hf_model)  # by their paths
        self.ran: set[str] = set()  # paths of the modules that a recording ran
        base, methods = (
            hf_model.base_model,
            ("get_image_features", "get_video_features"),
        )  # the usual ones
        self._places: dict[str, tuple[Any, str]] = {name: (base, name) for name in methods if hasattr(base, name)}
        self._places |= {path: (module, "forward") for path, module in self.modules.items()}

    @torch.no_grad()
    def record(self, inputs: Mapping[str, Any]) -> tuple[Tape, DirectCalls]:
        """Run `generate()` up to its language model; return its encoders' outputs and direct calls, or StageError."""
        tape: list[EncoderCall] = []
        direct: list[DirectCall | None] = []

        def call(encoder: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            output = function(*args, **kwargs)
            tape.append(taped(encoder, output))
            arguments = inspect.signature(function).bind(*args, **kwargs).arguments
            by_position = tuple(arguments)[: len(args)]
            direct.append(_direct(encoder, arguments, by_position, inputs, self._hf_model.config))
            return output

        def start(*_: Any) -> None:
            raise _LanguageModelStartsError

        network = self._hf_model
        language_model = network.get_encoder() if network.config.is_encoder_decoder else network.get_decoder()
        hook = language_model.register_forward_pre_hook(start, prepend=True)  # before hooks that count its forwards
        with ExitStack() as hooks, hook, self._outermost_calls(call), suppress(_LanguageModelStartsError):
            for path, module in self.modules.items():
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, path=path: self.ran.add(path)))
            network.generate(**inputs, max_new_tokens=1, do_sample=False)
        if not (tape and self.modules):  # a method may call a part of the language model
            raise StageError(f"{type(network).__name__} can't be split: no encoder is called before its language model")
        known = [each for each in direct if each is not None]
        return tuple(tape), tuple(known) if len(known) == len(tape) else None

    @torch.no_grad()
    def call(self, calls: tuple[DirectCall, ...], inputs: Mapping[str, Any]) -> Tape:
        """Make the encoder calls that `record` found, for inputs of the same shapes."""
        tape: list[EncoderCall] = []
        for each in calls:
            given = {**each.constants, **{argument: inputs[name] for argument, name in each.inputs.items()}}
            args = [given.pop(argument) for argument in each.by_position]  # hooks may look at positional arguments
            owner, method = self._places[each.encoder]
            encoder = owner if each.encoder in self.modules else getattr(owner, method)  # modules run their hooks
            # Forward hooks run when the output is replayed.
            with patch.dict(owner._forward_hooks, clear=True) if each.encoder in self.modules else nullcontext():
                tape.append(taped(each.encoder, encoder(*args, **given)))
        return tuple(tape)

    @contextmanager
    def replayed(self, tape: Tape) -> Iterator[None]:
        """Answer the calls from the tape, as `answered`."""
        with answered(tape) as answer, ExitStack() as unhooked, self._outermost_calls(lambda of, *_: answer(of)):
            for module in self.modules.values():  # a replayed output is not a forward to be counted
                unhooked.enter_context(patch.dict(module._forward_pre_hooks, clear=True))
            yield

    @contextmanager
    def _outermost_calls(self, handler: Callable[..., Any]) -> Iterator[None]:
        """Pass each call of an encoder that no other encoder makes to `handler(encoder, function, args, kwargs)`."""
        inside = False

        def call(encoder: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside = True
            try:
                return handler(encoder, function, args, kwargs)
            finally:
                inside = False

        with ExitStack() as patched:
            for encoder, (owner, name) in self._places.items():
                plain = getattr(owner, name)
                handled = update_wrapper(partial(call, encoder, plain), plain)  # transformers inspects the signature
                # Set on the instance; a patch of accelerate's there is restored at the end.
                patched.enter_context(patch.object(owner, name, handled))
            yield


def _beside_language_model(hf_model: PreTrainedModel) -> dict[str, nn.Module]:
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
def answered(tape: Tape) -> Iterator[Callable[[str], Any]]:
    """Yield a function from an encoder's name to its next output; raise StageError unless all are used in order."""
    if not tape:
        raise StageError("a tape must hold at least one encoder's output, got none")
    left = list(tape)

    def answer(encoder: str) -> Any:
        expected = left[0].encoder if left else "no further call"
        if encoder != expected:
            raise StageError(f"prefill must call the encoders that encode called, {expected}, got {encoder}")
        return left.pop(0).answer()

    yield answer
    if left:
        raise StageError(f"prefill must use all outputs of encode, got no call of {left[0].encoder}")


def retaped(tape: Tape) -> Tape:
    """Return a new tape with the current values of tensors that were overwritten on purpose."""
    return tuple(taped(call.encoder, call.output) for call in tape)


def taped(encoder: str, output: Any) -> EncoderCall:
    """Record an encoder's output."""
    kept = _shallow(output)
    return EncoderCall(encoder, kept, _versions(kept))


def _direct(
    encoder: str, arguments: dict[str, Any], by_position: tuple[str, ...], inputs: Mapping[str, Any], config: Any
) -> DirectCall | None:
    """Trace each argument to an input or a constant; return None where one is neither."""
    arguments |= arguments.pop("kwargs", {})  # transformers' name for further arguments
    names = {id(tensor): name for name, tensor in inputs.items()}
    given = {key: names[id(value)] for key, value in arguments.items() if id(value) in names}
    constants = {key: value for key, value in arguments.items() if key not in given}
    plain = (
        value is None
        or isinstance(value, bool | str)
        # Numbers may depend on the inputs' values, unless they are the config's own.
        or (isinstance(value, int | float | list | tuple) and value == getattr(config, key, None))
        for key, value in constants.items()
    )
    return DirectCall(encoder, given, constants, by_position) if all(plain) else None


def _shallow(output: Any) -> Any:
    """Copy the containers, not the tensors: models change attributes and entries of an output after its return."""
    return copy.deepcopy(output, {id(tensor): tensor for tensor in tensors_of(output)})


def _versions(output: Any) -> tuple[int, ...]:
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors_of(output))


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Yield all tensors in an output."""
    if isinstance(output, Tensor):
        yield output
    held = vars(output) if isinstance(output, ModelOutput) else output
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    for part in parts:
        yield from tensors_of(part)
