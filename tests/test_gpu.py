"""On a CUDA device: every backend gives the tokens of `generate()`, in narrow layers and at 7B shapes; the claims hold.

A release is tested with HYPOTHESIS_PROFILE=thorough: five questions and 128 tokens.
"""

import json
import os

import pytest
from certify_backends import QUESTIONS

from stagebench.backends.graph import LAG
from stagebench.backends.load import with_backend
from stagebench.core.artifacts import Sample
from stagebench.core.settings import DEFAULT_MODELS, GenerationSettings, ModelSettings
from stagebench.models.registry import build_model
from stagebench.models.weights import release
from stagebench.pipeline.claims import claims
from stagebench.pipeline.run_stages import prepared, scored_generate, staged_generate
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import match_tokens

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
DTYPES = {"tiny": "float32", "7b": "bfloat16"}
"""Padded and unpadded prompts take different matrix kernels; in float32 no token of narrow layers hangs on that."""
CASES = [(profile, name) for profile in DTYPES for name in sorted(DEFAULT_MODELS)]
ASKED = QUESTIONS if THOROUGH else QUESTIONS[:2]
AUDITED = QUESTIONS if THOROUGH else QUESTIONS[:1]
OPTIONS = GenerationSettings(max_new_tokens=128 if THOROUGH else 32, fixed_length=True).options()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def model(request, gpu):
    release()
    profile, name = request.param
    settings = ModelSettings(profile=profile, device=str(gpu), dtype=DTYPES[profile])
    with pinned_runtime(settings):
        yield build_model(name, settings)


@pytest.fixture(scope="module")
def expected(model, synthetic):
    """Of each question the inputs, and the tokens and logits of `generate()`."""
    samples = (Sample(synthetic.shown("own", model.input_kind), question) for question in ASKED)
    found = [(inputs := prepared(model, sample), *scored_generate(model, inputs, OPTIONS)) for sample in samples]
    return [(inputs, tokens[0].tolist(), logits) for inputs, tokens, logits in found]


def verdicts(fast, expected):
    """How the tokens of a model with a backend compare, by question."""
    return {
        match_tokens(tokens, staged_generate(fast, inputs, OPTIONS).token_ids[0], logits).verdict
        for inputs, tokens, logits in expected
    }


@pytest.mark.gpu
def test_graphs_give_the_tokens_of_generate(model, expected):
    assert verdicts(with_backend(model, "graph"), expected) == {"equal"}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "fused"])
def test_kernels_of_ones_own_give_the_tokens_of_generate_but_for_near_ties(model, expected, backend):
    assert verdicts(with_backend(model, backend), expected) <= {"equal", "near-tie"}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["graph", "compiled", "fused"])
def test_a_text_that_stops_by_itself_ends_there_with_a_step_in_vain_behind_it(model, expected, backend):
    fast, (inputs, *_) = with_backend(model, backend), expected[0]
    whole = staged_generate(fast, inputs, OPTIONS).token_ids[0]
    stopped = staged_generate(fast, inputs, {"max_new_tokens": 32, "do_sample": False, "eos_token_id": whole[5]})
    taken = whole.index(whole[5], 1) if whole[0] != whole[5] else 0
    assert (stopped.token_ids[0], stopped.finish_reasons[0]) == (whole[: taken + 1], "stop")
    assert (stopped.steps, stopped.wasted_steps) == (taken, LAG - 1 if taken else 0)


@pytest.mark.gpu
@pytest.mark.parametrize("question", AUDITED)
def test_every_claim_but_the_timed_one_holds(model, synthetic, question):
    sample = Sample(synthetic.events if model.name == "eventgpt" else synthetic.video, question)
    checks = [check for check in claims(model, sample, OPTIONS) if not check.held]
    assert [check for check in checks if not check.claim.startswith("the stages explain e2e")] == []


@pytest.mark.gpu
def test_the_suite_sets_everything_up_before_it_times_anything(suite_command, tmp_path):
    out = tmp_path / "out.json"
    on_gpu = ("--stage-device=cuda", "--stage-profile=tiny", "--stage-dtype=float32", "--stage-model=llava-1.5")
    done = suite_command(
        "-k", "test_stage", *on_gpu, "--stage-backend=eager,graph,compiled,fused", f"--benchmark-json={out}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    infos = [benchmark["extra_info"] for benchmark in json.loads(out.read_text())["benchmarks"]]
    captures = {(info["backend"], info["stage"]): info["setup"]["captures"] for info in infos if "setup" in info}
    assert captures == {(b, s): 3 for b in ("graph", "compiled", "fused") for s in ("encode", "prefill", "decode")}
