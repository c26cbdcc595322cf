"""Training of the tiny models: it learns, goes on as if never interrupted, and saves what is read as a checkpoint."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.media.clip_texts import told
from stagebench.media.clips import draw_clips
from stagebench.media.events.recordings import read_events
from stagebench.media.synthetic_clip import write_clip
from stagebench.media.video.frames import read_video
from stagebench.models.registry import build_model
from stagebench.models.tiny.checkpoint import MODELS, TEXTS, save_checkpoint, untrained
from stagebench.models.tiny.train import Course, batch_of, main, pixels_of, shown, train

COURSE = Course(steps=4, clips=2, rate=2e-3, seed=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Builds a model to be trained, and the folder of its tokenizer's files."""

    def build(name="llava-1.5"):
        folder = tmp_path_factory.mktemp(name)
        return untrained(name, folder, ModelSettings()), folder

    return build


@pytest.fixture(scope="module")
def trained(made):
    model, folder = made()
    return model, train(model, COURSE, folder / "run.pt"), folder / "run.pt"


def test_the_loss_falls(trained):
    _, losses, _ = trained
    assert losses[-1] < losses[0] - 0.2


def test_an_interrupted_run_goes_on_as_if_it_never_was(trained, made):
    model, folder = made()
    train(model, COURSE, folder / "run.pt", until=3)
    again, _ = made()
    losses = train(again, COURSE, folder / "run.pt")
    expected, actual = (each.hf_model.state_dict() for each in (trained[0], again))
    assert (trained[1], []) == (losses, [key for key in expected if not torch.equal(expected[key], actual[key])])


def test_a_run_of_another_course_is_refused(trained, made):
    with pytest.raises(ModelError, match=r"must be a run of .*'seed': 1.*, got .*'seed': 0"):
        train(made()[0], Course(steps=4, clips=2, rate=2e-3, seed=1), trained[2])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_read_as_a_checkpoint(made, name):
    model, folder = made(name)
    save_checkpoint(model, folder)
    read = build_model(name, ModelSettings(profile="pretrained", weights=str(folder)))
    question = TEXTS[name]["caption"][0]
    expected, actual = model.hf_model.float().state_dict(), read.hf_model.state_dict()
    assert (model.prompt_ids(question, 2), []) == (
        read.prompt_ids(question, 2),
        [key for key in expected if not torch.equal(expected[key], actual[key])],
    )


@pytest.mark.parametrize("name", MODELS)
def test_all_answers_are_words_of_the_vocabulary(made, name):
    model, _ = made(name)
    all_told = [told(clips, i) for clips in [draw_clips(0, 20)] for i in range(20)]
    answers = [answer for _, answer in TEXTS[name].values()]
    texts = [answer(clip, shape) for answer in answers for clip in all_told for shape in clip.objects]
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [text.split() for text in texts] == [[model.tokenizer.decode(id_).strip() for id_ in each] for each in ids]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), draw_clips(3, 1))


@pytest.mark.parametrize(("name", "likeness"), [("llava-1.5", 0.99), ("video-llava", 0.95), ("eventgpt", 0.85)])
def test_training_shows_what_preprocessing_makes_of_the_files(made, files, name, likeness):
    model, _ = made(name)
    media = read_events(files.events, 5) if model.input_kind == "events" else read_video(files.video, 8)
    drawn = pixels_of(model, draw_clips(3, 1), torch.Generator().manual_seed(0))[0]
    assert np.corrcoef(model.picture(media.images).flatten(), drawn.flatten())[0, 1] > likeness


def test_a_question_is_about_an_object_that_is_there(made):
    model, _ = made()
    clips, pixels = shown(model, (0, 7), 8)
    batch = batch_of(model, "color", clips, pixels, (0, 7))
    texts = model.tokenizer.batch_decode(batch.inputs.input_ids)
    asked = [next(shape for shape in ("ball", "box", "sign") if f"the {shape}" in text) for text in texts]
    assert all(shape in told(clips, i).objects for i, shape in enumerate(asked))


def test_the_command_saves_a_checkpoint_and_how_right_it_is(tmp_path):
    options = [
        "--model",
        "llava-1.5",
        "--steps",
        "1",
        "--clips",
        "1",
        "--held-out",
        "2",
        "--device",
        "cpu",
        str(tmp_path),
    ]
    result = CliRunner().invoke(main, options)
    assert (result.exit_code, result.exception) == (0, None)
    accuracy = json.loads((tmp_path / "llava-1.5.json").read_text())["accuracy"]
    assert (list(TEXTS["llava-1.5"]), True) == (list(accuracy), "| caption | 0.0% |" in result.output)
