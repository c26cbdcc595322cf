"""Faults planted in the stages, and what names each: the checks that `run`, `verify`, `analyze` and the suite make.

A fault that hides while it is watched looks for torch's dispatch modes and for hooks, and behaves while there are any.
"""

import gc
import time
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as PillowImage
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import _get_current_dispatch_mode

from stagebench.benchmarks.rounds import Rounds
from stagebench.cli import main
from stagebench.core.artifacts import Inputs, Media, Sample
from stagebench.core.errors import StageError
from stagebench.core.settings import GenerationSettings, LoadSettings
from stagebench.core.stages import STAGE_NAMES, time_outside
from stagebench.media.video import frames
from stagebench.models import llava
from stagebench.models.llava import Llava
from stagebench.models.pixels import ImageProcessor
from stagebench.pipeline import load as load_stage
from stagebench.pipeline import run_stages, timed_pass
from stagebench.pipeline.claims import claims
from stagebench.pipeline.counters import WorkCounter, content_of, counted_run
from stagebench.pipeline.remembered import fingerprint, varied
from stagebench.pipeline.run_stages import made_before, path
from stagebench.pipeline.timed_pass import check_passes, timed_run
from stagebench.pipeline.verify import count_reference, verify

OPTIONS = GenerationSettings(max_new_tokens=4, fixed_length=True).options()


@pytest.fixture(scope="module")
def sample(synthetic):
    return Sample(synthetic.video)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llava-1.5")


@pytest.fixture(scope="module")
def honest(model, sample):
    """A reference, and the counted pass of a model without any fault, both warm."""
    reference = count_reference(model, sample, OPTIONS)
    return reference, counted_run(model, sample, OPTIONS)[1]


def watched():
    tower = _get_current_dispatch_mode() is not None
    return tower or any(m._forward_pre_hooks for m in watched.model.hf_model.modules())


def remember(function, key, hides):
    """The function with a memory: of one result, or of one for each key; none while it is watched, if it hides."""
    kept = {}

    def remembering(*args):
        if hides and watched():
            return function(*args)
        found = key(*args)
        if found not in kept:
            kept[found] = function(*args)
        return kept[found]

    return remembering


def pixels_of(given):
    pictures = given.images if isinstance(given, Media) else [tensor.numpy() for tensor in given.pixels]
    return b"".join(picture.tobytes() for picture in pictures)


PLACES = {
    "load": (run_stages, "load", lambda sample, images: sample.path),
    "the reader in load": (load_stage, "read_video", lambda path, *_: path),
    "preprocess": (Llava, "preprocess", lambda model, media, question: pixels_of(media)),
    "encode": (Llava, "encode", lambda model, inputs: pixels_of(inputs)),
}
OTHERS = {"prefill": (run_stages, "prefill", None), "decode": (run_stages, "decode", None)}
PARTS = {
    "packets": (frames, "read_track"),
    "images_made": (frames, "to_image"),
    "frames_decoded": (frames, "_decode_keyed"),
    "images_processed": (ImageProcessor, "__call__"),
}


@pytest.mark.parametrize("hides", [False, True], ids=["", "hides"])
@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
@pytest.mark.parametrize("place", PLACES)
def test_a_remembered_result_fails_the_proof_that_every_command_makes(
    model, sample, honest, monkeypatch, place, keyed, hides
):
    watched.model = model
    owner, name, key = PLACES[place]
    monkeypatch.setattr(owner, name, remember(getattr(owner, name), key if keyed else lambda *_: 0, hides))
    stage = place.split()[-1]
    with pytest.raises(StageError, match=f"{stage} must .*(cached|work|positions)"):
        verify(model, honest[0])


@pytest.mark.parametrize("hides", [False, True], ids=["", "hides"])
@pytest.mark.parametrize("stage", ["load", "preprocess", "encode", "prefill", "decode"])
def test_a_remembered_result_fails_its_benchmark_in_the_round_that_has_it(model, sample, monkeypatch, stage, hides):
    watched.model = model
    owner, name, _ = (PLACES | OTHERS)[stage]
    monkeypatch.setattr(owner, name, remember(getattr(owner, name), lambda *_: 0, hides))
    with pytest.raises(StageError, match=f"{stage} must .* cached"):
        timed_rounds(model, sample, stage)


