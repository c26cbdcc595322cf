"""Encode once, prefill from the tape: the tokens and scores of `generate()`, for every family."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, inputs_of, inseparable, small_network
from graphs_of_families import inputs_for, plain_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import SmolVLMImageProcessorPil
from transformers.utils import is_num2words_available

from stagebench.core.artifacts import Features, Inputs, Media
from stagebench.core.errors import StageError
from stagebench.core.settings import ModelSettings
from stagebench.models.registry import build_model, origins, registration_of
from stagebench.models.tape import Encoders
from stagebench.pipeline.counters import counted_forwards
from stagebench.pipeline.decode import advance
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import _first_step
from stagebench.pipeline.remembered import varied
from stagebench.pipeline.verify import first_scores

# transformers 5.15 and 5.17 call mllama's layers by a name that they deprecate themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept:DeprecationWarning"
    ),  # InternVL's processor, in these
]
REGISTERED = {
    name: registration_of(name).config and registration_of(name).resolve("network").config_class.model_type
    for name in origins()
}
HAS_SMOLVLM = is_num2words_available() and not getattr(SmolVLMImageProcessorPil, "is_dummy", False)
OPTIONS = {"max_new_tokens": 4, "do_sample": False}
WITHIN_GENERATE = ("blip-2", "mllama")  # their networks ask one encoder about another one's answer


class Scores:
    """Keep the scores of each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.clone())
        return scores


