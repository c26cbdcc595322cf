"""Events drawn as an image, against a loop over events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stagebench.core.errors import MediaError
from stagebench.media.events import recordings
from stagebench.media.events.recordings import draw_events, load_event_arrays, read_events, slices_of_equal_count

needs_data = pytest.mark.skipif("STAGEBENCH_DATA" not in os.environ, reason="STAGEBENCH_DATA names no folder")


def draw_by_loop(x: NDArray[Any], y: NDArray[Any], p: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw one event after the other, as the definition says."""
    image = np.full((int(max(y)) + 1, int(max(x)) + 1, 3), 255, dtype=np.uint8)
    for column, row, polarity in zip(x, y, p, strict=True):
        image[row, column] = (0, 0, 255) if polarity == 0 else (255, 0, 0)
    return image


events_anywhere = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 300), st.integers(0, 1)), min_size=1, max_size=200
)
events_on_few_pixels = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=200
)


@given(
    events_anywhere | events_on_few_pixels,
    st.sampled_from([np.uint16, np.int16, np.int64, np.uint64, ">u2"]),
    st.sampled_from([bool, np.uint8, np.int64]),
    st.sampled_from([1, 3, 64, recordings._BLOCK]),
)
def test_an_image_equals_that_of_a_loop_over_events(
    events: list[tuple[int, int, int]], dtype: Any, polarity: Any, block: int
) -> None:
    x, y, p = np.array(events, dtype=dtype).T  # each with strides, as a field of a structured array has
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "_BLOCK", block)
        image = draw_events(x, y, p.astype(polarity))

    expected = draw_by_loop(x, y, p)
    assert (expected.shape, expected.tobytes()) == (image.shape, image.tobytes())


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 400]))
def test_many_events_on_few_pixels_equal_a_loop_over_events(seed: int, pixels: int) -> None:
    generator = np.random.default_rng(seed)
    x, y, p = (generator.integers(0, high, 3000).astype(np.uint16) for high in (pixels, pixels, 2))

    assert draw_by_loop(x, y, p).tobytes() == draw_events(x, y, p).tobytes()


def test_the_last_of_a_million_events_on_one_pixel_wins() -> None:
    zeros = np.zeros(1_000_000, np.uint16)
    polarities = np.zeros(1_000_000, np.uint8)
    polarities[-1] = 1

    assert draw_events(zeros, zeros, polarities).tolist() == [[[255, 0, 0]]]


def test_a_pixel_number_beyond_16_bits_does_not_overflow() -> None:
    x, y = np.array([639, 0], np.uint16), np.array([479, 0], np.uint16)

    image = draw_events(x, y, np.array([1, 0], np.uint8))

    assert (image[479, 639].tolist(), image[0, 0].tolist()) == ([255, 0, 0], [0, 0, 255])


def test_the_last_event_of_a_pixel_wins() -> None:
    zeros = np.zeros(3, np.uint16)

    assert draw_events(zeros, zeros, np.array([0, 1, 0], np.uint8)).tolist() == [[[0, 0, 255]]]


def test_an_image_of_a_given_size_shows_the_same_events_on_more_white() -> None:
    x, y, p = np.array([2, 0], np.uint16), np.array([1, 0], np.uint16), np.array([1, 0], np.uint8)

    image = draw_events(x, y, p, (7, 4))

    expected = np.full((4, 7, 3), 255, np.uint8)
    expected[:2, :3] = draw_events(x, y, p)
    assert (expected.shape, expected.tobytes()) == (image.shape, image.tobytes())


@pytest.mark.parametrize("size", [(2, 9), (9, 1)])
def test_an_event_outside_of_a_given_size_is_refused(size: tuple[int, int]) -> None:
    x, y, p = np.array([2, 0], np.uint16), np.array([1, 0], np.uint16), np.array([1, 0], np.uint8)

    with pytest.raises(MediaError, match=rf"within an image of {size[0]} x {size[1]}, got some that need 3 x 2"):
        draw_events(x, y, p, size)


def test_no_events_are_white() -> None:
    nothing = np.zeros(0, np.uint16)

    assert draw_events(nothing, nothing, nothing, (2, 1)).tolist() == [[[255] * 3, [255] * 3]]


def test_no_events_without_a_size_are_refused() -> None:
    nothing = np.zeros(0, np.uint16)

    with pytest.raises(MediaError, match="at least one event or have a size, got neither"):
        draw_events(nothing, nothing, nothing)


@needs_data
def test_all_five_images_of_the_real_recordings_equal_a_loop_over_events() -> None:
    files = sorted((Path(os.environ["STAGEBENCH_DATA"]) / "events").glob("*.npy"))
    assert files
    for path in files:
        events = load_event_arrays(path)
        parts = slices_of_equal_count(len(events.t), 5)
        expected = [draw_by_loop(events.x[part], events.y[part], events.p[part]) for part in parts]

        for want, image in zip(expected, read_events(path, 5).images, strict=True):
            np.testing.assert_array_equal(want, image)


@needs_data
def test_images_are_those_of_the_eventgpt_authors() -> None:
    oracle = Path(os.environ["STAGEBENCH_DATA"]).parent / "oracle" / "eventgpt_tiny"
    if not oracle.is_dir():
        pytest.skip("there is no oracle beside STAGEBENCH_DATA")
    images = read_events(oracle / "events.npy", 5).images

    with np.load(oracle / "expected.npz") as expected:
        for i, image in enumerate(images):
            np.testing.assert_array_equal(expected[f"event_image_{i}"], image)
