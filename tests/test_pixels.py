"""Images into pixels: plain torch against transformers' PIL processor, and both against Keys' curve in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.core.errors import ModelError
from stagebench.core.settings import PREPROCESSORS
from stagebench.models.pixels import ImageProcessor, TorchProcessor, resized, resized_in_float

CPU = torch.device("cpu")
MOST = 2  # of 255: one from each direction's rounding


def processors(**settings):
    """Both, with the same settings."""
    reference = CLIPImageProcessorPil(**settings)
    return ImageProcessor(reference), TorchProcessor(reference, CPU)


def square(side):
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def in_255ths(pixels, reference):
    """Normalised pixels as they were before, 0 to 255."""
    mean, std = (
        torch.tensor(t, dtype=torch.float64)[:, None, None] for t in (reference.image_mean, reference.image_std)
    )
    return (pixels.double() * std + mean) * 255


@st.composite
def images(draw, longest=160, ratio=24):
    """Noise, dots on white (as event images are), black and white, or smooth; of any size, tiny and narrow ones too."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    assume(max(height, width) <= ratio * min(height, width))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {
        "noise": noise,
        "dots": np.where(noise[..., :1] < 40, noise // 128 * 255, 255).astype(np.uint8),
        "black and white": noise // 128 * 255,
        "smooth": np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)[..., None].repeat(3, axis=2),
    }[draw(st.sampled_from(["noise", "dots", "black and white", "smooth"]))]


def calm(image):
    """The same with half the contrast, so that no overshoot of the curve is cut off."""
    return 64 + image // 2


sides = st.integers(2, 96)


def largest(first, second):
    return int((first.int() - second.int()).abs().max())


@given(images(), sides, sides)
def test_both_resize_alike(image, height, width):
    pil, plain = processors()
    expected = pil.resize([calm(image)], height, width)
    assert largest(expected, plain.resize([calm(image)], height, width)) <= MOST


REAL = [(480, 640), (720, 1280), (272, 640), (144, 176), (260, 346), (640, 480), (333, 500), (100, 101)]


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("shape", REAL)
def test_at_real_sizes_both_give_the_same_pixels_of_the_hardest_edges(shape, side):
    image = np.random.default_rng(0).integers(0, 2, (*shape, 3), dtype=np.uint8) * 255
    pil, plain = processors(**square(side))
    expected, actual = (in_255ths(processor([image]), pil.reference) for processor in (pil, plain))
    assert float((expected - actual).abs().max()) <= MOST + 1e-3


def weights(before, after):
    """Keys' cubic curve (a = -1/2), widened to the pixels that become one: float64 (after, before), rows sum to 1."""
    widening = max(1.0, before / after)
    centres = (np.arange(after) + 0.5) * before / after
    x = np.abs(np.arange(before) + 0.5 - centres[:, None]) / widening
    curve = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    return curve / curve.sum(axis=1, keepdims=True)


def by_the_curve(image, height, width, width_first=True):
    """One direction, rounded and cut off, then the other: float64 (height, width, 3)."""
    passes = [("wx,yxc->ywc", weights(image.shape[1], width)), ("hy,ywc->hwc", weights(image.shape[0], height))]
    result = image.astype(np.float64)
    for equation, matrix in passes if width_first else reversed(passes):
        result = np.rint(np.einsum(equation, matrix, result).clip(0, 255))
    return torch.from_numpy(result)


@given(images(), sides, sides)
def test_torch_follows_the_cubic_curve(image, height, width):
    _, plain = processors()
    assert largest(by_the_curve(image, height, width), plain.resize([image], height, width)[0]) <= MOST


@given(images(), sides, sides)
def test_so_does_what_a_gpu_would_run(image, height, width):
    batch = torch.from_numpy(image[None]).movedim(-1, 1)
    in_float = resized_in_float(batch, height, width)[0].movedim(0, -1)
    assert largest(by_the_curve(image, height, width), in_float) <= MOST


@given(images(), sides, sides)
def test_pil_follows_it_too_in_either_order(image, height, width):
    """Pillow 13 goes height first where that is less work: then what is cut off between the directions is another."""
    pil, _ = processors()
    actual = pil.resize([image], height, width)[0]
    assert min(largest(by_the_curve(image, height, width, first), actual) for first in (True, False)) <= MOST


