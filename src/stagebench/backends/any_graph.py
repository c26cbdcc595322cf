"""Any network's decode steps over a cache at fixed addresses, each shape as one CUDA graph.

Its encoders and its language model's call for a prompt are graphs too, where they can be captured. Nothing is specific
to a family: the network itself prepares the inputs of its next step. Before a graph of the language model is used, it
must give the outputs of the plain call. What can't be captured or compiled runs eagerly or is refused.
"""

import copy
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils import _pytree as pytree  # with which transformers registers its outputs; it has no public name
from transformers import Cache, DynamicCache, PreTrainedModel

from stagebench.backends.any_prompt import PromptCall
from stagebench.backends.capture import Captured, Function, NotCapturableError
from stagebench.backends.fixed_cache import cross_attention_layers, fill, fixed, forgets, hides, tensors_of_cache
from stagebench.backends.graph import CACHE_BUCKET, LAG, Graphs, Session, up
from stagebench.backends.static_cache import growing
from stagebench.core.artifacts import Inputs, Prefilled
from stagebench.core.errors import ModelError, StageError
from stagebench.core.stages import DECODE, ENCODE, PREFILL
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.models.tape import DirectCall, Tape, taped, tensors_of


@dataclass(frozen=True, slots=True)
class Form:
    """How a network is called for a step, independent of the text so far."""

    hf_model: PreTrainedModel
    names: tuple[str, str, str, str]  # names of the arguments: token, position, mask and cache
    structure: pytree.TreeSpec  # of all other arguments
    leaves: tuple[Any, ...]  # of these, None in place of each tensor

    def logits(self, cache: Cache, tokens: Tensor, mask: Tensor, **tensors: Tensor) -> Tensor:
        """Run one more token of each row over a fixed cache, which grows by one: (batch, 1, vocabulary)."""
        layer = growing(cache)[0]
        length = layer.cumulative_length.clone()  # the layers add to theirs
        positions = tensors["offset"] + length if "offset" in tensors else None
        own = dict(zip(self.names, (tokens, positions, mask, cache), strict=True))
        leaves = [tensors.get(str(i), leaf) for i, leaf in enumerate(self.leaves)]
        further = pytree.tree_unflatten(leaves, self.structure)
        with _original_frequencies(self.hf_model, mask.shape[1]):
            logits: Tensor = self.hf_model(**further, **own, return_dict=True).logits
        return logits


@contextmanager
def _original_frequencies(hf_model: PreTrainedModel, slots: int) -> Iterator[None]:
    """Keep dynamic rotary embeddings from checking lengths on the host, where `slots` need no other frequencies."""
    with ExitStack() as put_back:
        for module in hf_model.modules():
            if getattr(module, "rope_type", None) == "dynamic" and slots <= module.original_max_seq_len:
                put_back.enter_context(patch.dict(vars(module), rope_type="default"))
                put_back.enter_context(patch.dict(module._buffers, inv_freq=module.original_inv_freq))
        yield


