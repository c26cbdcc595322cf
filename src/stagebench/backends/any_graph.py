"""Any network's decode steps over a cache of fixed addresses, each shape as one CUDA graph; its encoders too.

Nothing is known of a family. A prompt is plain `generate()`; the network itself says what its next step is to be given.
Before a step is used it must give the logits of the plain one. What a graph can't serve runs as it is, or is refused.
"""

import copy
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils import _pytree as pytree  # with which transformers registers its outputs; it has no public name
from transformers import Cache, GenerationConfig

from stagebench.backends.capture import Captured, NotCapturableError, Pool
from stagebench.backends.fixed_cache import crossed, fixed, is_recurrent, load, tensors_of_cache
from stagebench.backends.graph import CACHE_BUCKET, LAG, Graphs, Session, require_servable, up
from stagebench.backends.static_cache import growing
from stagebench.core.artifacts import Inputs, Prefilled
from stagebench.core.errors import ModelError
from stagebench.core.stages import DECODE, ENCODE, PREFILL
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.models.tape import DirectCall, EncoderCall, Tape, retaped, tensors_of


class Step:
    """What a network gives its next plain step: the token, a position, a mask, the cache and the rest."""

    def __init__(self, prefilled: Prefilled) -> None:
        hf_model, sequences = prefilled.hf_model, prefilled.sequences
        given = hf_model.prepare_inputs_for_generation(sequences, next_sequence_length=1, **prefilled.state)
        self.hf_model, self.sequences, self.given = hf_model, sequences, dict(given)
        self.length = sequences.shape[1] - 1  # of the cache
        prefix = "decoder_" if hf_model.config.is_encoder_decoder else ""
        self.cache_name, self.cache = next(each for each in given.items() if isinstance(each[1], Cache))
        self.names = [prefix + name for name in ("input_ids", "position_ids", "attention_mask")]
        _, positions, mask, _ = (given.pop(name, None) for name in (*self.names, self.cache_name))
        self.mask = torch.ones_like(sequences) if mask is None else mask
        # What has a column for each token so far told the prompt's tokens apart.
        columns = [
            n for n, t in given.items() if isinstance(t, Tensor) and t.ndim > 1 and t.shape[1] == self.length + 1
        ]
        leaves, self.structure = pytree.tree_flatten({n: each for n, each in given.items() if n not in columns})
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.tensors = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        if positions is not None:
            self.tensors["offset"] = positions - self.length
        elif held := [
            name for module in hf_model.modules() for name, v in vars(module).items() if isinstance(v, Tensor)
        ]:
            raise ModelError(f"the backend graph needs a step's positions, which the network makes of its {held[0]}")

    def buffers(self, slots: int) -> dict[str, Tensor]:
        """Return what differs from prompt to prompt, the mask padded to all slots with ones."""
        return self.tensors | {"mask": pad(self.mask, (0, slots - self.mask.shape[1]), value=1)}

    def key(self, slots: int) -> Hashable:
        """Return all in which one step's graph may differ from another's."""
        across = [layer.keys.shape for layer in crossed(self.cache, self.hf_model)]
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in self.buffers(slots).items()]
        return len(self.sequences), slots, repr((self.structure, self.leaves, shapes, across))

    def logits(self, cache: Cache, tokens: Tensor, **buffers: Tensor) -> Tensor:
        """Run one more token of each row over a fixed cache, which becomes one longer: (batch, 1, vocabulary)."""
        layer = growing(cache)[0]
        length = layer.cumulative_length.clone()  # the layers add to theirs
        leaves = [buffers.get(str(i), leaf) for i, leaf in enumerate(self.leaves)]
        seen = torch.arange(layer.max_cache_len, device=tokens.device) <= length
        positions = buffers["offset"] + length if "offset" in buffers else None
        given = dict(zip(self.names, (tokens, positions, buffers["mask"] * seen), strict=True))
        logits: Tensor = self.hf_model(
            **pytree.tree_unflatten(leaves, self.structure), **given, **{self.cache_name: cache}, return_dict=True
        ).logits
        return logits

    def plain_logits(self) -> Tensor:
        """Take the plain step, which uses up its cache."""
        logits: Tensor = self.hf_model(**self.given, return_dict=True).logits
        return logits


