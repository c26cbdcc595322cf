"""Speculative decoding: whatever a draft writes, the text is the target's own, and the checks are those foreseen."""

import copy
from dataclasses import replace

import pytest
import torch

from stagebench.analysis.drafting import checks
from stagebench.analysis.experiments.speculative import Reader, draft_lines, measure_draft, right_tokens, speculate
from stagebench.core.artifacts import Sample
from stagebench.core.errors import AnalysisError
from stagebench.core.settings import GenerationSettings, ModelSettings
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models.registry import build_model
from stagebench.models.tiny.checkpoint import untrained
from stagebench.pipeline.run_stages import prepared, reference_generate

LENGTHS = {"natural": GenerationSettings(16), "fixed": GenerationSettings(13, fixed_length=True)}
QUESTIONS = ("What moves?", "How many objects are there?")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A draft that knows nothing, one that is nearly the target, and the target; all of one tokenizer."""
    other = untrained("eventgpt", tmp_path_factory.mktemp("other"), ModelSettings())
    itself = build_model("video-llava", ModelSettings(profile="tiny"))
    near = replace(itself, hf_model=copy.deepcopy(itself.hf_model))
    torch.manual_seed(0)
    for weight in near.hf_model.parameters():
        weight.data += 0.3 * weight.data.std() * torch.randn_like(weight)
    return {"other": other, "near": near, "itself": itself}


@pytest.fixture(scope="module")
def sample_of(tmp_path_factory):
    clip = write_synthetic_clip(tmp_path_factory.mktemp("clip"), "clip")
    return lambda model, question: Sample(clip.shown("own", model.input_kind), question)


@pytest.fixture(scope="module")
def readers(models, sample_of):
    """Reads a question with a model."""

    def read(name, question=QUESTIONS[0], length="fixed"):
        return Reader(models[name], sample_of(models[name], question), LENGTHS[length].options())

    return read


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", ["other", "near", "itself"])
def test_the_text_is_that_of_generate_and_the_checks_are_foreseen(models, sample_of, readers, name, question, length):
    draft, target = readers(name, question, length), readers("itself", question, length)
    inputs = prepared(target.model, sample_of(target.model, question))
    expected = reference_generate(target.model, inputs, LENGTHS[length].options())[0].tolist()
    assert target.own_text() == expected
    right = right_tokens(draft, expected)
    for k in (1, 2, 3, 7, 40):
        assert speculate(draft, target, k) == (expected, checks(right, k))


def test_the_drafts_are_wrong_always_sometimes_and_never(readers):
    text = readers("itself").own_text()
    shares = [sum(right_tokens(readers(name), text)) for name in ("other", "near", "itself")]
    assert (shares[0], 0 < shares[1] < 12, shares[2]) == (0, True, 12)


def test_a_right_token_is_the_next_one_of_the_draft_alone(models, readers, sample_of):
    """Of the draft's own text all are right, and of any other its own next token at each place."""
    own = readers("near").own_text()
    assert right_tokens(readers("near"), own) == [True] * 12
    changed = [*own[:5], (own[5] + 1) % 600, *own[6:]]
    assert right_tokens(readers("near"), changed)[:5] == [True] * 4 + [False]


def test_a_text_of_one_token_is_drafted_by_nobody(models, sample_of):
    options = GenerationSettings(1).options()
    draft, target = (Reader(models[n], sample_of(models[n], QUESTIONS[0]), options) for n in ("near", "itself"))
    assert (speculate(draft, target, 4), right_tokens(draft, target.own_text())) == ((target.own_text(), 0), [])


def test_a_token_that_the_draft_does_not_have_is_read_as_an_unknown_one(readers):
    assert len(readers("other").after([5, 10**6])) == 2


def test_it_is_timed_against_the_target_alone(readers):
    found = measure_draft(readers("near"), readers("itself"), 4)
    assert (len(found["right"]), found["plain"] > 0, found["drafted"] > 0) == (12, True, True)
    assert found["checks"] == checks(found["right"], 4)


def test_another_text_than_the_targets_own_is_refused(readers, monkeypatch):
    """The target checks by what it does not say."""
    target = readers("itself")
    after = target.after
    monkeypatch.setattr(target, "after", lambda text: [token ^ 1 for token in after(text)])
    with pytest.raises(AnalysisError, match="drafts of eventgpt, video-llava must give its own text, got another"):
        measure_draft(readers("other"), target, 4)


def test_another_tokenizer_is_refused(readers, sample_of, tiny_random):
    other = Reader(tiny_random, sample_of(tiny_random, QUESTIONS[0]), LENGTHS["fixed"].options())
    said = "a draft must have the tokenizer of its target, got another of llava-1.5 than video-llava"
    with pytest.raises(AnalysisError, match=said):
        measure_draft(other, readers("itself"), 4)


@pytest.fixture(scope="module")
def tiny_random():
    return build_model("llava-1.5", ModelSettings("tiny-random"))


def test_only_models_of_one_tokenizer_draft_for_each_other(models, sample_of, tiny_random):
    three = [models["other"], models["itself"], tiny_random]
    samples = {model.name: sample_of(model, QUESTIONS[0]) for model in three}
    lines = list(draft_lines(three, samples, LENGTHS["fixed"].options(), 2))
    pairs = [(line["draft"], line["target"]) for line in lines]
    assert pairs == [("eventgpt", "video-llava"), ("video-llava", "eventgpt")]
    assert all("error" not in line and len(line["right"]) == 12 for line in lines)


def test_a_refused_pair_has_its_reason_in_its_line(models, sample_of, monkeypatch):
    two = [models["other"], models["itself"]]
    samples = {model.name: sample_of(model, QUESTIONS[0]) for model in two}
    monkeypatch.setattr(Reader, "own_text", lambda self: [0, 0, 0])
    lines = list(draft_lines(two, samples, LENGTHS["fixed"].options(), 2))
    assert ["must give its own text" in line["error"] for line in lines] == [True, True]