@pytest.mark.parametrize("counter", PARTS)
def test_a_part_of_a_stage_that_is_remembered_leaves_its_counter_at_nothing(
    model, sample, honest, monkeypatch, counter
):
    owner, name = PARTS[counter]
    monkeypatch.setattr(owner, name, remember(getattr(owner, name), lambda *_: 0, hides=False))
    run_stages.prepared(model, sample)
    with pytest.raises(StageError, match=f"must do work, got {counter} = 0"):
        counted_run(model, sample, OPTIONS)


def timed_rounds(model, sample, stage):
    """As `test_stage` does it: the rounds of one stage, and the counted pass that they are held to."""
    steps, kept, done = path(model, sample, OPTIONS), Rounds(stage, 1, 2), {}
    earlier = STAGE_NAMES[: STAGE_NAMES.index(stage)]
    for name in earlier:
        done[name] = steps[name](made_before(name, done))
    for _ in range(3):
        for name in earlier[-1:]:
            done[name] = kept.fresh(steps[name](made_before(name, done)))
        made = made_before(stage, done)
        kept.begin()
        result = steps[stage](made)
        kept.end()
        kept.judge(result)
    for name in earlier[-1:]:
        done[name] = steps[name](made_before(name, done))
    counter = WorkCounter(model.counted_modules, model.backend)
    counter(stage, steps[stage], made_before(stage, done))
    kept.require(counter.work[stage])


@pytest.mark.parametrize("stage", list(STAGE_NAMES))
def test_the_rounds_of_an_honest_stage_pass(model, sample, honest, stage):
    timed_rounds(model, sample, stage)


def differing(first, second):
    return {name for name in first if first[name] != second.get(name)}


def test_a_second_tower_forward_is_more_work_than_generate_does(model, honest, monkeypatch):
    once = Llava.encode
    monkeypatch.setattr(Llava, "encode", lambda self, inputs: (once(self, inputs), once(self, inputs))[1])
    with pytest.raises(StageError, match=r"must do the work of generate.*tower_forwards 2, not 1"):
        verify(model, honest[0])


def contents(model, sample):
    return {name: value for c in counted_run(model, sample, OPTIONS)[1].content.values() for name, value in c.items()}


@pytest.mark.parametrize("kept", [lambda i: 0, lambda i: min(i, 6)], ids=["one image", "the last one twice"])
def test_an_image_that_is_repeated_shows_in_the_frames_and_all_that_comes_of_them(
    model, sample, honest, monkeypatch, kept
):
    before, load = contents(model, sample), run_stages.load

    def repeat(*args):
        media = load(*args)
        return replace(media, images=tuple(media.images[kept(i)] for i in range(len(media.images))))

    monkeypatch.setattr(run_stages, "load", repeat)
    assert {"frames", "pixels", "features"} <= differing(before, contents(model, sample))


def test_a_grid_that_is_cropped_shows_in_the_pixels_and_not_in_the_frames(model, sample, honest, monkeypatch):
    before, grid = contents(model, sample), llava.grid
    monkeypatch.setattr(llava, "grid", lambda *args: grid(*args).roll(30, 0))
    changed = differing(before, contents(model, sample))
    assert ("frames" in changed, "pixels" in changed, "features" in changed) == (False, True, True)


def test_the_first_part_of_a_clip_shows_in_the_frames_and_as_less_work(model, sample, honest):
    counter = counted_run(model, replace(sample, loading=LoadSettings(duration=0.4)), OPTIONS)[1]
    assert counter.content["load"] != honest[1].content["load"]
    assert counter.work["load"]["packets"] < honest[1].work["load"]["packets"]


def decode_with_another_library(path):
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("again", "seen"),
    [
        (
            lambda path: load_stage.read_video(path, 8),
            {"bytes_read", "packets", "frames_decoded", "images_made", "bytes_from_files"},
        ),
        (decode_with_another_library, {"bytes_from_files"}),
        (lambda path: path.read_bytes(), {"bytes_from_files"}),
    ],
    ids=["by our reader", "by PyAV", "the bytes alone"],
)
def test_a_clip_that_is_read_twice_shows_in_what_was_counted(model, sample, honest, monkeypatch, again, seen):
    load = run_stages.load
    monkeypatch.setattr(run_stages, "load", lambda *args: (again(args[0].path), load(*args))[1])
    work = counted_run(model, sample, OPTIONS)[1].work["load"]
    assert {name for name in work if work[name] > honest[1].work["load"][name]} == seen