@dataclass(eq=False)
class AnyGraphBackend(Graphs):
    """Run the encoders and the steps of any network as graphs; see `models.protocol.Backend`."""

    model: HuggingFaceModel
    _pool: Pool
    _encoders: dict[Hashable, Captured | str] = field(default_factory=dict)  # or why there is none
    exact = True  # it runs the plain path's own code

    @property
    def stages(self) -> dict[str, str]:
        """Say by stage what runs it, and why it is not a graph."""
        whys = [each for each in self._encoders.values() if isinstance(each, str)]
        encode = f"eager: {whys[0]}" if whys else "graph" if self._encoders else "eager: it runs within generate()"
        return {ENCODE.name: encode, PREFILL.name: "eager: it is plain generate()", DECODE.name: "graph"}

    def encode(self, inputs: Inputs) -> Tape:
        """Encode as the model's own `encode`."""
        given, calls = self.model.reference_inputs(inputs), self.model.calls(inputs)
        return self.model.encode(inputs) if calls is None else self._call(calls, given)

    def _call(self, calls: tuple[DirectCall, ...], inputs: Mapping[str, Any]) -> Tape:
        used = {name: inputs[name] for each in calls for name in each.inputs.values()}
        key = repr(calls), repr([(name, getattr(tensor, "shape", tensor)) for name, tensor in used.items()])
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = self._captured_encoders(calls, used)
        if isinstance(encoder, str):
            return self.model.encoders.call(calls, inputs)
        for name, tensor in used.items():
            encoder.inputs[name].copy_(tensor)
        outputs = [copy.deepcopy(output, {id(t): t.clone() for t in tensors_of(output)}) for output in encoder()]
        made = zip(calls, outputs, strict=True)
        return retaped(tuple(EncoderCall(call.encoder, output, ()) for call, output in made))

    def _captured_encoders(self, calls: tuple[DirectCall, ...], used: Mapping[str, Any]) -> Captured | str:
        device, encoders = self.model.hf_model.device, self.model.encoders
        if other := [name for name, each in used.items() if not isinstance(each, Tensor) or each.device != device]:
            return f"{other[0]} is no tensor of the device"
        inputs = {name: tensor.clone() for name, tensor in used.items()}
        try:
            return self._capture(lambda **given: [each.output for each in encoders.call(calls, given)], inputs)
        except NotCapturableError as error:
            return str(error)

    def lengths(self, tokens: int, limit: int) -> tuple[int, int]:
        """Leave a prompt as it is, and pad a cache to `CACHE_BUCKET`; see `models.protocol.Backend`."""
        return tokens, up(limit, CACHE_BUCKET)

    def prompt(self, given: dict[str, Any], attention_mask: Tensor, generation_config: GenerationConfig) -> None:
        """Leave the prompt to `generate()`; refuse an option that a fixed cache can't serve."""
        require_servable(self.name, attention_mask, generation_config, caches=(None, "dynamic"))

    def continued(self, prefilled: Prefilled) -> Prefilled:
        """Move what a prompt left to fixed addresses, from which `advance` goes on."""
        step = Step(prefilled)
        slots = self.lengths(0, prefilled.generation_config.max_length)[1]
        session = self.session(step.key(slots), functools.partial(self._new_session, step, slots))
        _fill(session, step, slots)
        session.owner = object()
        return replace(prefilled, state={"cache": session.cache, "session": session, "owner": session.owner})

    def _new_session(self, step: Step, slots: int) -> Session:
        cache = fixed(step.cache, slots, step.hf_model)
        before = [tensor.data_ptr() for tensor in tensors_of_cache(cache)]
        inputs = {name: tensor.clone() for name, tensor in step.buffers(slots).items()}
        try:
            captured = self._capture(
                functools.partial(step.logits, cache), inputs | {"tokens": step.sequences[:, -1:].clone()}
            )
        except NotCapturableError as error:
            raise ModelError(
                f"the backend graph can't take steps of a {type(step.hf_model).__name__}: {error}"
            ) from error
        if before != [tensor.data_ptr() for tensor in tensors_of_cache(cache)]:
            raise ModelError(f"the backend graph needs a cache that stays where it is, got one of {cache}")
        captured.nbytes += sum(tensor.nbytes for tensor in tensors_of_cache(cache))
        session = Session(cache, captured, lag=1 if is_recurrent(cache) else LAG)
        _require_equal(session, step, slots)
        return session

    def _capture(self, function: Callable[..., Any], inputs: dict[str, Tensor]) -> Captured:
        captured = Captured(function, function, inputs, self.model.counted_modules, self._pool)
        self.setups.append(captured)
        return captured


def _fill(session: Session, step: Step, slots: int) -> None:
    for name, tensor in step.buffers(slots).items():
        session.step.inputs[name].copy_(tensor)
    load(session.cache, step.cache, step.length)


def _require_equal(session: Session, step: Step, slots: int) -> None:
    """Refuse a step whose logits differ from those of the plain one in the first half of their digits."""
    _fill(session, step, slots)
    mine = session.next_logits(step.sequences).float()
    kept = copy.deepcopy(step.cache)
    theirs = step.plain_logits().float()
    step.cache = kept
    distance = float((mine - theirs).norm() / theirs.norm())
    if not distance < torch.finfo(step.hf_model.dtype).eps ** 0.5:
        got = f"a relative distance of {distance:.2g} to those of the plain one"
        raise ModelError(f"the backend graph must give the logits of a {type(step.hf_model).__name__}, got {got}")
