"""On a CUDA device, at 7B shapes in bfloat16: the audit holds, 128 tokens, five questions, attention kernel pinned."""

import pytest

from stagebench.audit import audit
from stagebench.backends.backend import RECIPES, with_backend
from stagebench.conditions import conditions
from stagebench.equality import compare
from stagebench.media.scene import render_scene
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import prepared, scored_generate, staged_generate
from stagebench.types import DEFAULT_QUESTION, GenerationSettings, ModelSettings, Sample

QUESTIONS = (
    DEFAULT_QUESTION,
    "What moves?",
    "Is it day or night, and how can one tell?",
    "Where does the vehicle turn at the end of the scene?",
    "List every object in the foreground, then every object in the background, from left to right.",
)
OPTIONS = GenerationSettings(max_new_tokens=128, fixed_length=True).options()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return render_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def model(request, gpu):
    release()
    settings = ModelSettings(profile="7b", device=str(gpu), dtype="bfloat16")
    with conditions(settings):
        yield build_model(request.param, settings)


@pytest.fixture(scope="module")
def expected(model, scene):
    """Of each question the inputs, and the tokens and logits of `generate()`."""
    samples = (Sample(scene.shown("own", model.media), question) for question in QUESTIONS)
    found = [(inputs := prepared(model, sample), *scored_generate(model, inputs, OPTIONS)) for sample in samples]
    return [(inputs, tokens[0].tolist(), logits) for inputs, tokens, logits in found]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", RECIPES)
def test_a_backend_gives_the_tokens_of_generate_but_for_near_ties_of_kernels_of_its_own(model, expected, backend):
    fast = with_backend(model, backend)
    outcomes = [
        compare(tokens, staged_generate(fast, inputs, OPTIONS).token_ids[0], logits)
        for inputs, tokens, logits in expected
    ]
    allowed = {"equal"} if fast.backend.exact else {"equal", "near-tie"}
    assert {outcome.verdict for outcome in outcomes} <= allowed


@pytest.mark.gpu
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_claim_but_the_timed_one_holds_at_full_size(model, scene, question):
    sample = Sample(scene.events if model.name == "eventgpt" else scene.video, question)
    checks = [check for check in audit(model, sample, OPTIONS, "efficient") if not check.held]
    assert [check for check in checks if not check.claim.startswith("the stages explain e2e")] == []
