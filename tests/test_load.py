"""Which reader a path leads to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.core.settings import LoadSettings
from stagebench.pipeline.load import load


def write_gif(path: Path) -> Path:
    frames = [Image.new("RGB", (8, 6), (20 * i, 0, 0)) for i in range(5)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize("name", ["clip.gif", "clip", "CLIP.XYZ"])
def test_anything_else_is_a_video(tmp_path: Path, name: str) -> None:
    media = load(Sample(write_gif(tmp_path / name)), 3)

    assert (media.kind, media.frames_decoded, len(media.images)) == ("frames", 5, 3)


def test_a_npy_file_is_a_recording(tmp_path: Path) -> None:
    events = {key: np.array([0, 1, 1], np.uint16) for key in "xytp"}
    np.save(tmp_path / "a.npy", np.array(events, dtype=object))

    media = load(Sample(tmp_path / "a.npy"), 3)

    assert (media.kind, media.frames_decoded, len(media.images)) == ("events", 0, 3)


@pytest.mark.parametrize("name", ["a.png", "A.PNG"])
def test_a_png_is_an_event_image(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / name)

    assert load(Sample(tmp_path / name), 1).kind == "events"


def test_a_folder_holds_event_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")

    assert load(Sample(tmp_path), 1).kind == "events"


@pytest.mark.parametrize("loading", [LoadSettings(start=0.1), LoadSettings(duration=0.1)])
def test_a_window_of_images_is_refused(tmp_path: Path, loading: LoadSettings) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")

    with pytest.raises(MediaError, match=r"^a\.png: PNGs have no times, so start and duration can't apply$"):
        load(Sample(tmp_path / "a.png", loading=loading), 1)


def test_a_jpeg_is_refused_as_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")

    with pytest.raises(MediaError, match=r"^a\.jpg: an image must be a PNG, got \.jpg$"):
        load(Sample(tmp_path / "a.jpg"), 1)


@pytest.mark.parametrize("name", ["none", "none.mp4", "none.npy", "none.png"])
def test_a_missing_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match=rf"^{name}: can't be read: No such file or directory$"):
        load(Sample(tmp_path / name), 1)


@pytest.mark.parametrize("name", ["empty", "empty.mp4", "empty.npy", "empty.png"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(MediaError, match=rf"^{name}: must hold data, got an empty file$"):
        load(Sample(tmp_path / name), 1)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(MediaError, match=r"^folder: must have at least 1 PNG images, got 0$"):
        load(Sample(tmp_path / "folder"), 1)


@pytest.mark.parametrize("path", [".", ""])
def test_the_folder_that_one_is_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MediaError, match=r"^\.: must have at least 1 PNG images, got 0$"):
        load(Sample(Path(path)), 1)


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")  # as the system does, but to root too


@pytest.mark.parametrize("name", ["a", "a.gif", "a.npy", "a.png"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_gif(tmp_path / name)
    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(MediaError, match=rf"^{name}: can't be read: Permission denied$"):
        load(Sample(tmp_path / name), 1)


@pytest.mark.parametrize("access", ["is_dir", "iterdir"])
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(Path, access, refuse)

    with pytest.raises(MediaError, match=r"^folder: can't be read: Permission denied$"):
        load(Sample(tmp_path / "folder"), 1)


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(MediaError, match=r"can't be read: embedded null byte$"):
        load(Sample(Path("a\0b")), 1)


@pytest.mark.parametrize("count", [0, -3])
def test_no_images_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(MediaError, match=f"at least 1 image must be requested, got {count}"):
        load(Sample(write_gif(tmp_path / "a.gif")), count)


@pytest.mark.skipif("STAGEBENCH_DATA" not in os.environ, reason="STAGEBENCH_DATA names no folder")
def test_every_real_sample_loads() -> None:
    folder = Path(os.environ["STAGEBENCH_DATA"])
    paths = [path for kind in ("gifs", "events") for path in sorted((folder / kind).iterdir())]
    assert paths

    assert [5] * len(paths) == [len(load(Sample(path), 5).images) for path in paths]
