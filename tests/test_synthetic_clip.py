"""The synthetic clip: repeatable, readable, and the same for both kinds of model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import draw_scene
import numpy as np
import pytest

from stagebench.media.clips import FRAMES, HEIGHT, KNOWN, RATE, SECONDS, WIDTH, Clip, draw_clips
from stagebench.media.events.recordings import load_event_arrays, read_events
from stagebench.media.rendering import CONTRAST, DARK, NOISE, box_of, render, scenes_of
from stagebench.media.synthetic_clip import SyntheticClip, write_clip, write_synthetic_clip
from stagebench.media.video.frames import read_video, read_video_in_order


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SyntheticClip:
    return write_synthetic_clip(tmp_path_factory.mktemp("media") / "made" / "on the way")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, SyntheticClip]:
    clip = draw_clips(0, 1)[0]
    return clip, write_clip(tmp_path_factory.mktemp("drawn"), clip)


def test_the_default_clip_is_the_one_of_the_stored_baselines(synthetic: SyntheticClip) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (synthetic.video, synthetic.events)]

    assert digests == ["50121865dfccc204", "1d6dd4c751574e26"]


def test_the_default_clip_is_what_its_script_draws(synthetic: SyntheticClip, tmp_path: Path) -> None:
    video = tmp_path / "drawn.mp4"
    video.write_bytes(draw_scene.content_of(draw_scene.write_video))
    drawn, stored = (read_video_in_order(path, 8).images for path in (video, synthetic.video))

    assert draw_scene.content_of(draw_scene.write_events) == synthetic.events.read_bytes()
    # Another version of the codec's library may make other bytes of the same frames.
    np.testing.assert_allclose(np.stack(drawn).astype(float), np.stack(stored), atol=48)


def test_the_clip_of_the_tiny_models_is_what_is_known_of_it(tmp_path: Path) -> None:
    drawn, stored = write_clip(tmp_path / "drawn", KNOWN), write_synthetic_clip(tmp_path / "stored", "clip")
    frames = [np.stack(read_video_in_order(clip.video, 8).images).astype(float) for clip in (drawn, stored)]

    assert drawn.events.read_bytes() == stored.events.read_bytes()
    np.testing.assert_allclose(*frames, atol=48)


def test_two_calls_write_the_same_bytes(drawn: tuple[Clip, SyntheticClip], tmp_path: Path) -> None:
    clip, written = drawn
    again = write_clip(tmp_path, clip)

    assert written.video.read_bytes() == again.video.read_bytes()
    assert written.events.read_bytes() == again.events.read_bytes()


def test_no_half_written_file_is_left(synthetic: SyntheticClip) -> None:
    assert sorted(path.name for path in synthetic.video.parent.iterdir()) == ["scene.mp4", "scene.npy"]


def test_the_clip_has_all_frames(synthetic: SyntheticClip) -> None:
    media = read_video_in_order(synthetic.video, 8)

    assert (media.frames_decoded, media.images[0].shape) == (36, (480, 640, 3))


def test_the_clip_is_tagged_bt709_in_limited_range(synthetic: SyntheticClip) -> None:
    with av.open(synthetic.video) as container:
        context = container.streams.video[0].codec_context

        assert (
            context.colorspace,
            context.color_primaries,
            context.color_trc,
            context.color_range,
        ) == (1, 1, 1, 1)


def test_a_drawn_clip_shows_what_was_drawn(drawn: tuple[Clip, SyntheticClip]) -> None:
    clip, written = drawn
    images = np.stack(read_video(written.video, FRAMES).images) / 255
    frames = render(scenes_of([clip], [i / RATE for i in range(FRAMES)]), HEIGHT, WIDTH)[0]

    assert np.abs(images - frames.movedim(1, -1).numpy()).mean() < 0.01  # H.264 loses a little


def test_the_number_of_events_is_that_of_a_recording(synthetic: SyntheticClip) -> None:
    assert 200_000 <= len(load_event_arrays(synthetic.events).t) <= 600_000


def test_events_cover_the_whole_duration(synthetic: SyntheticClip) -> None:
    events = load_event_arrays(synthetic.events)
    counts, _ = np.histogram(events.t, bins=12, range=(0, FRAMES / RATE * 1e6))

    assert FRAMES / RATE == 1.2
    assert (counts > 5000).all()


def test_events_reach_the_edges_of_the_sensor(synthetic: SyntheticClip) -> None:
    events = load_event_arrays(synthetic.events)

    assert (events.x.min(), events.x.max(), events.y.min(), events.y.max()) == (0, WIDTH - 1, 0, HEIGHT - 1)


def test_the_arrays_are_those_of_a_real_recording(synthetic: SyntheticClip) -> None:
    events = load_event_arrays(synthetic.events)

    assert (np.dtype(np.uint16), np.dtype(np.uint16)) == (events.x.dtype, events.y.dtype)


def test_a_recording_draws_as_five_images(synthetic: SyntheticClip) -> None:
    assert len(read_events(synthetic.events, 5).images) == 5


def test_events_of_a_drawn_clip_add_up_to_the_change_of_log_intensity(drawn: tuple[Clip, SyntheticClip]) -> None:
    clip, written = drawn
    events = load_event_arrays(written.events)
    total = np.zeros((HEIGHT, WIDTH))
    np.add.at(total, (events.y, events.x), np.where(events.p == 1, CONTRAST, -CONTRAST))

    logs = np.log(render(scenes_of([clip], [0.0, SECONDS], gray=True), HEIGHT, WIDTH)[0, :, 0].numpy() + DARK)
    beside = np.abs(total - (logs[1] - logs[0])) > CONTRAST * 0.999

    noisy = beside[logs[1] == logs[0]].mean()  # the share with an event of nothing

    assert noisy == pytest.approx(NOISE * SECONDS, rel=0.1)


@pytest.mark.parametrize("number", range(4))
def test_a_box_has_all_that_there_is_to_see(number: int) -> None:
    scenes = scenes_of(draw_clips((7, 7), 4)[number : number + 1], [0, 0.4, 1.1])
    for scene in scenes.split(1, dim=1):
        rows, columns = box_of(scene)
        whole, within = render(scene, HEIGHT, WIDTH), render(scene, HEIGHT, WIDTH, (rows, columns))
        np.testing.assert_array_equal(whole[..., rows, columns], within)
        whole[..., rows, columns] = scene[0, 0, 0, 4:, None, None]
        assert whole.flatten(0, 1).amax((0, 2, 3)).tolist() == scene[0, 0, 0, 4:].tolist()


def test_a_clip_of_more_frames_a_second_shows_the_same_in_less_time(
    drawn: tuple[Clip, SyntheticClip], tmp_path: Path
) -> None:
    clip, written = drawn
    faster = write_clip(tmp_path, clip, rate=FRAMES)
    before, after = (np.stack(read_video(each.video, 8).images).astype(float) for each in (written, faster))
    seconds = [(t[-1] - t[0]) / 1e6 for t in (load_event_arrays(each.events).t for each in (written, faster))]

    assert np.quantile(np.abs(before - after), 0.99999) < 48  # but for single pixels of the codec's
    assert seconds == pytest.approx([SECONDS, 1.0], abs=0.01)
