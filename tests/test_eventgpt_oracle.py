"""Stage by stage against what the EventGPT authors' own code computed, where that oracle lies beside the data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stagebench.core.artifacts import Inputs, Media
from stagebench.core.settings import ModelSettings
from stagebench.media.events.recordings import read_events
from stagebench.models.assembly import assemble
from stagebench.models.eventgpt import EventGPT

DATA = os.environ.get("STAGEBENCH_DATA")
ORACLE = Path(DATA).parent / "oracle" / "eventgpt_tiny" if DATA else Path("no-oracle")
pytestmark = pytest.mark.skipif(
    not (ORACLE / "expected.npz").is_file(), reason="needs oracle/eventgpt_tiny beside the STAGEBENCH_DATA folder"
)

RELATIVE = 1e-4


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(ORACLE / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def meta() -> dict[str, object]:
    return json.loads((ORACLE / "meta.json").read_text())


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> EventGPT:
    return assemble(EventGPT, ModelSettings(profile="pretrained", weights=str(ORACLE), attention=request.param))


@pytest.fixture(scope="module")
def media() -> Media:
    return read_events(ORACLE / "events.npy", 5)


@pytest.fixture(scope="module")
def inputs(model: EventGPT, media: Media, meta: dict[str, object]) -> Inputs:
    return model.preprocess(media, meta["query"])


def assert_close(expected: np.ndarray, actual: torch.Tensor) -> None:
    """Equal within `RELATIVE`, by the norm and by the largest difference."""
    difference = actual.detach().double().numpy() - expected.astype(np.float64)
    assert expected.shape == difference.shape
    assert np.linalg.norm(difference) <= RELATIVE * np.linalg.norm(expected)
    assert np.abs(difference).max() <= RELATIVE * np.abs(expected).max()


def test_event_images_are_the_authors(media: Media, expected: dict[str, np.ndarray]) -> None:
    different = [i for i in range(5) if not np.array_equal(expected[f"event_image_{i}"], media.images[i])]
    assert not different


def test_token_ids_are_the_authors_with_a_placeholder_for_each_visual_token(
    inputs: Inputs, expected: dict[str, np.ndarray]
) -> None:
    ids = expected["input_ids"][0].tolist()
    at, patch = ids.index(-200), 420  # the authors put that one number where the event features go
    assert [*ids[:at], *[patch] * 22, *ids[at + 1 :]] == inputs.input_ids[0].tolist()


def test_pixel_values_are_the_authors(inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(inputs.pixels[0][0].numpy(), expected["pixel_values"], rtol=0, atol=1e-6)


def test_pixel_values_in_torch_are_the_authors_but_for_two_steps_of_255(
    media: Media, meta: dict[str, object], expected: dict[str, np.ndarray]
) -> None:
    model = assemble(EventGPT, ModelSettings(profile="pretrained", weights=str(ORACLE), preprocess="torch"))
    pixels = model.preprocess(media, meta["query"]).pixels[0][0].numpy()
    std = np.array(model.image_processor.reference.image_std)[:, None, None]
    np.testing.assert_allclose(pixels * std * 255, expected["pixel_values"] * std * 255, rtol=0, atol=2 + 1e-3)


@torch.inference_mode()
def test_image_tokens_are_the_authors(model: EventGPT, inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    assert_close(expected["per_image_features"], model.hf_model.get_image_tokens(inputs.pixels[0][0]))


@torch.inference_mode()
def test_event_features_are_the_authors(model: EventGPT, inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    assert_close(expected["event_features"], model.encode(inputs)[0])


@torch.inference_mode()
def test_prompt_embeddings_are_the_authors(model: EventGPT, inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    assert_close(expected["inputs_embeds"], model.embed(inputs, model.encode(inputs)))


@torch.inference_mode()
def test_prefill_logits_are_the_authors(model: EventGPT, inputs: Inputs, expected: dict[str, np.ndarray]) -> None:
    embeds = model.embed(inputs, model.encode(inputs))
    assert_close(expected["prefill_logits"], model.hf_model(inputs_embeds=embeds).logits)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_tokens_are_the_authors(
    model: EventGPT, inputs: Inputs, expected: dict[str, np.ndarray], cache: str
) -> None:
    sequences = model.hf_model.generate(
        **model.reference_inputs(inputs),
        do_sample=False,
        max_new_tokens=24,
        cache_implementation=cache,
        disable_compile=True,
    )
    assert expected["greedy_tokens"][0].tolist() == sequences[0, inputs.input_ids.shape[1] :].tolist()
