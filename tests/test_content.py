import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagebench.core.artifacts import Features, Generation, Inputs, Media
from stagebench.core.errors import StageError
from stagebench.pipeline.counters import content_of, sketch

IMAGES = tuple(np.full((4, 6, 3), i, np.uint8) for i in range(5))
PIXELS = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(1, 2, 3, 4, 4)


def media(*images):
    return content_of(Media(images, "frames", 0, 0, None))["frames"]


def inputs(ids=(1, 2, 3), mask=(1, 1, 1), pixels=PIXELS, **further):
    return content_of(Inputs(torch.tensor([ids]), torch.tensor([mask]), {"pixel_values": pixels} | further, images=1))


def distance(a, b):
    return max(abs(x - y) for x, y in zip(sketch(a), sketch(b), strict=True)) / sketch(a)[0]


def test_equal_frames_have_one_digest_whatever_their_layout_in_memory():
    assert media(*IMAGES) == media(*(np.asfortranarray(image) for image in IMAGES))


@pytest.mark.parametrize(
    "other",
    [
        (IMAGES[0],) * 5,
        (*IMAGES[:3], IMAGES[3], IMAGES[3]),
        IMAGES[::-1],
        IMAGES[:4],
        (*IMAGES[:4], IMAGES[4] + 1),
        tuple(image.reshape(6, 4, 3) for image in IMAGES),
    ],
    ids=["one five times", "one twice", "another order", "one fewer", "one brighter", "another shape"],
)
def test_other_frames_have_another_digest(other):
    assert media(*other) != media(*IMAGES)


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({"pixels"}, {"pixels": PIXELS.flip(1)}),
        ({"pixels"}, {"pixels": PIXELS[..., 1:, :]}),
        ({"pixels"}, {"pixels": PIXELS.to(torch.bfloat16)}),
        ({"pixels"}, {"pixels": PIXELS + 1e-5}),
        ({"prompt"}, {"ids": (1, 3, 2)}),
        ({"prompt"}, {"mask": (0, 1, 1)}),
        ({"prompt"}, {"image_grid_thw": torch.tensor([[1, 2, 2]])}),
        ({"pixels"}, {"pixel_values_videos": PIXELS}),
        (set(), {"pixels": PIXELS.clone(memory_format=torch.preserve_format)}),
    ],
)
def test_pixels_and_prompt_are_distinguished(changed, other):
    before, after = inputs(), inputs(**other)
    assert {name for name in before if before[name] != after[name]} == changed


def test_other_tokens_have_another_digest():
    rows = [((1, 2, 3),), ((1, 3, 2),), ((1, 2),), ((1, 2, 3), (4,))]
    found = {
        content_of(Generation(r, ("length",) * len(r), len(r[0]) - 1, (0.0,) * (len(r[0]) - 1)))["tokens"] for r in rows
    }
    assert len(found) == len(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(images=st.integers(2, 8), tokens=st.integers(1, 40), hidden=st.sampled_from([16, 64, 100]))
def test_repeated_swapped_and_cropped_images_move_a_sketch_and_rounding_hardly_does(dtype, images, tokens, hidden):
    generator = torch.Generator().manual_seed(images * tokens * hidden)
    features = torch.randn(1, images, tokens, hidden, generator=generator).to(dtype)
    repeated = features[:, :1].expand_as(features)
    rounded = features.float() * (1 + torch.finfo(dtype).eps * torch.randn(features.shape, generator=generator))
    assert distance(features, rounded) < 8 * torch.finfo(dtype).eps
    assert min(distance(features, repeated), distance(features, features.flip(1))) > 0.2


def test_the_sketch_of_a_tensor_is_the_same_in_every_release():
    assert sketch(torch.arange(30.0).reshape(1, 5, 6))[:3] == pytest.approx(
        [16.886878535320456, -(0.5**0.5), -(0.5**0.5)]
    )


def test_fewer_numbers_than_parts_are_sketched_too():
    assert len(sketch(torch.ones(1, 1, 2))) == 16


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(StageError, match="features must be finite, got 2 that are not"):
        content_of(Features(torch.tensor([[[1.0, float("nan"), float("inf")]]])))
