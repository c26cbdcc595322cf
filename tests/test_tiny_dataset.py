"""The data set of clips that no tiny model was trained on, and what `analyze` makes of it."""

import json

import pytest
from click.testing import CliRunner

from stagebench.analysis.experiments.dataset import read_dataset
from stagebench.analysis.experiments.design import cut, length_of
from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples, select
from stagebench.cli import main
from stagebench.media.clips import QUESTIONS, draw_clips
from stagebench.models.tiny.dataset import main as write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "made"
    done = CliRunner().invoke(write, ["--clips", "2", "--seed", "3", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_each_clip_is_a_sample_of_a_second_that_depends_on_no_other(folder):
    found = read_dataset(folder)
    assert ([entry.sequence for entry in found.entries], found.broken) == (["clip_000", "clip_001"], ())
    assert [length_of(entry) for entry in found.entries] == pytest.approx([1, 1], abs=0.05)


def test_its_answers_are_what_is_known_of_clips_that_no_training_draws(folder):
    clips = draw_clips((3, 1 << 41), 2)
    expected = [{kind: QUESTIONS[kind]["caption"][1](clip, clip.things[0]) for kind in QUESTIONS} for clip in clips]
    assert [entry.answers for entry in read_dataset(folder).entries] == expected


def test_a_window_of_a_clip_has_no_answer(folder):
    assert [entry.answers for entry in cut(read_dataset(folder), 0.4).entries] == [{}] * 4


def test_analyze_counts_right_answers_and_measures_drafts(folder, tmp_path):
    arguments = ["--dataset", str(folder), "--model", "video-llava,llava-1.5", "--mode", "natural"]
    done = CliRunner().invoke(main, ["analyze", *arguments, "--device", "cpu", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    answers = {entry.id: entry.answers["video"] for entry in read_dataset(folder).entries}
    lines = select(read_samples(tmp_path / SAMPLES_FILE))
    assert [line["right"] for line in lines] == [line["text"] == answers[line["sample"]] for line in lines]
    drafts = [(each["draft"], each["sample"], "error" in each) for each in read_run(tmp_path)["drafts"]]
    assert sorted(drafts) == [(m, s, False) for m in ("llava-1.5", "video-llava") for s in ("clip_000", "clip_001")]
    report = json.loads((tmp_path / "report.json").read_text())
    for each in report["drafting"]:
        assert (each["speculation"]["samples"], each["speculation"]["draft_tokens"], each["refused"]) == (2, 4, [])
    assert [each["right"]["samples"] for each in report["modes"]["natural"]["models"].values()] == [2, 2]
