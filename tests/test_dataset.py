"""Datasets: what is a sample, and what is named because it can't be one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.experiments.dataset import Problem, one_line, path_shown, read_dataset, sequence_of
from stagebench.core.errors import AnalysisError
from stagebench.core.settings import DEFAULT_QUESTION


def touch(path, data=b"data"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def root(tmp_path):
    """Every file that the rows below name."""
    for name in ("event_npy/a_1.npy", "mp4/a_1.mp4", "video/b.mkv", "event_image/a_1/0.png", "event_image/a_1/1.png"):
        touch(tmp_path / name)
    touch(tmp_path / "mp4/empty.mp4", b"")
    return tmp_path


def written(root, rows):
    (root / "list.json").write_text(json.dumps(rows))
    return read_dataset(root)


def test_a_row_is_a_sample_with_the_media_that_it_names(root):
    row = {"id": "a_1", "events": "event_npy/a_1.npy", "video": "mp4/a_1.mp4", "question": " What\nmoves? "}
    (entry,) = written(root, [row]).entries
    assert (entry.id, entry.sequence, entry.question) == ("a_1", "a", "What moves?")
    assert entry.paths == {"events": root / "event_npy/a_1.npy", "video": root / "mp4/a_1.mp4"}


def test_a_row_in_the_layout_of_dsec_is_a_sample(root):
    row = {
        "id": "a_1",
        "event_data": "a_1.npy",
        "event_image": ["a_1/0.png", "a_1/1.png"],
        "mp4_data": "a_1.mp4",
        "conversations": [{"from": "human", "value": "<event>\nWhat moves?"}, {"from": "gpt", "value": "A car."}],
    }
    (entry,) = written(root, [row]).entries
    assert (entry.id, entry.sequence, entry.question) == ("a_1", "a", "What moves?")
    assert entry.paths == {
        "events": root / "event_npy/a_1.npy",
        "images": root / "event_image/a_1",
        "video": root / "mp4/a_1.mp4",
    }


def test_a_row_without_a_question_is_asked_the_default_and_one_may_name_its_sequence(root):
    (entry,) = written(root, [{"id": 7, "video": "video/b.mkv", "sequence": "night"}]).entries
    assert (entry.id, entry.sequence, entry.question) == ("7", "night", DEFAULT_QUESTION)


def test_one_png_in_the_layout_of_dsec_is_a_sample_of_one(root):
    (entry,) = written(root, [{"id": "x", "event_image": ["a_1/0.png"], "conversations": None}]).entries
    assert entry.paths == {"images": root / "event_image/a_1/0.png"}


def asking(*turns):
    return {"id": "x", "mp4_data": "a_1.mp4", "conversations": list(turns)}


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        ({"id": "x", "mp4_data": "../list.json"}, "x", "video must name a file inside the dataset"),
        ({"id": "x", "event_data": ["/a_1.npy"]}, "x", "events must name a file inside the dataset"),
        ({"id": "x", "mp4_data": 5}, "x", "a sample: mp4_data must be "),
        ({"mp4_data": "a_1.mp4"}, "number 0", "a sample must have id, got no id"),
        ({"id": "x", "event_image": ["a_1/0.png"] * 2}, "x", "event_image must list all PNGs of a folder"),
        ({"id": "x", "event_image": ["a_1/0.png", "b/1.png"]}, "x", "event_image must list all PNGs of a folder"),
        (asking(), "x", "conversations must have a turn from human with a text, got none"),
        (asking({"from": "human", "value": "<event>"}), "x", "id and question must not be blank"),
        ({"id": "x", "video": "mp4/no.mp4"}, "x", "no.mp4: can't be read: No such file or directory"),
        ({"id": "x", "video": "mp4/empty.mp4"}, "x", "empty.mp4: must hold data, got an empty file"),
        ({"id": "x", "video": "../list.json"}, "x", "video must name a file inside the dataset"),
        ({"id": "x", "images": "mp4"}, "x", "mp4: must be a folder of PNGs, got none in it"),
        ({"id": "x", "video": 5}, "x", "a sample: video must be a text of at most 100000 characters, got 5"),
        ({"id": "x"}, "x", "a sample must name a file under one of video, events, images, got none"),
        ({"video": "mp4/a_1.mp4"}, "number 0", "a sample must have id, got no id"),
        ({"id": True, "video": "mp4/a_1.mp4"}, "True", "a sample: id must be a text of at most 100000 characters or a"),
        (["id"], "number 0", "a sample must be an object, got ['id']"),
        ({"id": "x", "video": "mp4/a_1.mp4", "question": " "}, "x", "id and question must not be blank"),
    ],
)
def test_a_row_that_is_no_sample_is_named_with_the_reason(root, row, name, reason):
    found = written(root, [row])
    assert (found.entries, [each.name for each in found.broken]) == ((), [name])
    assert found.broken[0].reason.startswith(reason)


def test_of_two_rows_with_one_id_the_second_is_broken(root):
    found = written(root, [{"id": "x", "video": "mp4/a_1.mp4"}, {"id": "x", "video": "video/b.mkv"}])
    assert [entry.paths["video"].name for entry in found.entries] == ["a_1.mp4"]
    assert found.broken == (Problem("x", "its id must be unique, got that of an earlier one"),)


@pytest.mark.parametrize("text", ["", "{", '{"id": 1}', "[" * 100_000, "\x00"])
def test_what_is_no_json_list_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(AnalysisError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).startswith("list.json must be ")
    assert "\n" not in str(caught.value)


def test_two_lists_in_a_folder_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text("[]")
    with pytest.raises(AnalysisError, match="must hold one JSON list, or be given as one of them, got 2"):
        read_dataset(tmp_path)


def test_a_folder_of_media_makes_one_sample_of_a_clip_and_its_recording(tmp_path):
    for name in ("café/scene_3.mp4", "café/scene_3.npy", "drawn/0.png", "drawn/1.png", "lone.GIF"):
        touch(tmp_path / name)
    found = read_dataset(tmp_path)
    assert {entry.id: sorted(entry.paths) for entry in found.entries} == {
        "café/scene_3": ["events", "video"],
        "drawn": ["images"],
        "lone": ["video"],
    }
    assert found.entries[0].sequence == "café/scene"


def test_what_lies_beside_the_media_is_named(tmp_path):
    touch(tmp_path / "clip.mp4")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "clip.mkv")
    found = read_dataset(tmp_path)
    assert [entry.paths["video"].name for entry in found.entries] == ["clip.mkv"]
    assert [each.name for each in found.skipped] == ["notes.txt"]
    assert found.broken == (Problem("clip.mp4", "its name must be unique, got that of clip.mkv"),)


def test_a_link_back_up_is_followed_once(tmp_path):
    touch(tmp_path / "a/clip.mp4")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert [entry.id for entry in read_dataset(tmp_path).entries] == ["a/clip"]


@pytest.mark.parametrize(
    ("name", "sequence"),
    [("dsec_interlaken_00_d_000069", "dsec_interlaken_00_d"), ("clip", "clip"), ("clip-12", "clip"), ("_7", "_7")],
)
def test_a_sequence_is_a_name_without_its_number(name, sequence):
    assert sequence_of(name) == sequence


@pytest.mark.parametrize(
    ("media", "own", "kind"),
    [
        ("own", "video", "video"),
        ("own", "events", "events"),
        ("frames", "events", "video"),
        ("events", "video", "events"),
    ],
)
def test_a_model_is_shown_what_was_asked_for(root, media, own, kind):
    (entry,) = written(root, [{"id": "a", "events": "event_npy/a_1.npy", "video": "mp4/a_1.mp4"}]).entries
    assert path_shown(entry, media, own) == entry.paths[kind]


def test_a_sample_without_the_media_shows_nothing(root):
    (entry,) = written(root, [{"id": "a", "video": "mp4/a_1.mp4"}]).entries
    assert path_shown(entry, "events", "events") is None


NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["mp4/a_1.mp4", "event_npy/a_1.npy", "video/b.mkv", "mp4/empty.mp4", "event_image/a_1"]
)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 99) | st.floats(-9, 9) | NAMES, st.lists, max_leaves=4)
ROWS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "id": JSON | st.sampled_from("xyz"),
        **dict.fromkeys(("events", "images", "video", "question", "sequence"), JSON | NAMES),
    },
)


@given(st.lists(ROWS, max_size=6))
def test_every_row_is_a_sample_or_a_named_failure(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("mp4/a_1.mp4", "event_npy/a_1.npy", "video/b.mkv", "event_image/a_1/0.png"):
        touch(root / name)
    touch(root / "mp4/empty.mp4", b"")
    found = written(root, rows)
    assert len(found.entries) + len(found.broken) == len(rows)
    assert len({entry.id for entry in found.entries}) == len(found.entries)
    for problem in found.broken:
        assert problem.name == one_line(problem.name) != ""
        assert problem.reason == one_line(problem.reason) != ""


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
            st.sampled_from(["", ".mp4", ".npy", ".txt"]),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_every_file_of_a_folder_is_a_sample_or_named(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("fuzz")
    names = {name + suffix for name, suffix, _ in files} - {".", ".."}
    for name in names:
        touch(root / name, b"" if name[0] in "aeiou" else b"data")
    found = read_dataset(root) if not any(name.lower().endswith(".json") for name in names) else None
    if found:
        seen = sum(len(entry.paths) for entry in found.entries) + len(found.broken) + len(found.skipped)
        assert seen == sum(not name.startswith(".") and not name.lower().endswith(".png") for name in names)
