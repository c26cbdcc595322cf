"""The claims hold for honest models, and break, by name, for those that lie."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from stagebench.core.artifacts import Sample
from stagebench.core.settings import DEFAULT_MODELS, GenerationSettings
from stagebench.core.stages import IN_GENERATE, STAGE_NAMES
from stagebench.pipeline import claims as claims_module
from stagebench.pipeline.claims import claims
from stagebench.pipeline.counters import OperatorCounter, counted_forwards, counted_run
from stagebench.pipeline.run_stages import prepared, reference_generate, run_stages

OPTIONS = GenerationSettings(max_new_tokens=8, fixed_length=True).options()


@pytest.fixture(scope="module")
def sample(synthetic):
    return Sample(synthetic.video)


@pytest.fixture(scope="module", params=sorted(DEFAULT_MODELS))
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def llava(tiny_model):
    return tiny_model("llava-1.5")


def broken(model, sample):
    return {check.claim: check.detail for check in claims(model, sample, OPTIONS) if not check.held}


def test_every_claim_but_the_timed_one_holds_for_an_honest_model(model, sample):
    before = model.hf_model.config._attn_implementation
    assert [claim for claim in broken(model, sample) if not claim.startswith("the stages explain e2e")] == []
    assert (model.hf_model.config._attn_implementation, torch.is_grad_enabled()) == (before, True)


def test_a_generate_that_does_not_repeat_itself_is_blamed_and_the_split_is_not(llava, sample, monkeypatch):
    honest = claims_module.scored_generate
    monkeypatch.setattr(claims_module, "scored_generate", lambda *a: (honest(*a)[0] + 1, honest(*a)[1]))
    monkeypatch.setattr(claims_module, "MAX_UNATTRIBUTED", -1.0)
    found = broken(llava, sample)
    assert found["generate() repeats itself"].startswith("different: token 0 differs: another token 0, ")
    judged = "the stages give the tokens of generate()", "other attention kernels part at a near-tie only"
    assert {found[claim] for claim in judged} == {"not judged: generate() does not repeat itself"}
    assert any(claim.startswith("the stages explain e2e") for claim in found)


def test_a_prompt_that_leaves_what_the_encoder_gave_out_is_named(llava, sample, monkeypatch):
    embed = type(llava).embed
    monkeypatch.setattr(type(llava), "embed", lambda self, inputs, given: embed(self, inputs, torch.ones_like(given)))
    assert broken(llava, sample)["other features give other scores"] == "0% of the first token's scores differ"


@pytest.mark.parametrize(("best", "held"), [(2.0 + 2**-22, True), (3.0, False)])
def test_kernels_that_do_not_repeat_themselves_may_part_at_a_near_tie_only(best, held):
    logits = [torch.tensor([best, 2.0])]
    speaker = SimpleNamespace(tokenizer=SimpleNamespace(decode=str))
    claim = claims_module._same(speaker, "equal", [0], [1], logits)
    assert claim.held == held


PADDING = Counter({"aten.rsub.Scalar": 1, "aten.mul.Tensor": 2, "aten.add.Tensor": 1})
"""What generate() takes to pad a row after each token; the stages don't, where it is the only one."""

# Operators by which the stages and generate() may differ, and why. All others must be equal in number.
EXPLAINED = {
    "the stop test is bool(max) here, max == 0 there": {"aten.eq.Scalar"},
    "row lengths and finish reasons, which generate() does not tell": {
        "aten.any.dim",
        "aten.bitwise_or.Tensor",
        "aten.full.default",
        "aten.isin.Tensor_Tensor",
        "aten.ones_like.default",
        "aten.slice.Tensor",
        "aten.stack.default",
        "aten.sum.dim_IntList",
    },
    "the placeholders are counted once here; generate() counts and checks them its own way": {
        "aten._is_all_true.default",
        "aten._local_scalar_dense.default",
        "aten.any.default",
        "aten.detach.default",
        "aten.lt.Scalar",
        "aten.mul.Tensor",
        "aten.sum.default",
        "aten.unsqueeze.default",
    },
    "LLaVA's features are stacked here, concatenated there": {"aten.cat.default", "aten.view.default"},
}


def test_operators_differ_from_generates_only_where_it_is_explained(model, sample):
    inputs, counters = prepared(model, sample), dict.fromkeys(STAGE_NAMES)

    def counted(stage, function, *args):
        with OperatorCounter() as counters[stage]:
            return function(*args)

    run_stages(model, sample, OPTIONS, counted)
    with OperatorCounter() as theirs, counted_forwards(model.counted_modules) as reference:
        tokens = reference_generate(model, inputs, OPTIONS)
    padding = {name: times * tokens.shape[1] for name, times in PADDING.items()}
    mine = sum((counters[stage].operators for stage in IN_GENERATE), Counter(padding))
    differing = {name for name in mine | theirs.operators if mine[name] != theirs.operators[name]}
    assert differing - set().union(*EXPLAINED.values()) == set()
    assert (reference["tower_forwards"], reference["images_encoded"]) == (1, inputs.images)


def test_the_same_pass_counts_the_same_work_again(llava, sample):
    _, first, second = (counted_run(llava, sample, OPTIONS)[1].work for _ in range(3))  # the first one imports
    assert first == second
