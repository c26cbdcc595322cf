"""Check every claim that the times rest on; each detail reports what was found."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from torch import Tensor

from stagebench.core.artifacts import Inputs, Sample
from stagebench.core.errors import StageError
from stagebench.core.meter import SYSTEM
from stagebench.core.settings import GenerationSettings
from stagebench.core.stages import DECODE
from stagebench.media.clips import KNOWN, QUESTIONS
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.counters import additive
from stagebench.pipeline.encode import encode
from stagebench.pipeline.remembered import require_forgetful, varied
from stagebench.pipeline.run_stages import Options, reference_generate, run_stages, scored_generate, staged_generate
from stagebench.pipeline.timed_pass import check_passes, timed_pass
from stagebench.pipeline.verify import Reference, count_reference, first_scores, match_tokens, promised, verify_work

MAX_UNATTRIBUTED = 0.05  # share of e2e that may lie outside the stages
PASSES = 3  # timed passes
CLAIMS = 12  # about a model on the plain path; three do not apply to backends, the last to tiny models alone
KNOWN_ABOUT = ("caption", "count", "shape", "direction", "color")  # `clips.QUESTIONS` that `verify` asks
STATIC = {"cache_implementation": "static", "disable_compile": True}


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, whether it held, and what was found."""

    claim: str
    held: bool
    detail: str


def claims(model: VisionLanguageModel, sample: Sample, options: Options, *, known: bool = False) -> Iterator[Claim]:
    """Check a greedy model on a sample, claim by claim; stop after work that differs from that of `generate()`.

    Where the sample is `clips.KNOWN`, and the model was trained on such clips, its answers are checked too.
    Equal tokens are claimed where the caller's `pinned_runtime` makes `generate()` repeatable.
    """
    reference = count_reference(model, sample, options)
    claim = "the stages do the work of generate(), once"
    try:
        work = verify_work(model, reference).work
    except StageError as error:
        yield Claim(claim, False, str(error))
        return
    yield Claim(claim, True, ", ".join(f"{name} {n}" for name, n in additive(*work.values()).items()))
    written = ", ".join(f"{stage} {n} bytes" for stage, done in work.items() if (n := done.get(SYSTEM[1])))
    yield Claim("no stage writes to a file", not written, written or "nothing written")
    claim = "load, preprocess and encode remember nothing"
    yield _checked(claim, lambda: require_forgetful(model, sample, options), "each did its work again")
    inputs = reference.inputs
    features = encode(model, inputs)
    mine, other = (first_scores(model, inputs, varied(features, number), options) for number in (0, 1))
    moved = float((mine != other).float().mean())
    yield Claim("other features give other scores", moved > 0, f"{moved:.0%} of the first token's scores differ")
    yield from _claims_of_texts(model, reference)
    if known:
        yield known_answers(model, sample)


def _claims_of_texts(model: VisionLanguageModel, reference: Reference) -> Iterator[Claim]:
    """Check the claims that need more texts, among them the timed passes."""
    sample, inputs, options = reference.sample, reference.inputs, reference.options
    again, logits = scored_generate(model, inputs, options)
    repeats = _same(model, "generate() repeats itself", reference.tokens, again[0].tolist(), None)
    yield repeats
    promise = promised(model) == ("equal",)
    runs = [timed_pass(model, sample, options) for _ in range(PASSES)]
    first = runs[0].generation.token_ids
    claim = "timed passes agree with a second clock"
    yield _checked(claim, lambda: check_passes(model, runs, first), f"{PASSES} passes")

    def equal(
        claim: str, first: Sequence[int], second: Sequence[int], logits: list[Tensor], exact: bool = promise
    ) -> Claim:
        """Compare two texts, but judge nothing where the reference is not repeatable."""
        if not repeats.held:
            return Claim(claim, False, "not judged: generate() does not repeat itself")
        return _same(model, claim, first, second, None if exact else logits)

    timed = runs[-1].generation.token_ids[0]
    yield equal("the stages give the tokens of generate()", reference.tokens, timed, logits)
    share = median(run.unattributed / run.e2e for run in runs)
    claim = f"the stages explain e2e, all but {MAX_UNATTRIBUTED:.0%}"
    yield Claim(claim, share <= MAX_UNATTRIBUTED, f"unattributed {share:.2%}")
    if model.backend is not None:
        return  # the other claims are about the plain path
    static = dict(options) | STATIC
    rows, static_logits = scored_generate(model, inputs, static)
    by_generate, staged = rows[0].tolist(), staged_generate(model, inputs, static).token_ids[0]
    yield equal("with a static cache too", by_generate, staged, static_logits)
    yield equal("the static cache gives the tokens of the dynamic one", reference.tokens, by_generate, logits)
    other = _with_other_kernels(model, inputs, options)[0].tolist()
    yield equal("other attention kernels part at a near-tie only", reference.tokens, other, logits, exact=False)


def known_answers(model: VisionLanguageModel, sample: Sample) -> Claim:
    """Ask about the known clip through the stages: a model that does not see all of it gives other answers."""
    options, wrong, right = GenerationSettings(48).options(), list[str](), 0
    questions = QUESTIONS[model.input_kind]
    for question, answer in (questions[about] for about in KNOWN_ABOUT if about in questions):
        for thing in KNOWN.things if "{}" in question else KNOWN.things[:1]:
            asked = replace(sample, question=question.format(thing.shape))
            tokens = run_stages(model, asked, options)[DECODE.name].token_ids[0]
            said = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            right += (true := answer(KNOWN, thing)) == said
            wrong += [f"{asked.question} It is {true!r}, got {said!r}"] if said != true else []
    detail = f"{wrong[0]}; {len(wrong)} of {len(wrong) + right} answers wrong" if wrong else f"{right} answers right"
    return Claim("the answers about the known clip are right", not wrong, detail)


def _checked(claim: str, check: Callable[[], None], detail: str) -> Claim:
    try:
        check()
    except StageError as error:
        return Claim(claim, False, str(error))
    return Claim(claim, True, detail)


def _same(
    model: VisionLanguageModel, claim: str, first: Sequence[int], second: Sequence[int], logits: list[Tensor] | None
) -> Claim:
    """Claim equal tokens, or with logits, equal tokens up to a near-tie."""
    match = match_tokens(first, second, logits)
    if match.position is None:
        return Claim(claim, True, f"{len(first)} tokens equal")
    return Claim(claim, match.verdict == "near-tie", f"{match}: {match.describe(model.tokenizer)}")


def _with_other_kernels(model: VisionLanguageModel, inputs: Inputs, options: Options) -> Tensor:
    """Call `generate()` with attention as explicit matrix products: other kernels for the same mathematics."""
    before = model.hf_model.config._attn_implementation
    model.hf_model.set_attn_implementation("eager")
    try:
        return reference_generate(model, inputs, options)
    finally:
        model.hf_model.set_attn_implementation(before)