@given(images(), sides, sides)
def test_the_order_of_bytes_in_memory_changes_nothing(image, height, width):
    channels_last = torch.from_numpy(image[None]).movedim(-1, 1)
    expected = resized(channels_last.contiguous(), height, width)
    assert torch.equal(expected, resized(channels_last, height, width))


@given(images(), sides)
def test_both_give_the_same_pixels(image, side):
    pil, plain = processors(**square(side))
    expected, actual = (in_255ths(processor([calm(image)]), pil.reference) for processor in (pil, plain))
    assert float((expected - actual).abs().max()) <= MOST + 1e-3


@given(st.lists(images(longest=40), min_size=2, max_size=6), st.integers(1, 40), st.booleans())
def test_images_together_are_as_one_by_one(several, side, twice):
    several = several * 2 if twice else several
    for processor in processors(**square(side)):
        expected = torch.cat([processor([image]) for image in several])
        assert torch.equal(expected, processor(several))


@given(images(longest=60), st.integers(2, 40), st.integers(1, 40), st.integers(1, 40))
def test_both_crop_and_pad_alike(image, edge, height, width):
    size = {"size": {"shortest_edge": edge}, "crop_size": {"height": height, "width": width}}
    pil, plain = processors(**size)
    expected, actual = (in_255ths(processor([calm(image)]), pil.reference) for processor in (pil, plain))
    assert float((expected - actual).abs().max()) <= MOST + 1e-3


FLAGS = ["do_resize", "do_center_crop", "do_rescale", "do_normalize"]


@pytest.mark.parametrize(("switched_off"), [[flag] for flag in FLAGS] + [["do_rescale", "do_normalize"]])
def test_what_the_reference_leaves_out_is_left_out(switched_off):
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    pil, plain = processors(**square(20), **dict.fromkeys(switched_off, False))
    # 20 x 20 already: nothing is scaled, so that what remains is exact but for the order of the arithmetic.
    torch.testing.assert_close(pil([image]).float(), plain([image]), rtol=1e-5, atol=1e-5)


def test_without_a_crop_both_give_the_size_asked_for():
    image = np.zeros((20, 30, 3), np.uint8)
    shapes = [p([image]).shape for p in processors(size={"height": 14, "width": 21}, do_center_crop=False)]
    assert shapes == [(1, 3, 14, 21)] * 2


def test_the_mean_and_deviation_are_the_references():
    image = np.full((8, 8, 3), 51, np.uint8)
    _, plain = processors(**square(8), image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 0.1])
    expected = torch.tensor([0.2, 0.0, -1.0])
    torch.testing.assert_close(plain([image])[0].mean(dim=(1, 2)), expected)


def test_the_torch_way_is_bit_for_bit_what_torchvisions_backend_computes():
    """Which is: channels first, uint8 bicubic, centre crop, then one subtraction and one division by factors of 255."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    _, plain = processors(**square(48))
    first = torch.from_numpy(image).permute(2, 0, 1).contiguous()[None]
    small = torch.nn.functional.interpolate(first, (48, 64), mode="bicubic", align_corners=False, antialias=True)
    factor = 1.0 / plain.reference.rescale_factor
    mean, std = (
        torch.tensor(t)[:, None, None] * factor for t in (plain.reference.image_mean, plain.reference.image_std)
    )
    expected = small[..., 8:56].to(torch.float32).sub(mean).div(std)
    assert torch.equal(expected, plain([image]))


def test_pixels_are_contiguous_float32():
    _, plain = processors(**square(8))
    pixels = plain([np.zeros((10, 12, 3), np.uint8)] * 2)
    assert (pixels.dtype, pixels.is_contiguous()) == (torch.float32, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 2}, "preprocessing in torch must resize bicubically, got resample 2"),
        (
            {"size": {"shortest_edge": 8, "longest_edge": 9}},
            "preprocessing in torch must resize to a shortest_edge or to height and width, "
            "got {'longest_edge': 9, 'shortest_edge': 8}",
        ),
        ({"do_pad": True}, "preprocessing in torch must pad by its crop only, got do_pad True"),
    ],
)
def test_a_setting_that_torch_does_not_know_is_refused(settings, message):
    with pytest.raises(ModelError) as caught:
        TorchProcessor(CLIPImageProcessorPil(**settings), CPU)
    assert message == str(caught.value)


def test_the_identity_names_the_processor_that_runs():
    pil, _ = processors()
    assert PREPROCESSORS["pil"] == f"pil: {type(pil.reference).__name__}"