def test_a_clip_that_is_read_twice_when_nobody_looks_fails_its_benchmark(model, sample, honest, monkeypatch):
    watched.model, load = model, run_stages.load
    hidden = lambda *args: ((watched() or decode_with_another_library(args[0].path)), load(*args))[1]  # noqa: E731
    monkeypatch.setattr(run_stages, "load", hidden)
    with pytest.raises(StageError, match=r"load must do the same work when timed, bytes_from_files"):
        timed_rounds(model, sample, "load")


def log_tensors(patch, folder, hides=False):
    encode = Llava.encode

    def logging(self, inputs):
        features = encode(self, inputs)
        if not (hides and watched()):
            (folder / "log.txt").write_text(f"features {features[0, :2, :4]}\n")
        return features

    patch.setattr(Llava, "encode", logging)


def broken(model, sample):
    return next((check.claim, check.detail) for check in claims(model, sample, OPTIONS) if not check.held)


def test_a_text_log_of_tensors_is_refused(model, sample, monkeypatch, tmp_path):
    log_tensors(monkeypatch, tmp_path)
    text = "encode must not write tensors as text, got tensors_formatted = 1"
    with pytest.raises(StageError, match=text):
        counted_run(model, sample, OPTIONS)
    assert broken(model, sample) == ("the stages do the work of generate(), once", text)


def test_a_text_log_of_numbers_shows_as_bytes_written_and_breaks_a_claim(model, sample, monkeypatch, tmp_path):
    load = run_stages.load
    write = lambda: (tmp_path / "log.txt").write_text("8 frames\n")  # noqa: E731
    monkeypatch.setattr(run_stages, "load", lambda *args: (write(), load(*args))[1])
    assert counted_run(model, sample, OPTIONS)[1].work["load"]["bytes_to_files"] == 9
    assert broken(model, sample) == ("no stage writes to a file", "load 9 bytes")


def test_what_remembers_while_nobody_looks_breaks_a_claim(model, sample, monkeypatch):
    watched.model = model
    monkeypatch.setattr(Llava, "encode", remember(Llava.encode, lambda *_: 0, hides=True))
    assert broken(model, sample)[0] == "load, preprocess and encode remember nothing"


def test_what_remembers_only_where_garbage_is_not_collected_fails_the_proof(model, sample, honest, monkeypatch):
    encode, kept = Llava.encode, {}

    def remembering(self, inputs):
        key = pixels_of(inputs)
        if key not in kept or gc.isenabled():
            kept[key] = encode(self, inputs)
        return kept[key]

    monkeypatch.setattr(Llava, "encode", remembering)
    with pytest.raises(StageError, match=r"encode must .* cached"):
        verify(model, honest[0])


def test_a_text_log_that_is_written_when_nobody_looks_fails_its_benchmark(model, sample, honest, monkeypatch, tmp_path):
    watched.model = model
    log_tensors(monkeypatch, tmp_path, hides=True)
    with pytest.raises(StageError, match=r"encode must do the same work when timed, bytes_to_files 0, got "):
        timed_rounds(model, sample, "encode")


def scale_in_load(patch):
    load = run_stages.load

    def scaling(*args):
        media = load(*args)
        small = [PillowImage.fromarray(image).resize((84, 63)) for image in media.images]
        return replace(media, images=tuple(map(np.asarray, small)))

    patch.setattr(run_stages, "load", scaling)


def scale_in_encode(patch):
    encode = Llava.encode

    def scaling(self, inputs):
        interpolate(inputs.pixels[0][0], (112, 112), mode="bicubic", antialias=True)
        return encode(self, inputs)

    patch.setattr(Llava, "encode", scaling)


@pytest.mark.parametrize(("stage", "plant"), [("load", scale_in_load), ("encode", scale_in_encode)])
def test_a_resize_in_another_stage_is_anothers_work(model, sample, monkeypatch, stage, plant):
    plant(monkeypatch)
    with pytest.raises(StageError, match=f"{stage} must not do another stage's work, got resized_pixels = "):
        counted_run(model, sample, OPTIONS)


def test_honest_passes_are_what_they_say(model, sample, honest):
    runs = [timed_run(model, sample, OPTIONS) for _ in range(3)]
    check_passes(model, runs, [honest[0].tokens])
    assert set(runs[0].spans) == set(runs[0].seconds)


