"""Check what the times of an engine rest on: the tokens of transformers' `generate()`, each time by its own work."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stagebench.core.artifacts import Sample
from stagebench.core.errors import StageError
from stagebench.core.settings import GenerationSettings
from stagebench.engines.engine import Engine
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.claims import Claim
from stagebench.pipeline.run_stages import prepared, scored_generate
from stagebench.pipeline.verify import TokenMatch, match_tokens

OVERLAP = 0.02  # share of e2e by which stages may exceed it: two clocks


class Expected(NamedTuple):
    """What transformers makes of a sample, without its model, whose memory the engine needs."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: list[Tensor]  # of each step: (vocabulary,), the model's dtype
    tokenizer: PreTrainedTokenizerBase


def expected(model: VisionLanguageModel, sample: Sample, generation: GenerationSettings) -> Expected:
    """Run plain `generate()`."""
    inputs = prepared(model, sample)
    tokens, logits = scored_generate(model, inputs, generation.options())
    prompt, new = (tuple(rows[0].tolist()) for rows in (inputs.input_ids, tokens))
    return Expected(prompt, new, [step.cpu() for step in logits], model.tokenizer)


def engine_claims(engine: Engine, sample: Sample, generation: GenerationSettings, of: Expected) -> Iterator[Claim]:
    """Check two passes of one sample. Tokens may part from those of `generate()` at a near-tie of its logits."""
    run = engine.run(sample, generation)
    if run.prompt_ids:
        match = match_tokens(of.prompt, run.prompt_ids)
        yield _judged("its prompt is that of transformers", match, len(of.prompt), of.tokenizer)
    tokens = run.generation.token_ids[0]
    if tokens:
        match = match_tokens(of.tokens, tokens, of.logits)
        yield _judged("it gives the tokens of generate()", match, len(of.tokens), of.tokenizer)
    else:
        text = of.tokenizer.decode(of.tokens, skip_special_tokens=True).strip()
        yield Claim("it gives the text of generate()", text == run.text.strip(), f"{text!r}, and {run.text.strip()!r}")
    claim = "a second pass does its work again, and gives the same text"
    try:
        again = engine.run(sample, generation)
    except StageError as error:
        yield Claim(claim, False, str(error))
        return
    same = (run.text, run.generation.token_ids) == (again.text, again.generation.token_ids)
    yield Claim(claim, same, f"{run.new_tokens} and {again.new_tokens} tokens")
    rest = again.unattributed / again.e2e
    yield Claim("the stages that it tells fit into e2e", rest > -OVERLAP, f"unattributed {rest:.2%}")


def _judged(claim: str, match: TokenMatch, tokens: int, tokenizer: PreTrainedTokenizerBase) -> Claim:
    if match.position is None:
        return Claim(claim, True, f"{tokens} tokens equal")
    return Claim(claim, match.verdict == "near-tie", f"{match}: {match.describe(tokenizer)}")
