"""What trained tiny models say of the known clip: faults of content change it, and are named."""

from dataclasses import replace

import pytest

from stagebench.core.artifacts import Sample
from stagebench.core.settings import DEFAULT_MODELS, GenerationSettings, ModelSettings
from stagebench.core.stages import DECODE
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models import llava
from stagebench.models.registry import build_model
from stagebench.pipeline import run_stages
from stagebench.pipeline.claims import claims, known_answers
from stagebench.pipeline.counters import counted_run

CLAIM = "the answers about the known clip are right"
OPTIONS = GenerationSettings(32, fixed_length=True).options()


@pytest.fixture(scope="module")
def trained():
    models = {name: build_model(name, ModelSettings("tiny")) for name in DEFAULT_MODELS}
    return models.__getitem__


@pytest.fixture(scope="module")
def sample_of(tmp_path_factory):
    clip = write_synthetic_clip(tmp_path_factory.mktemp("clip"), "clip")
    return lambda model: Sample(clip.shown("own", model.input_kind))


def crop(monkeypatch):
    grid = llava.grid
    monkeypatch.setattr(llava, "grid", lambda images, *more: grid([i[:, : i.shape[1] // 2] for i in images], *more))


def repeat(monkeypatch):
    load = run_stages.load

    def loaded(sample, images):
        media = load(sample, images)
        return replace(media, images=media.images[:1] * images)

    monkeypatch.setattr(run_stages, "load", loaded)


def shorten(monkeypatch):
    load = run_stages.load
    part = {"duration": 0.4}
    monkeypatch.setattr(
        run_stages, "load", lambda sample, n: load(replace(sample, loading=replace(sample.loading, **part)), n)
    )


FAULTS = {
    "a cropped grid": ("llava-1.5", crop),
    "one image repeated": ("eventgpt", repeat),
    "the first 0.4 s": ("llava-1.5", shorten),
}


def said(model, sample):
    return known_answers(model, sample)


@pytest.mark.parametrize("name", DEFAULT_MODELS)
def test_each_model_answers_all_that_it_is_asked(trained, sample_of, name):
    model = trained(name)
    found = said(model, sample_of(model))
    assert (found.held, found.detail) == (True, "5 answers right" if name == "eventgpt" else "7 answers right")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_content_is_named_by_an_answer(trained, sample_of, monkeypatch, fault):
    name, plant = FAULTS[fault]
    plant(monkeypatch)
    found = said(trained(name), sample_of(trained(name)))
    assert (found.held, found.detail.startswith("Describe in detail")) == (False, True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_content_gives_other_tokens(trained, sample_of, monkeypatch, fault):
    name, plant = FAULTS[fault]
    model = trained(name)
    before = counted_run(model, sample_of(model), OPTIONS)[1].content[DECODE.name]
    plant(monkeypatch)
    assert counted_run(model, sample_of(model), OPTIONS)[1].content[DECODE.name] != before


def test_a_model_that_was_not_trained_is_not_asked(tiny_model, sample_of):
    model = tiny_model("llava-1.5")
    assert CLAIM not in [each.claim for each in claims(model, sample_of(model), OPTIONS)]
