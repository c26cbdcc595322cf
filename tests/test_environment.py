import json
from pathlib import Path

import pytest

from stagebench.core.machine import environment
from stagebench.core.machine.environment import fingerprint, identity
from stagebench.core.places import place_of
from stagebench.core.settings import MEDIA, GenerationSettings, LoadSettings, ModelSettings
from stagebench.gate import baseline

SETTINGS, GENERATION, LOADING = ModelSettings(), GenerationSettings(), LoadSettings()
KEYS = {
    *("device", "driver", "cpu", "cores", "threads", "profile", "weights", "seed", "dtype", "attention"),
    *("gc", "generation", "question", "preprocess", "input", "loading", "python"),
    *("torch", "transformers", "tokenizers", "numpy", "pillow", "av"),
}


def changed_keys(before, after):
    return {key for key in before if before[key] != after[key]}


def test_everything_that_a_time_depends_on_is_in_the_identity():
    assert set(identity(SETTINGS, GENERATION, "What moves?", None, LOADING)) == KEYS


def test_each_setting_changes_its_own_part_of_the_identity(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    base = identity(SETTINGS, GENERATION, "What moves?", None, LOADING)
    others = {
        "threads": identity(ModelSettings(threads=2), GENERATION, "What moves?", None, LOADING),
        "profile": identity(ModelSettings(profile="7b"), GENERATION, "What moves?", None, LOADING),
        "seed": identity(ModelSettings(seed=1), GENERATION, "What moves?", None, LOADING),
        "dtype": identity(ModelSettings(dtype="bfloat16"), GENERATION, "What moves?", None, LOADING),
        "attention": identity(ModelSettings(attention="eager"), GENERATION, "What moves?", None, LOADING),
        "generation": identity(SETTINGS, GenerationSettings(fixed_length=True), "What moves?", None, LOADING),
        "question": identity(SETTINGS, GENERATION, "Who moves?", None, LOADING),
        "input": identity(SETTINGS, GENERATION, "What moves?", tmp_path / "clip.mp4", LOADING),
        "loading": identity(SETTINGS, GENERATION, "What moves?", None, LoadSettings(start=0.5)),
        "preprocess": identity(ModelSettings(preprocess="torch"), GENERATION, "What moves?", None, LOADING),
        "gc": identity(SETTINGS, GENERATION, "What moves?", None, LOADING, timed_gc=True),
    }
    assert {key: changed_keys(base, other) for key, other in others.items()} == {key: {key} for key in others}


def test_what_is_shown_of_the_scene_is_part_of_the_input():
    inputs = [identity(SETTINGS, GENERATION, "?", None, LoadSettings(media=media))["input"] for media in MEDIA]
    assert inputs == ["scene, own", "scene, frames", "scene, events"]


def test_a_fingerprint_is_of_the_content_not_of_the_name(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    (tmp_path / "c").write_bytes(b"size")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")


def test_a_fingerprint_of_a_folder_is_of_all_its_files(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    before = fingerprint(tmp_path)
    (tmp_path / "b").write_bytes(b"two")
    assert before != fingerprint(tmp_path)


def test_a_busy_machine_is_said_to_be_busy(monkeypatch):
    monkeypatch.setattr(environment, "cores", lambda: 4)
    monkeypatch.setattr(environment.os, "getloadavg", lambda: (5.0, 0.0, 0.0))
    assert environment.load_warning() == (
        "the machine is busy (load 5.0 on 4 cores): its other work will distort the times"
    )


def test_an_idle_machine_is_not(monkeypatch):
    monkeypatch.setattr(environment, "cores", lambda: 4)
    monkeypatch.setattr(environment.os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    assert environment.load_warning() is None


def test_every_stored_baseline_says_all_that_a_run_of_today_says():
    stored = sorted((Path(__file__).parents[1] / "baselines").glob("*/baseline.json"))
    keys = [environment.ADDED.keys() | json.loads(path.read_text())["machine_info"].keys() for path in stored]
    assert keys == [KEYS | {"timer"}] * len(stored) != []


ROOT = Path(__file__).parents[1] / "baselines"
STORED = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/baseline.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_baseline_is_found_by_its_identity_with_and_without_the_keys_that_came_later(path):
    there = json.loads((ROOT / path).read_text())["machine_info"]
    whole = environment.ADDED | there
    assert [baseline.find(place_of(ROOT), each) for each in (there, whole)] == [str(path)] * 2
    assert environment.differences(whole, there) == environment.differences(there, whole) == []


OF_BEFORE = [path for path in STORED if "gc" not in json.loads((ROOT / path).read_text())["machine_info"]]


@pytest.mark.parametrize("path", OF_BEFORE, ids=lambda path: path.parent.name)
def test_a_baseline_of_before_is_none_of_an_environment_where_no_garbage_is_collected(path):
    there = json.loads((ROOT / path).read_text())["machine_info"]
    here = there | {"gc": "off"}
    assert baseline.find(place_of(ROOT), here) != str(path)
    assert environment.differences(here, there) == ["gc: 'off' here, 'on' there"]


@pytest.mark.parametrize(("pins", "profile"), [("constraints.txt", "tiny"), ("constraints-gpu.txt", "7b")])
def test_what_a_stored_baseline_is_compared_in_has_the_baselines_versions(pins, profile):
    root = Path(__file__).parents[1]
    lines = (root / "benchmarks" / pins).read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    stored = list(root.glob(f"baselines/*-{profile}-*/baseline.json"))
    assert stored != []
    for path in stored:
        made_with = json.loads(path.read_text())["machine_info"]
        named = ("av", "numpy", "pillow", "tokenizers", "torch", "transformers")
        # Without the label of the build: torch 2.13.0+cpu is what 2.13.0 is where a CPU build is at hand.
        assert [pinned[name] for name in named] == [made_with[name].partition("+")[0] for name in named]
