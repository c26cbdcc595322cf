"""Run the whole path from a sample to text; each stage hands one small object to the next."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from stagebench.core.artifacts import Features, Generation, Inputs, Media, Prefilled, Sample
from stagebench.core.stages import BEFORE_GENERATE, DECODE, ENCODE, IN_GENERATE, LOAD, PREFILL, PREPROCESS, STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.load import load
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.timing import synchronize

Options = Mapping[str, Any]  # keyword arguments of `generate()`
StageOutputs = dict[str, Any]  # by stage name
Made = Mapping[type, Any]  # inputs of a stage: by type, the newest output of the stages before it


STEPS: dict[str, Callable[[VisionLanguageModel, Sample, Options, Made], Any]] = {
    LOAD.name: lambda model, sample, options, made: load(sample, model.images_per_sample),
    PREPROCESS.name: lambda model, sample, options, made: preprocess(model, made[Media], sample.question),
    ENCODE.name: lambda model, sample, options, made: encode(model, made[Inputs]),
    PREFILL.name: lambda model, sample, options, made: prefill(model, made[Inputs], made[Features], options),
    DECODE.name: lambda model, sample, options, made: decode(model, made[Prefilled]),
}
"""What each stage calls; no other place says it."""


def path(model: VisionLanguageModel, sample: Sample, options: Options) -> dict[str, Callable[[Made], Any]]:
    """Return the stages in order, each as a function of the outputs before it."""
    return {stage: partial(STEPS[stage], model, sample, options) for stage in STAGE_NAMES}


def made_before(stage: str, outputs: StageOutputs) -> Made:
    """Return the outputs of the stages before a stage, by type."""
    before = STAGE_NAMES[: STAGE_NAMES.index(stage)]
    return {type(outputs[name]): outputs[name] for name in before if name in outputs}


def run_stages(
    model: VisionLanguageModel,
    sample: Sample,
    options: Options,
    instrument: Callable[..., Any] = lambda stage, function, *args: function(*args),
    stages: Iterable[str] = STAGE_NAMES,
    outputs: StageOutputs | None = None,
) -> StageOutputs:
    """Run the path, or some stages on the others' outputs, each called as `instrument(stage, function, *args)`."""
    steps, done = path(model, sample, options), dict(outputs or {})
    for stage in stages:
        done[stage] = instrument(stage, steps[stage], made_before(stage, done))
    return done


def prepared(model: VisionLanguageModel, sample: Sample) -> Inputs:
    """Run the stages up to the inputs of `generate()`."""
    inputs: Inputs = run_stages(model, sample, {}, stages=BEFORE_GENERATE)[PREPROCESS.name]
    return inputs


def staged_generate(model: VisionLanguageModel, inputs: Inputs, options: Options) -> Generation:
    """Run the stages that `generate()` also does, from its inputs on."""
    no_sample, given = Sample(Path()), {PREPROCESS.name: inputs}
    generation: Generation = run_stages(model, no_sample, options, stages=IN_GENERATE, outputs=given)[DECODE.name]
    return generation


def reference_generate(model: VisionLanguageModel, inputs: Inputs, options: Options) -> Tensor:
    """Return the tokens of plain `generate()`: int64 (batch, new tokens), rows that stopped early padded."""
    sequences: Tensor = model.hf_model.generate(**model.reference_inputs(inputs), **options)
    synchronize(model.hf_model.device)
    return _new_tokens(model, inputs, sequences)


def scored_generate(model: VisionLanguageModel, inputs: Inputs, options: Options) -> tuple[Tensor, list[Tensor]]:
    """Return `reference_generate`'s tokens, and the first row's logits by step: (vocabulary,), the model's dtype."""
    scored = dict(options) | {"return_dict_in_generate": True, "output_logits": True}
    output = model.hf_model.generate(**model.reference_inputs(inputs), **scored)
    logits = [step[0].to(model.hf_model.dtype) for step in output.logits]
    return _new_tokens(model, inputs, output.sequences), logits


def _new_tokens(model: VisionLanguageModel, inputs: Inputs, sequences: Tensor) -> Tensor:
    # The decoder of an encoder-decoder model begins with one token, whatever the prompt.
    return sequences[:, 1 if model.hf_model.config.is_encoder_decoder else inputs.input_ids.shape[1] :]


def detokenize(model: VisionLanguageModel, generation: Generation) -> str:
    """Return the first row's new tokens as text."""
    text: str = model.tokenizer.decode(generation.token_ids[0], skip_special_tokens=True)
    return text.strip()