class Step:
    """The inputs of a network for the step after a prompt."""

    def __init__(self, prefilled: Prefilled, slots: int) -> None:
        hf_model, sequences = prefilled.hf_model, prefilled.sequences
        self.plain = hf_model.prepare_inputs_for_generation(sequences, next_sequence_length=1, **prefilled.state)
        self.sequences, self.length = sequences, sequences.shape[1] - 1  # of the cache
        cache_name, self.cache = next(each for each in self.plain.items() if isinstance(each[1], Cache))
        if not isinstance(self.cache, DynamicCache):
            raise StageError(f"a graph must continue from a DynamicCache, got a {type(self.cache).__name__}")
        names = ("input_ids", "position_ids", "attention_mask", cache_name)
        _, positions, mask, _ = map(self.plain.get, names)
        # A tensor with a column for each token so far describes the prompt's tokens.
        about_tokens = [
            n for n, t in self.plain.items() if isinstance(t, Tensor) and t.shape[1:2] == sequences.shape[1:]
        ]
        further = {name: each for name, each in self.plain.items() if name not in (*names, *about_tokens)}
        leaves, structure = pytree.tree_flatten(further)
        self.tensors = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        rest = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self.form = Form(hf_model, names, structure, rest)
        if positions is not None:
            self.tensors["offset"] = positions - self.length
        elif held := [
            n for module in hf_model.modules() for n, each in vars(module).items() if isinstance(each, Tensor)
        ]:
            raise ModelError(f"a graph needs a step's positions, got a network that makes them from {held[0]}")
        if mask is None:
            mask = torch.ones_like(sequences)
        self.moves = hides(self.cache, slots) and bool(mask.all())  # the keys of a window; padding would move with them
        self.tensors["mask"] = pad(mask, (0, slots - mask.shape[1]), value=1)

    def key(self) -> Hashable:
        """Return everything in which graphs of steps may differ."""
        across = [layer.keys.shape for layer in cross_attention_layers(self.cache, self.form.hf_model)]
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in self.tensors.items()]
        return repr((self.form.structure, self.form.leaves, shapes, across, self.moves))

    def fill(self, session: Session) -> None:
        """Copy the prompt into a session."""
        for name, tensor in self.tensors.items():
            session.step.inputs[name].copy_(tensor)
        fill(session.cache, self.cache, self.length)

    def require_one_text(self) -> None:
        """Refuse what `backends.fused` would compute otherwise: rows, padding, several positions of one token."""
        if (rows := len(self.sequences)) > 1:
            raise StageError(f"the backend fused decodes one row, got {rows}")
        whole, one = self.tensors["mask"].all(), (self.rotary == self.rotary[0]).all()
        if whole & one:  # waits for the device once
            return
        if not whole:
            raise StageError("the backend fused takes a prompt without padding, got a padded one")
        raise StageError(f"the backend fused turns a token by one position, got {self.rotary.tolist()}")

    @property
    def rotary(self) -> Tensor:
        """Return by how much the positions of a row's rotary embedding exceed those in the cache: (1,) or (3,)."""
        return _rotary(self.tensors.get("offset", self.sequences.new_zeros(1)))

    def require_equal(self, session: Session) -> None:
        """Refuse a step with other logits than the plain one."""
        self.fill(session)
        mine = session.next_logits(self.sequences)
        kept = copy.deepcopy(self.cache)  # the plain step writes to it
        theirs = self.form.hf_model(**self.plain, return_dict=True).logits
        self.cache = kept
        _require_close(mine, theirs, "a step must give the logits", self.form.hf_model)


def _rotary(offset: Tensor) -> Tensor:
    """Return the offsets of the three axes of a rotary embedding, or of its only one; a fourth one is the text's."""
    return offset.flatten()[-3:]


def _require_close(mine: Tensor, theirs: Tensor, what: str, hf_model: PreTrainedModel) -> None:
    """Refuse outputs that differ from the plain path's in the first half of the dtype's digits."""
    eps, mine, theirs = torch.finfo(theirs.dtype).eps, mine.float(), theirs.float()
    written = theirs.abs() < 1e4  # some networks write the lowest number for impossible tokens
    distance = float((mine - theirs)[written].norm() / theirs[written].norm())
    if not distance < eps**0.5:
        got = f"a relative distance of {distance:.2g} in a {type(hf_model).__name__}"
        raise ModelError(f"in a graph {what} of the plain one, got {got}")


