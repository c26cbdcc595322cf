"""The order of a run, and what is cut out of a dataset."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.experiments.dataset import Dataset, Entry, Problem
from stagebench.analysis.experiments.design import (
    Block,
    Design,
    Wanted,
    cut,
    length_of,
    make_design,
    seconds_of,
    synthetic_dataset,
)
from stagebench.analysis.samples import MAIN
from stagebench.core.errors import AnalysisError
from stagebench.core.settings import GenerationSettings, LoadSettings
from stagebench.media.clips import FRAMES, RATE

MODELS = ("a", "b", "c")
BOTH = {"natural": GenerationSettings(8), "fixed": GenerationSettings(8, fixed_length=True)}


def entries(n):
    return [Entry(f"s{i}", "s", "?", {"video": Path("clip.mp4")}) for i in range(n)]


def schedule(block, models, seed):
    return Design((block,), (), ()).schedule(models, seed)


def wanted(**given):
    everything = {
        "loading": LoadSettings(),
        "samples": None,
        "window": None,
        "modes": ("natural", "fixed"),
        "new_tokens": (8,),
        "passes": 1,
        "durations": (),
    }
    return Wanted(**everything | given)


@given(samples=st.integers(1, 5), passes=st.integers(1, 3), seed=st.integers(0, 99))
def test_everything_is_done_once(samples, passes, seed):
    tasks = schedule(Block(MAIN, None, entries(samples), BOTH, passes), MODELS, seed)
    assert Counter(task.key for task in tasks) == Counter(
        (MAIN, None, model, f"s{i}", mode, number)
        for model in MODELS
        for i in range(samples)
        for mode in BOTH
        for number in range(passes)
    )


@given(seed=st.integers(0, 99))
def test_the_same_seed_gives_the_same_order(seed):
    block = Block(MAIN, None, entries(4), BOTH)
    assert schedule(block, MODELS, seed) == schedule(block, MODELS, seed)


def test_no_model_always_goes_first():
    tasks = schedule(Block(MAIN, None, entries(300), BOTH), MODELS, seed=1)
    first = Counter(tasks[i].model for i in range(0, len(tasks), len(MODELS) * len(BOTH)))
    assert all(70 <= first[model] <= 130 for model in MODELS)


@given(samples=st.integers(1, 5), passes=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_model_loads_a_sample_cold_once_and_before_anything_else(samples, passes, seed):
    tasks = schedule(Block(MAIN, None, entries(samples), BOTH, passes), MODELS, seed)
    for model in MODELS:
        for i in range(samples):
            own = [task.cold for task in tasks if (task.model, task.entry.id) == (model, f"s{i}")]
            assert own == [True] + [False] * (len(own) - 1)


def test_a_clip_and_its_recording_are_cut_together(synthetic):
    whole = Dataset((Entry("scene", "scene", "?", {"video": synthetic.video, "events": synthetic.events}),))
    found = cut(whole, 0.5).entries
    assert [(e.id, e.sequence, e.start, e.duration) for e in found] == [
        ("scene@0+0.5s", "scene", 0.0, 0.5),
        ("scene@0.5+0.5s", "scene", 0.5, 0.5),
    ]


@pytest.mark.parametrize(("length", "windows"), [(None, 1), (0.3, 3), (9, 1)])
def test_a_recording_without_a_clip_is_cut_too(synthetic, length, windows):
    whole = Dataset((Entry("scene", "scene", "?", {"events": synthetic.events}),))
    assert len(cut(whole, length).entries) == windows


def test_what_has_no_length_stays_whole(tmp_path):
    whole = Dataset((Entry("drawn", "drawn", "?", {"images": tmp_path}),))
    assert cut(whole, 0.1) == whole


def test_images_beside_a_clip_are_not_in_its_windows(synthetic, tmp_path):
    whole = Dataset((Entry("scene", "scene", "?", {"video": synthetic.video, "images": tmp_path}),))
    assert [entry.paths for entry in cut(whole, 0.6).entries] == [{"video": synthetic.video}] * 2


def test_a_file_that_cannot_be_cut_is_broken(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    found = cut(Dataset((Entry("clip", "clip", "?", {"video": tmp_path / "clip.mp4"}),)), 0.5)
    assert (found.entries, [each.name for each in found.broken]) == ((), ["clip"])
    assert found.broken[0].reason.startswith("clip.mp4: must be a whole video")


def test_the_length_is_that_of_the_scene(synthetic):
    assert (seconds_of(synthetic.video), round(seconds_of(synthetic.events), 2)) == (
        FRAMES / RATE,
        FRAMES / RATE,
    )


def test_windows_of_the_scene_are_one_sequence_from_its_beginning_to_its_end(synthetic):
    found = synthetic_dataset(synthetic, 5, "What moves?").entries
    assert {(e.sequence, e.question, e.duration) for e in found} == {("scene", "What moves?", 0.4)}
    assert (found[0].start, len({e.start for e in found})) == (0.0, 5)
    assert found[-1].start + 0.4 == pytest.approx(min(seconds_of(synthetic.video), seconds_of(synthetic.events)))


def test_what_has_no_times_has_no_length(synthetic, tmp_path):
    both = Entry("scene", "scene", "?", {"video": synthetic.video, "images": tmp_path})
    assert (length_of(both), length_of(Entry("drawn", "drawn", "?", {"images": tmp_path}))) == (1.2, 0.0)


def test_every_duration_is_taken_from_the_same_samples(synthetic, tmp_path):
    short = Entry("short", "short", "?", {"images": tmp_path})
    whole = Dataset((Entry("scene", "scene", "?", {"video": synthetic.video}), short))
    blocks = make_design(whole, wanted(durations=(0.5, 1.0))).blocks[1:]
    assert [[e.id for e in block.entries] for block in blocks] == [["scene@0+0.5s"], ["scene@0+1s"]]


def test_a_duration_that_nothing_has_is_said(synthetic):
    found = make_design(synthetic_dataset(synthetic, 1, "?"), wanted(durations=(0.5, 20.0)))
    assert [(block.study, block.value) for block in found.blocks] == [("main", None), ("durations", 0.5)]
    assert found.skipped == (Problem("a duration of 20 s", "no sample is that long"),)


def test_several_lengths_of_text_are_compared_and_the_longest_is_the_limit(synthetic):
    found = make_design(synthetic_dataset(synthetic, 4, "?"), wanted(new_tokens=(4, 16, 8)))
    assert found.blocks[0].generations["natural"] == GenerationSettings(16)
    assert [(block.value, block.generations) for block in found.blocks[1:]] == [
        (float(n), {"fixed": GenerationSettings(n, fixed_length=True)}) for n in (4, 8, 16)
    ]


def test_samples_without_the_media_are_skipped_and_named(tmp_path):
    clip, recording = Entry("c", "c", "?", {"video": tmp_path}), Entry("r", "r", "?", {"events": tmp_path})
    found = make_design(Dataset((clip, recording)), wanted(loading=LoadSettings(media="events")))
    assert ([e.id for e in found.blocks[0].entries], found.skipped) == (["r"], (Problem("c", "has no events"),))


def test_a_dataset_without_a_sample_is_refused_with_the_first_reason():
    with pytest.raises(AnalysisError, match="at least one sample, got none; x: is empty"):
        make_design(Dataset((), broken=(Problem("x", "is empty"),)), wanted())


def test_fewer_samples_are_drawn_evenly(tmp_path):
    found = make_design(Dataset(tuple(entries(9))), wanted(samples=3))
    assert [e.id for e in found.blocks[0].entries] == ["s0", "s4", "s8"]


def test_designs_of_other_samples_have_other_digests(synthetic):
    designs = [make_design(synthetic_dataset(synthetic, n, "?"), wanted()) for n in (1, 2)]
    assert designs[0].digest() != designs[1].digest()
    assert designs[0].digest() == make_design(synthetic_dataset(synthetic, 1, "?"), wanted()).digest()
