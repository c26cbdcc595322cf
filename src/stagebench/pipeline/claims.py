"""The audit: attack every claim that the times rest on, before anybody believes them.

Each check is about one way in which such numbers lie, and says in its detail what it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from stagebench.core.artifacts import Generation, Inputs, Sample
from stagebench.core.errors import StageError
from stagebench.core.meter import SYSTEM
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.counters import count_kernels, differences, total
from stagebench.pipeline.remembered import require_forgetful
from stagebench.pipeline.run_stages import Options, counted_run, reference_generate, scored_generate, staged_generate
from stagebench.pipeline.timed_pass import check_passes, timed_pass
from stagebench.pipeline.token_match import another_token, compare, describe_ids
from stagebench.pipeline.verify import count_reference, expected_work, is_exact, repeats_itself

MAX_UNATTRIBUTED = 0.05
"""The share of e2e that the stages may leave unexplained."""

COUNTED_TOKENS = 16
"""Counting is slow and every step is alike, so it need not go on for long."""

PASSES = 3
"""Timed ones."""

KERNEL_TOKENS = 2
"""Counting kernels is slower still."""

STATIC = {"cache_implementation": "static", "disable_compile": True}


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, whether it held, and what was seen."""

    claim: str
    held: bool
    detail: str


def audit(model: VisionLanguageModel, sample: Sample, options: Options, kernels: str) -> Iterator[Check]:
    """Check a model on a sample.

    Args:
        model: any of them.
        sample: what it looks at.
        options: keyword arguments of `generate()`; greedy.
        kernels: those that the caller's `conditions` pin: on a GPU equality is claimed for "efficient" only.

    Yields:
        One check after the other, as they are made.
    """
    few = shortened(options, COUNTED_TOKENS)
    reference = count_reference(model, sample, few)
    inputs = reference.inputs
    if model.backend is not None:  # what it sets up is not to be counted
        staged_generate(model, inputs, few)
    claim = "the stages do the work of generate(), once"
    try:
        generation, counter = counted_run(model, sample, few)
    except StageError as error:
        yield Check(claim, False, str(error))
        return
    mine = total(counter.work)
    apart = differences(mine, expected_work(model, reference, generation))
    detail = apart or ", ".join(f"{name} {n}" for name, n in mine.items())
    if model.hf_model.device.type == "cuda":
        detail += _kernel_detail(model, inputs, shortened(options, KERNEL_TOKENS))
    yield Check(claim, not apart, detail)
    written = {stage: n for stage, work in counter.work.items() if (n := work.get(SYSTEM[1]))}
    told = ", ".join(f"{stage} {n} bytes" for stage, n in written.items())
    yield Check("no stage writes to a file", not written, told or "nothing written")
    remembers = _refused(lambda: require_forgetful(model, sample, inputs))
    yield Check("load, preprocess and encode remember nothing", not remembers, remembers or "each did its work again")
    exact = is_exact(model) and repeats_itself(model, kernels)
    tokens = reference_generate(model, inputs, options)
    again, logits = scored_generate(model, inputs, options)
    repeats = _equal(model, "generate() repeats itself", tokens, again)
    yield repeats
    runs = [timed_pass(model, sample, options) for _ in range(PASSES)]
    run = runs[-1]
    wrong = _refused(lambda: check_passes(model, runs, runs[0].generation.token_ids if exact else None))
    yield Check("timed passes are what they say, by a second clock", not wrong, wrong or f"{PASSES} passes")
    claim = "the stages give the tokens of generate()"
    yield _same(model, claim, repeats, exact, tokens, _tokens(run.generation), logits)
    share = median(run.unattributed / run.e2e for run in runs)
    claim = f"the stages explain e2e, all but {MAX_UNATTRIBUTED:.0%}"
    yield Check(claim, share <= MAX_UNATTRIBUTED, f"unattributed {share:.2%}")
    if model.backend is not None:
        return  # what follows is about the plain path
    static = dict(options) | STATIC
    static_tokens, static_logits = scored_generate(model, inputs, static)
    staged_static = _tokens(staged_generate(model, inputs, static))
    yield _same(model, "with a static cache too", repeats, exact, static_tokens, staged_static, static_logits)
    claim = "the static cache gives the tokens of the dynamic one"
    yield _same(model, claim, repeats, exact, tokens, static_tokens, logits)
    other = _with_other_kernels(model, inputs, options)
    yield _near_tie(model, "other attention kernels part at a near-tie only", tokens, other, logits)


def _refused(check: Callable[[], None]) -> str:
    """What a check has to say; empty where it is content."""
    try:
        check()
    except StageError as error:
        return str(error)
    return ""


def _kernel_detail(model: VisionLanguageModel, inputs: Inputs, options: Options) -> str:
    """Told, not judged: beside the models' kernels both launch a few of their own, for stop tests and the like."""
    mine = count_kernels(lambda: staged_generate(model, inputs, options))
    theirs = count_kernels(lambda: reference_generate(model, inputs, options))
    return f"; {mine} kernels for {options['max_new_tokens']} tokens, {theirs} in generate()"


def shortened(options: Options, tokens: int) -> dict[str, Any]:
    """The same options for at most so many new tokens."""
    lengths = {name: min(options[name], tokens) for name in ("max_new_tokens", "min_new_tokens") if name in options}
    return dict(options) | lengths


def _with_other_kernels(model: VisionLanguageModel, inputs: Inputs, options: Options) -> torch.Tensor:
    """`generate()` with attention written out as matrix products: other kernels for the same mathematics."""
    before = model.hf_model.config._attn_implementation
    model.hf_model.set_attn_implementation("eager")
    try:
        return reference_generate(model, inputs, options)
    finally:
        model.hf_model.set_attn_implementation(before)


def _tokens(generation: Generation) -> torch.Tensor:
    return torch.tensor([generation.token_ids[0]])


def _equal(model: VisionLanguageModel, claim: str, first: torch.Tensor, second: torch.Tensor) -> Check:
    mine, other = first[0].tolist(), second[0].tolist()
    equal = mine == other
    return Check(claim, equal, f"{len(mine)} tokens equal" if equal else another_token(model.tokenizer, mine, other))


def _same(
    model: VisionLanguageModel,
    claim: str,
    repeats: Check,
    exact: bool,
    first: torch.Tensor,
    second: torch.Tensor,
    logits: list[torch.Tensor],
) -> Check:
    """Equal tokens, or with kernels that do not repeat themselves (not `exact`) equal up to a near-tie.

    Where the reference is seen not to repeat itself, nobody else can be blamed for not equalling it.
    """
    if not repeats.held:
        return Check(claim, False, "not judged: generate() does not repeat itself")
    if exact:
        return _equal(model, claim, first, second)
    return _near_tie(model, f"{claim}, but for near-ties", first, second, logits)


def _near_tie(
    model: VisionLanguageModel, claim: str, first: torch.Tensor, second: torch.Tensor, logits: list[torch.Tensor]
) -> Check:
    outcome = compare(first[0].tolist(), second[0].tolist(), logits)
    which = "" if outcome.position is None else f": {describe_ids(model.tokenizer, outcome.position, outcome.ids)}"
    return Check(claim, outcome.verdict != "different", f"{outcome}{which}")
