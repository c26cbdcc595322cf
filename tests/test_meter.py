import numpy as np
import pytest
import torch
from PIL import Image

from stagebench.core import meter
from stagebench.core.settings import LoadSettings
from stagebench.media.events.recordings import read_events
from stagebench.media.images import read_images
from stagebench.media.video.frames import read_video, read_video_in_order
from stagebench.pipeline.counters import counted_calls


def metered(function, *args):
    before = meter.so_far()
    return function(*args), dict(meter.since(before))


def test_a_clip_counts_its_packets_its_frames_and_its_size(synthetic):
    media, done = metered(read_video, synthetic.video, 8)
    read = {"packets": 36, "frames_decoded": media.frames_decoded, "bytes_read": media.bytes_read}
    assert done == read | {"images_made": 8}


def test_a_clip_that_is_opened_twice_counts_twice(synthetic):
    _, done = metered(read_video_in_order, synthetic.video, 8)
    size = 2 * synthetic.video.stat().st_size
    assert done == {"packets": 36, "frames_decoded": 36, "bytes_read": size, "images_made": 8}


def test_a_recording_counts_its_events_read_and_drawn(synthetic):
    media, done = metered(read_events, synthetic.events, 5)
    assert done["bytes_read"] == media.bytes_read
    assert done["events_read"] == done["events_drawn"] > 0


def test_a_window_counts_the_events_in_it(synthetic):
    _, whole = metered(read_events, synthetic.events, 5)
    _, part = metered(read_events, synthetic.events, 5, LoadSettings(duration=0.2))
    assert 0 < part["events_read"] < whole["events_read"]


def test_a_picture_counts_its_size(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert metered(read_images, tmp_path, 1)[1] == {
        "bytes_read": (tmp_path / "a.png").stat().st_size,
        "images_made": 1,
    }


def test_what_is_read_and_written_by_whatever_code_is_seen(tmp_path):
    (tmp_path / "in").write_bytes(bytes(100_000))
    before = meter.system()
    (tmp_path / "in").read_bytes()
    (tmp_path / "out").write_text("a line\n")
    assert meter.system_since(before) == {"bytes_from_files": 98_304, "bytes_to_files": 7}


def test_to_look_is_not_to_read():
    before = meter.system()
    meter.system()
    assert meter.system_since(before) == {"bytes_from_files": 0, "bytes_to_files": 0}


def test_where_the_system_does_not_count_nothing_is_said(monkeypatch):
    monkeypatch.setattr(meter, "system", lambda: None)
    assert meter.system_since(meter.system()) == {}


@pytest.mark.parametrize(
    ("scale", "pixels"),
    [
        (lambda image: image.resize((20, 10)), 200),
        (lambda image: image.resize((20, 10), box=(0, 0, 8, 8)), 200),
        (lambda image: image.resize((8, 8), Image.Resampling.BICUBIC, (2, 2, 6, 6)), 64),
        (lambda image: image.thumbnail((4, 4)), 16),
        (lambda image: image.resize((8, 8)), 0),
        (lambda image: image.crop((0, 0, 4, 4)), 0),
    ],
)
def test_pixels_made_by_scaling_are_counted(scale, pixels):
    with counted_calls() as counts:
        scale(Image.fromarray(np.zeros((8, 8, 3), np.uint8)))
    assert counts["resized_pixels"] == pixels


@pytest.mark.parametrize(("write", "texts"), [(str, 1), (repr, 1), ("{}".format, 1), (torch.sum, 0), (len, 0)])
def test_tensors_that_become_text_are_counted(write, texts):
    with counted_calls() as counts:
        write(torch.ones(3))
    assert counts["tensors_formatted"] == texts


def test_pillow_and_torch_are_left_as_they_were():
    before = Image.Image.resize, torch._tensor_str._str
    with counted_calls():
        pass
    assert (Image.Image.resize, torch._tensor_str._str) == before
