"""Training of the tiny models: it learns, goes on as if never interrupted, and saves what is read as a checkpoint."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy

from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings
from stagebench.media.clips import QUESTIONS, SHAPES, draw_clips
from stagebench.media.events.recordings import read_events
from stagebench.media.rendering import EVENT_TIMES, scenes_of
from stagebench.media.synthetic_clip import write_clip
from stagebench.media.video.frames import read_video
from stagebench.models.registry import build_model
from stagebench.models.tiny.checkpoint import MODELS, save_checkpoint, untrained
from stagebench.models.tiny.lessons import Lessons, answers_loss, pixels_of, places_loss, where_of
from stagebench.models.tiny.train import Course, main, train

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
    expected, actual = model.hf_model.float().state_dict(), read.hf_model.state_dict()
    assert (model.prompt_ids("What moves?", 2), []) == (
        read.prompt_ids("What moves?", 2),
        [key for key in expected if not torch.equal(expected[key], actual[key])],
    )


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_read_back_word_by_word(made, name):
    model, _ = made(name)
    asked = QUESTIONS[model.input_kind].values()
    texts = [answer(clip, thing) for clip in draw_clips(0, 20) for thing in clip.things for _, answer in asked]
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert texts == [model.tokenizer.decode(each).strip() for each in ids]


@pytest.mark.parametrize("name", MODELS)
def test_all_questions_in_one_sequence_cost_what_each_costs_on_its_own(made, name):
    model, _ = made(name)
    lessons = Lessons(model, clips=2, seed=0)
    lesson = lessons[5]
    clips = draw_clips((0, 5 // lessons.uses), 2, alone=0.25)
    pixels = pixels_of(model, lesson.scenes, torch.Generator().manual_seed(0))
    losses, weights = [], []
    for about, nth in product(lessons.questions, (0, 1)):
        if nth and "{}" not in lessons.questions[about][0]:
            continue
        things = [clip.things[nth % len(clip.things)] for clip in clips]
        for i, answer in enumerate(lessons.answers(about, clips, things)):
            ids = torch.tensor([[*lessons.prompts[about, things[i].shape], *answer]])
            inputs = Inputs(ids, torch.ones_like(ids), {model.pixels_argument: pixels[i : i + 1]}, pixels.shape[1])
            with torch.no_grad():
                embeds = model.embed(inputs, model.encode(inputs))
                logits = model.hf_model(inputs_embeds=embeds).logits[0, -len(answer) - 1 : -1]
            losses += cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
            weights += [len(answer) ** -0.5] * len(answer)
    with torch.no_grad():
        images = torch.zeros(2, 1, dtype=torch.long)
        features = model.encode(Inputs(images, images, {model.pixels_argument: pixels}, pixels.shape[1]))
        together = answers_loss(model, lessons, lesson, features)
    assert float(together) == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


@pytest.mark.parametrize(("name", "images"), [("video-llava", 8), ("eventgpt", 5)])
def test_images_that_tell_the_places_of_their_shapes_cost_nothing_for_them(made, name, images):
    lessons = Lessons(made(name)[0], clips=4, seed=0)
    lesson = lessons[0]
    told = torch.zeros(4, images * (1 if name == "eventgpt" else 3), 96)
    each = told if name == "eventgpt" else told.unflatten(1, (images, 3))[:, :, 0]
    each[..., :6] = (lesson.where[..., :2] - torch.tensor([320, 240])).flatten(2) / 240
    told *= 1 if name == "eventgpt" else 3  # what counts of a video's frame is the mean of its tokens
    assert float(places_loss(lessons, lesson, told)) == pytest.approx(0, abs=1e-6)


def test_the_places_in_event_images_are_those_of_their_slices(made, tmp_path_factory):
    clip = next(clip for clip in draw_clips(1, 50, alone=1) if clip.things[0].ending == "moves")
    lessons = Lessons(made("eventgpt")[0], clips=1, seed=0)
    folder = tmp_path_factory.mktemp("one")
    images = read_events(write_clip(folder, clip).events, 5).images
    expected = [np.argwhere((image != 255).any(-1)).mean(0)[::-1] for image in images]
    where = where_of(scenes_of([clip], EVENT_TIMES, gray=True), lessons.images)[0]
    actual = where[:, [*SHAPES].index(clip.things[0].shape), :2].numpy()
    assert np.abs(np.array(expected) - actual).max() < 30


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), draw_clips((3, 0), 1)[0])


@pytest.mark.parametrize(("name", "likeness"), [("llava-1.5", 0.99), ("video-llava", 0.97), ("eventgpt", 0.8)])
def test_training_shows_what_preprocessing_makes_of_the_files(made, files, name, likeness):
    model, _ = made(name)
    media = read_events(files.events, 5) if model.input_kind == "events" else read_video(files.video, 8)
    _, scenes, _ = Lessons(model, clips=1, seed=3).drawn(0)
    drawn = pixels_of(model, scenes, torch.Generator().manual_seed(0))[0]
    assert np.corrcoef(model.picture(media.images).flatten(), drawn.flatten())[0, 1] > likeness


def test_a_question_is_about_an_object_that_is_there(made):
    lessons = Lessons(made()[0], clips=8, seed=0)
    clips, _, things = lessons.drawn(7)
    assert all(thing in clip.things for clip, thing in zip(clips, things, strict=True))


def test_the_command_saves_a_checkpoint_and_how_right_it_is(tmp_path):
    options = "--model llava-1.5 --steps 1 --clips 1 --held-out 2 --device cpu"
    result = CliRunner().invoke(main, [*options.split(), str(tmp_path)])
    assert (result.exit_code, result.exception) == (0, None)
    accuracy = json.loads((tmp_path / "llava-1.5.json").read_text())["accuracy"]
    assert (list(QUESTIONS["video"]), True) == (list(accuracy), "| caption | 0.0% |" in result.output)