def reference(hf_model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    scores = Scores()
    tokens = hf_model.generate(**inputs, logits_processor=[scores], **OPTIONS)
    return tokens, torch.stack(scores.steps)


@contextmanager
def prompted(hf_model: Any, inputs: dict[str, Any], tape: Any, model: Any) -> Iterator[dict[str, Any]]:
    if model is None:
        with Encoders(hf_model).replayed(tape):
            yield inputs
    else:
        with model.prompted(stage_inputs(inputs), Features(tape[0].output, tape)) as given:
            yield given


def begun(hf_model: Any, inputs: dict[str, Any], tape: Any, model: Any = None) -> tuple[Any, Scores]:
    scores = Scores()
    with prompted(hf_model, inputs, tape, model) as given:
        return hf_model.generate(**given, custom_generate=_first_step, logits_processor=[scores], **OPTIONS), scores


def staged(hf_model: Any, inputs: dict[str, Any], tape: Any, model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    prefilled, scores = begun(hf_model, inputs, tape, model)
    plain = SimpleNamespace(hf_model=hf_model, backend=None)
    return advance(plain, prefilled).sequences, torch.stack(scores.steps)


def stage_inputs(inputs: dict[str, Any]) -> Inputs:
    further = {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "attention_mask")}
    return Inputs(inputs["input_ids"], inputs["attention_mask"], further, images=1)


def registered_model(name: str) -> tuple[Any, dict[str, Any]]:
    """Build a model by its name, narrow, and inputs about small pictures of noise."""
    model = build_model(name, ModelSettings(frames=1))
    noise = np.random.default_rng(0).integers(0, 256, (model.images_per_sample, 64, 64, 3), np.uint8)
    inputs = model.preprocess(Media(tuple(noise), "frames", len(noise), 0, None), "What moves?")
    return model, model.reference_inputs(inputs)


@pytest.fixture(scope="module", params=[*sorted(FAMILIES.keys() - REGISTERED.values()), *REGISTERED])
def family(request: pytest.FixtureRequest) -> SimpleNamespace:
    name, model = request.param, None
    if name in REGISTERED and (name != "smolvlm" or HAS_SMOLVLM):
        built, inputs = registered_model(name)
        hf_model, model = built.hf_model, built if name == "eventgpt" else None  # its tower is in its language model
    else:
        hf_model = small_network(name)
        inputs = inputs_of(hf_model, name)
    found = SimpleNamespace(name=name, hf_model=hf_model, model=model, inputs=inputs)
    found.tape, found.direct = recorded(found, inputs)
    return found


def recorded(family: SimpleNamespace, inputs: dict[str, Any]) -> tuple[Any, Any]:
    if family.model is None:
        return Encoders(family.hf_model).record(inputs)
    return family.model.features(stage_inputs(inputs)).tape, ()


def of_other_pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    drawn = {name: torch.randn_like(pixels) for name, pixels in inputs.items() if name.startswith("pixel_values")}
    return {**inputs, **drawn}


def test_a_replayed_tape_gives_the_tokens_and_scores_of_generate(family: SimpleNamespace) -> None:
    expected = reference(family.hf_model, family.inputs)
    got = staged(family.hf_model, family.inputs, family.tape, family.model)
    assert all(torch.equal(*pair) for pair in zip(expected, got, strict=True))


def test_the_page_of_families_lists_each_with_how_it_is_encoded() -> None:
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (yes|no) \| (.*?) \|$", page, flags=re.MULTILINE)
    split = {name: "within `generate()`" if name in WITHIN_GENERATE else "called directly" for name in FAMILIES}
    assert (
        {name: how for name, kind, how in rows if kind == "yes"},
        [name for name, kind, _ in rows if kind == "no"],
    ) == (
        split,
        ["chameleon", "git", "idefics"],
    )


def encoded(family: SimpleNamespace, inputs: dict[str, Any]) -> Any:
    if family.direct is None or family.model:
        return recorded(family, inputs)[0]
    return Encoders(family.hf_model).call(family.direct, inputs)


def test_all_encoders_but_two_are_called_directly(family: SimpleNamespace) -> None:
    assert (family.direct is None) == (family.name in WITHIN_GENERATE)


def test_encoded_again_the_tape_gives_the_same(family: SimpleNamespace) -> None:
    again = staged(family.hf_model, family.inputs, encoded(family, family.inputs), family.model)
    expected = reference(family.hf_model, family.inputs)
    assert all(torch.equal(*pair) for pair in zip(expected, again, strict=True))


def test_encode_and_prefill_cost_the_flops_of_generate(family: SimpleNamespace) -> None:
    with FlopCounterMode(display=False) as expected:
        reference(family.hf_model, family.inputs)
    with FlopCounterMode(display=False) as got:
        staged(family.hf_model, family.inputs, encoded(family, family.inputs), family.model)
    assert got.get_total_flops() == expected.get_total_flops()


def test_after_encode_no_encoder_runs(family: SimpleNamespace) -> None:
    parts = Encoders(family.hf_model).modules if family.model is None else family.model.counted_modules
    modules = {path: module for path, module in parts.items() if path != "language_model"}
    with counted_forwards(modules) as forwards:
        staged(family.hf_model, family.inputs, family.tape, family.model)
    assert sum(forwards[f"{path}_forwards"] for path in modules) == 0


def test_other_pixels_give_other_scores(family: SimpleNamespace) -> None:
    other = of_other_pixels(family.inputs)
    got = staged(family.hf_model, other, encoded(family, other), family.model)[1]
    assert not torch.equal(got, reference(family.hf_model, family.inputs)[1])


def test_a_tape_of_other_pixels_gives_other_scores(family: SimpleNamespace) -> None:
    swapped = encoded(family, of_other_pixels(family.inputs))
    got = staged(family.hf_model, family.inputs, swapped, family.model)[1]
    assert not torch.equal(got, reference(family.hf_model, family.inputs)[1])


def test_rows_padded_on_the_left_give_the_tokens_of_generate(family: SimpleNamespace) -> None:
    rows = padded(family.inputs)
    expected, got = (
        reference(family.hf_model, rows),
        staged(family.hf_model, rows, recorded(family, rows)[0], family.model),
    )
    assert all(torch.equal(*pair) for pair in zip(expected, got, strict=True))


def test_two_samples_in_flight_do_not_disturb_each_other(family: SimpleNamespace) -> None:
    samples = [family.inputs, another(family.inputs)]
    expected = [reference(family.hf_model, inputs) for inputs in samples]
    tapes = [encoded(family, inputs) for inputs in samples]
    pairs = [*zip(samples, tapes, strict=True)]
    flights = [begun(family.hf_model, *pair, family.model) for pair in reversed(pairs)]
    going = [prefilled for prefilled, _ in flights]
    for _ in range(OPTIONS["max_new_tokens"] - 1):
        going = [advance(SimpleNamespace(hf_model=family.hf_model, backend=None), each, 1) for each in going]
    got = [(each.sequences, torch.stack(flown[1].steps)) for each, flown in zip(going, flights, strict=True)]
    same = [torch.equal(*pair) for i, j in ((0, 1), (1, 0)) for pair in zip(expected[i], got[j], strict=True)]
    assert same == [True] * 4


def another(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return other pixels, of another grid of as many patches where there is one, and a prompt with two more words."""
    other = of_other_pixels(inputs)
    if "image_grid_thw" in inputs:
        frames, height, width = inputs["image_grid_thw"].unbind(1)
        other["image_grid_thw"] = torch.stack([frames, height // 2, width * 2], 1)
    for name, tensor in inputs.items():
        if tensor.shape[:2] == inputs["input_ids"].shape:
            added = {"input_ids": 10, "attention_mask": 1, "cross_attention_mask": 1}.get(name, 0)
            other[name] = torch.cat([other[name], torch.full_like(tensor[:, :2], added)], 1)
    return other


def padded(inputs: dict[str, Any]) -> dict[str, Any]:
    """Make a batch of two: the prompt with two more words, and two tokens of padding with the prompt."""
    rows = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
    for name, tensor in inputs.items():
        if tensor.shape[:2] == inputs["input_ids"].shape:
            added = {"input_ids": (10, 3), "attention_mask": (1, 0), "cross_attention_mask": (1, 1)}
            words, padding = added.get(name, (0, 0))
            longer = torch.cat([tensor, torch.full_like(tensor[:, :2], words)], 1)
            rows[name] = torch.cat([longer, torch.cat([torch.full_like(tensor[:, :2], padding), tensor], 1)])
    return rows


@pytest.mark.parametrize("name", ["chameleon", "git", "idefics"])
def test_vision_inside_of_the_decoder_is_refused_by_name(name: str) -> None:
    hf_model, inputs = inseparable(name)
    with pytest.raises(StageError, match=f"{type(hf_model).__name__} can't be split: no encoder is called before"):
        Encoders(hf_model).record(inputs)


@pytest.fixture(scope="module")
def llava() -> SimpleNamespace:
    hf_model = small_network("llava")
    inputs = inputs_of(hf_model, "llava")
    return SimpleNamespace(hf_model=hf_model, inputs=inputs, tape=Encoders(hf_model).record(inputs)[0])


def test_an_empty_tape_is_refused(llava: SimpleNamespace) -> None:
    with pytest.raises(StageError, match="a tape must hold at least one encoder's output, got none"):
        staged(llava.hf_model, llava.inputs, ())


def test_a_tape_of_one_call_too_many_is_refused(llava: SimpleNamespace) -> None:
    with pytest.raises(StageError, match="prefill must use all outputs of encode, got no call of get_image"):
        staged(llava.hf_model, llava.inputs, llava.tape * 2)


def test_a_tape_of_another_encoder_is_refused(llava: SimpleNamespace) -> None:
    other = (replace(llava.tape[0], encoder="get_video_features"),)
    with pytest.raises(StageError, match="must call the encoders that encode called, get_video_features, got "):
        staged(llava.hf_model, llava.inputs, other)


def test_a_zeroed_tape_is_refused(llava: SimpleNamespace) -> None:
    tape = Encoders(llava.hf_model).record(llava.inputs)[0]
    for features in tape[0].output.pooler_output:
        features.zero_()
    with pytest.raises(StageError, match="the output of get_image_features was overwritten after encode"):
        staged(llava.hf_model, llava.inputs, tape)


def test_a_network_is_left_as_it_was(llava: SimpleNamespace) -> None:
    before = [list(vars(module)) for module in llava.hf_model.modules()]
    staged(llava.hf_model, llava.inputs, Encoders(llava.hf_model).record(llava.inputs)[0])
    assert [list(vars(module)) for module in llava.hf_model.modules()] == before


def test_the_first_scores_are_seen_where_a_network_drops_processors_that_are_given(monkeypatch):
    monkeypatch.setitem(FAMILIES, "janus", (FAMILIES["llava"][0], {}))
    plain = plain_model("janus")
    inputs = inputs_for(plain)
    pixels = (inputs, inputs, varied(inputs, 1))
    first, again, other = (first_scores(plain, inputs, encode(plain, each), OPTIONS) for each in pixels)
    assert (first.shape[0], torch.equal(first, again), torch.equal(first, other)) == (1, True, False)