@pytest.mark.parametrize("stage", ["load", "preprocess", "decode"])
def test_a_timer_that_tells_half_is_contradicted(model, sample, honest, monkeypatch, stage):
    call = timed_pass.Stopwatch.__call__

    def lying(self, name, *args):
        result = call(self, name, *args)
        self.seconds[name] *= 0.5 if name == stage else 1
        return result

    monkeypatch.setattr(timed_pass.Stopwatch, "__call__", lying)
    with pytest.raises(StageError, match=f"{stage} must agree with a second clock"):
        check_passes(model, [timed_run(model, sample, OPTIONS) for _ in range(3)], [honest[0].tokens])


def test_a_text_that_is_cut_is_refused(model, sample, honest, monkeypatch):
    tell = timed_pass.detokenize
    monkeypatch.setattr(timed_pass, "detokenize", lambda *args: tell(*args)[:-1])
    with pytest.raises(StageError, match="the text must be that of its 4 tokens"):
        check_passes(model, [timed_run(model, sample, OPTIONS)], [honest[0].tokens])


def test_a_timed_pass_with_other_tokens_is_refused(model, sample, honest):
    run = timed_run(model, sample, OPTIONS)
    other = ((*honest[0].tokens[:2], 0, 0),)
    with pytest.raises(
        StageError,
        match=r"every pass must give the tokens of the first, got another token 2, \d+ '.+' in place of 0 '<unk>'$",
    ):
        check_passes(model, [run], other)


@pytest.mark.parametrize("ends", [lambda ends: (0.0, *ends[1:]), lambda ends: ends[::-1]], ids=["before", "backwards"])
def test_tokens_that_come_outside_of_decode_are_refused(model, sample, honest, ends):
    run = timed_run(model, sample, OPTIONS)
    odd = replace(run, generation=replace(run.generation, step_ends=ends(run.generation.step_ends)))
    with pytest.raises(StageError, match="the tokens of decode must come while it runs"):
        check_passes(model, [odd], [honest[0].tokens])


def outside_of(runs):
    return time_outside([run.unattributed for run in runs], [run.e2e for run in runs])


def sleep_between_stages(patch):
    made = run_stages.made_before

    def sleeping(stage, outputs):
        if stage == "encode":
            time.sleep(0.05)
        return made(stage, outputs)

    patch.setattr(run_stages, "made_before", sleeping)


def test_time_between_the_stages_is_reported(model, sample, honest, monkeypatch):
    assert outside_of([timed_run(model, sample, OPTIONS) for _ in range(3)]) is None
    sleep_between_stages(monkeypatch)
    assert "lie outside the stages" in outside_of([timed_run(model, sample, OPTIONS) for _ in range(3)])


def test_run_warns_of_time_between_the_stages(synthetic, monkeypatch):
    sleep_between_stages(monkeypatch)
    command = [
        "run",
        str(synthetic.video),
        "--model",
        "llava-1.5",
        "--device",
        "cpu",
        "--new-tokens",
        "2",
        "--passes",
        "2",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "warning: llava-1.5: 5" in result.stderr


def test_noise_goes_into_the_middle_of_copies_and_is_another_for_each_number(model, sample, honest):
    media, inputs = run_stages.load(sample, 8), honest[0].inputs
    digests = [content_of(varied(media, number))["frames"] for number in (0, 1, 2, 1)]
    assert (digests[0], digests[1]) == (content_of(media)["frames"], digests[3])
    assert len(set(digests)) == 3
    prints = [fingerprint(varied(inputs, number)) for number in (0, 1, 2, 1)]
    assert (prints[0], prints[1]) == (fingerprint(inputs), prints[3])
    assert len(set(prints)) == 3


def test_one_pixel_is_middle_enough():
    ids = torch.ones(1, 1, dtype=torch.long)
    tiny = Inputs(ids, ids, {"pixel_values": torch.zeros(1, 1, 3, 1, 1)}, images=1)
    assert fingerprint(varied(tiny, 1)) != fingerprint(tiny)


def test_event_images_of_five_sizes_are_varied_each(synthetic):
    media = run_stages.load(Sample(synthetic.events), 5)
    other = varied(media, 1)
    assert [a.shape for a in media.images] == [b.shape for b in other.images]
    assert all((a != b).any() for a, b in zip(media.images, other.images, strict=True))
