"""On a CUDA device, at 7B shapes in bfloat16: the staged tokens are those of `generate()`, attention kernel pinned."""

import pytest

from stagebench.attention import pinned
from stagebench.counters import additive, total
from stagebench.media.scene import render_scene
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import counted_reference, counted_run, prepared, reference_generate
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
    built = build_model(request.param, ModelSettings(profile="7b", device=str(gpu), dtype="bfloat16"))
    with pinned(built.network.device, "efficient"):
        yield built


@pytest.mark.gpu
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_split_equals_generate_at_full_size(model, scene, question):
    sample = Sample(scene.events if model.name == "eventgpt" else scene.video, question)
    inputs = prepared(model, sample)
    generation, counter = counted_run(model, sample, OPTIONS)
    tokens, reference_work, _ = counted_reference(model, inputs, OPTIONS)
    again = reference_generate(model, inputs, OPTIONS)
    # First the reference itself: where generate() does not repeat itself, the split is not to blame.
    assert tokens.tolist() == again.tolist()
    assert list(generation.token_ids[0]) == tokens[0].tolist()
    assert total(counter.work) == additive(reference_work)
