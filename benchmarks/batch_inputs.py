"""Batches of one prompt, stretched to a given length, and what a backend must make of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stagebench.backends.graph import RECIPES
from stagebench.core.artifacts import Features, Generation, Inputs
from stagebench.core.errors import StageError
from stagebench.models.protocol import Family, VisionLanguageModel
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import resolved
from stagebench.pipeline.run_stages import Options
from stagebench.pipeline.timing import repeats_itself
from stagebench.pipeline.verify import NEAR_TIE, match_tokens, promised, require_tokens

Rows = list[tuple[list[int], list[Tensor]]]
"""Of each row the new tokens, padded where it stopped early, and the logits of each step, (vocabulary,)."""


def of_one_shape(model: VisionLanguageModel) -> str | None:
    """Why the images and the prompt of a model can't be stretched; None where they can."""
    if isinstance(model, Family):
        return None
    return f"only the processor of {model.name} knows which inputs belong to more images and to a longer prompt"


def impossible(model: VisionLanguageModel, inputs: Inputs, batch: int, context: int, options: Options) -> str | None:
    """Why a model cannot do so many rows of so many prompt tokens, as is known beforehand; None where it can."""
    if reason := of_one_shape(model):
        return reason
    prompt, positions = inputs.input_ids.shape[1], model.hf_model.config.get_text_config().max_position_embeddings
    if context < prompt:
        return f"the prompt of {model.name} has {prompt} tokens, more than {context}"
    new_tokens = resolved(model.hf_model, inputs.input_ids, options).max_length - prompt
    if context + new_tokens > positions:
        return f"{model.name} has {positions} positions, fewer than {context} + {new_tokens}"
    if batch > 1 and model.backend is not None and RECIPES[model.backend.name].fused:
        return f"the step of the backend {model.backend.name} is of one row, not of {batch}"
    return None


def stretched(model: VisionLanguageModel, inputs: Inputs, batch: int, context: int) -> tuple[Inputs, Features]:
    """Repeat the last token but one of a prompt until it is so long, and the prompt for every row."""
    ids = inputs.input_ids
    ids = torch.cat([ids[:, :-1], ids[:, -2:-1].expand(-1, context - ids.shape[1]), ids[:, -1:]], dim=1)
    tokens = encode(model, inputs).tokens
    rows = ids.repeat(batch, 1)
    given = {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in inputs.given.items()}
    many = Inputs(rows, torch.ones_like(rows), given, inputs.images * batch)
    return many, Features(tokens.repeat(batch, 1, 1))


@torch.no_grad()
def generated(model: VisionLanguageModel, inputs: Inputs, features: Features, options: Options) -> Rows:
    """What plain `generate()` makes of a batch from the same features on, whatever the model's backend."""
    embeds = model.embed(inputs, features.tokens)
    given: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": inputs.attention_mask}
    asked = dict(options) | {"return_dict_in_generate": True, "output_logits": True}
    output = model.hf_model.generate(inputs.input_ids, **given, **asked)
    tokens = output.sequences[:, inputs.input_ids.shape[1] :].tolist()
    return [(row, [step[i].to(embeds.dtype) for step in output.logits]) for i, row in enumerate(tokens)]


def require_rows(model: VisionLanguageModel, generation: Generation, expected: Rows) -> None:
    """Refuse a batch of equal rows of which one is not as `generate()` has it, or `generate()` has two that differ.

    Rows lie in different tiles of a kernel, which may add up in another order: there two may part at a near-tie.

    Raises:
        StageError: naming the first other token.
    """
    pad = model.hf_model.generation_config.pad_token_id
    (first, first_logits), *_ = expected
    for (row, logits), mine in zip(expected, generation.token_ids, strict=True):
        among = match_tokens(first, row, first_logits)
        if repeats_itself(model.hf_model.device) and among.verdict == "different":
            got = among.describe(model.tokenizer)
            raise StageError(f"equal rows must give equal tokens, got {got}")
        require_tokens(model, match_tokens(row, [*mine, *[pad] * (len(row) - len(mine))], logits))


def require_features(model: VisionLanguageModel, features: Features, expected: Features) -> None:
    """Refuse features that are not those of the plain code.

    What runs the plain code's own kernels gives them bit by bit. Others round otherwise in every layer: what comes of
    that is taken to be as uncertain as logits are, by some ulps.

    Raises:
        StageError: with the relative distance.
    """
    if torch.equal(features.tokens, expected.tokens):
        return
    bound = 0.0 if promised(model) == ("equal",) else NEAR_TIE * torch.finfo(expected.tokens.dtype).eps
    reference = expected.tokens.float()
    distance = float((features.tokens.float() - reference).norm() / reference.norm())
    if not distance < bound:
        raise StageError(f"features must be within {bound:.2g} of the plain code's, got a distance of {distance:.2g}")