@dataclass(eq=False)
class AnyGraphBackend(Graphs):
    """Run the encoders and the steps of any network as graphs; see `models.protocol.Backend`."""

    model: HuggingFaceModel
    eager_encoders: dict[Hashable, str] = field(default_factory=dict, kw_only=True)  # why they run eagerly
    prompts: dict[Hashable, Captured] = field(default_factory=dict, kw_only=True)  # in order of last use
    eager_prompts: str | None = None  # why they run eagerly, once one could not be captured
    _prompt_ran: str = field(default="eager: its language model is not called", init=False)  # what ran the last one
    _reordered: bool = field(default=False, init=False)  # where a window hides slots, sums have another order

    @property
    def exact(self) -> bool:
        """Return whether it owes exactly the tokens of the plain path."""
        return super().exact and not self._reordered

    @property
    def stages(self) -> dict[str, str]:
        """Return by stage what runs it, and why it is not a graph."""
        why = next(iter(self.eager_encoders.values()), None if self.encoders else "it runs within generate()")
        encode = self.name if why is None else f"eager: {why}"
        return {ENCODE.name: encode, PREFILL.name: self._prompt_ran, DECODE.name: self.name}

    def encode(self, inputs: Inputs) -> Tape:
        """Encode, as the model's own `encode`."""
        given, calls = self.model.reference_inputs(inputs), self.model.calls(inputs)
        return self.model.encode(inputs) if calls is None else self._call(calls, given)

    def _call(self, calls: tuple[DirectCall, ...], inputs: Mapping[str, Any]) -> Tape:
        used = {name: inputs[name] for each in calls for name in each.inputs.values()}
        key = repr(calls), repr([(name, getattr(tensor, "shape", tensor)) for name, tensor in used.items()])
        device, encoders = self.model.hf_model.device, self.model.encoders
        if other := [name for name, each in used.items() if not isinstance(each, Tensor) or each.device != device]:
            self.eager_encoders[key] = f"{other[0]} is not a tensor on the device"
        if key not in self.eager_encoders:
            try:
                outputs = self.encoded(key, lambda **given: [each.output for each in encoders.call(calls, given)], used)
                return tuple(taped(call.encoder, output) for call, output in zip(calls, outputs, strict=True))
            except NotCapturableError as error:
                self.eager_encoders[key] = str(error)
        return encoders.call(calls, inputs)

    @contextmanager
    def prompting(self, tokens: int) -> Iterator[None]:
        """Answer the call of the language model in the block, for a prompt of `tokens`."""
        decoder = self.model.hf_model.get_decoder()
        plain = decoder.forward
        handled = functools.update_wrapper(functools.partial(self._prompt, plain, tokens), plain)
        with patch.object(decoder, "forward", handled):
            yield

    def _prompt(self, forward: Callable[..., Any], tokens: int, /, *args: Any, **kwargs: Any) -> Any:
        call = self.eager_prompts or PromptCall.of(forward, args, kwargs)
        if not isinstance(call, str):
            try:
                captured = self.latest(self.prompts, call.key(), functools.partial(self._new_prompt, call, tokens))
            except NotCapturableError as error:
                call = self.eager_prompts = str(error)
            else:
                self._prompt_ran = self.name
                for name, tensor in call.tensors.items():
                    captured.inputs[name].copy_(tensor)
                output, filled, _ = captured()
                return call.answered(output, filled)
        self._prompt_ran = f"eager: {call}"
        return forward(*args, **kwargs)

    def _new_prompt(self, call: PromptCall, tokens: int) -> Captured:
        kept = call.kept()

        def plain(**tensors: Tensor) -> Any:
            with _original_frequencies(self.model.hf_model, tokens):
                return kept.run(**tensors)

        captured = self.capture(plain, call.tensors)
        mine, theirs = (next(tensors_of(each)) for each in (captured(), plain(**call.tensors)))
        _require_close(mine, theirs, "a prompt must give the states", self.model.hf_model)
        return captured

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """Return an unpadded prompt, and a cache padded to `CACHE_BUCKET`; see `models.protocol.Backend`."""
        return tokens, up(limit, CACHE_BUCKET)

    def continued(self, prefilled: Prefilled) -> Prefilled:
        """Copy a prompt's cache to fixed addresses, from which `advance` continues."""
        slots = self.lengths(0, prefilled.generation_config.max_length)[1]
        step = Step(prefilled, slots)
        session = self.latest(self.sessions, step.key(), functools.partial(self._new_session, step, slots))
        state = session.claimed()
        step.fill(session)
        if self.recipe.fused:
            step.require_one_text()  # last, because it waits for the device, which still runs the prompt
        return replace(prefilled, state=state)

    def _new_session(self, step: Step, slots: int) -> Session:
        kind = type(step.form.hf_model).__name__
        cache = fixed(step.cache, slots, step.form.hf_model, step.moves)
        self._reordered |= hides(step.cache, slots) and not step.moves
        before = [tensor.data_ptr() for tensor in tensors_of_cache(cache)]
        inputs = step.tensors | {"tokens": step.sequences[:, -1:]}
        if "offset" in inputs:  # below 0 in a padded row, but an empty cache has no such position
            inputs["offset"] = inputs["offset"].clamp(min=0)
        fast = self._fused(step, cache) if self.recipe.fused else None
        try:
            captured = self.capture(functools.partial(step.form.logits, cache), inputs, fast, is_step=True)
            if before != [tensor.data_ptr() for tensor in tensors_of_cache(cache)]:
                raise ModelError(
                    f"the backend {self.name} needs a cache at fixed addresses, got a moved one of a {kind}"
                )
            captured.nbytes += sum(tensor.nbytes for tensor in tensors_of_cache(cache))
            session = Session(cache, captured, lag=1 if forgets(cache) else LAG)
            step.require_equal(session)
        except NotCapturableError as error:
            raise ModelError(f"the backend {self.name} can't run steps of a {kind}: {error}") from error
        return session

    def _fused(self, step: Step, cache: Cache) -> Function:
        step.require_one_text()
        fused = self.fused_step(cache)
        return lambda tokens, offset=None, **_: fused(tokens, None if offset is None else _rotary(offset))
