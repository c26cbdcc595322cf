"""The backend `graph` of any model: encoders, and steps over a cache that stays where it is, as in `generate()`.

A CPU has no CUDA graphs: there what would be captured is called.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES, small_config, small_network
from graphs_of_families import OPTIONS, inputs_for, plain_model, rows, scored, two_rows, with_graphs
from transformers import StoppingCriteriaList

from stagebench.backends import graph
from stagebench.backends.any_graph import Form
from stagebench.backends.fixed_cache import why_not_fixed
from stagebench.backends.load import with_backend
from stagebench.backends.static_cache import why_not_static
from stagebench.core.artifacts import Inputs, Sample
from stagebench.core.errors import ModelError, StagebenchError, StageError
from stagebench.core.settings import ModelSettings
from stagebench.core.stages import IN_GENERATE
from stagebench.models.protocol import CACHE_ARGUMENT
from stagebench.pipeline.counters import WorkCounter, additive, count_work
from stagebench.pipeline.decode import advance, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import reference_generate, run_stages, staged_generate
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Reference, expected_work

pytestmark = pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")
REFUSED = {"florence2": "a graph must continue from a DynamicCache, got a EncoderDecoderCache"}
if CACHE_ARGUMENT == "past_key_values":  # before transformers 5.24
    reads = "the backend graph can't run steps of a {}ForConditionalGeneration: it reads {} on the host"
    REFUSED |= {"aria": reads.format("Aria", "128 values"), "mllama": reads.format("Mllama", "a value")}


MIXTURES = ("qwen3_5_moe", "qwen3_vl_moe")  # of experts: which of them a token needs, these ask the device


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_in_turn_have_the_tokens_and_scores_of_generate_or_the_family_is_refused(name: str) -> None:
    plain = plain_model(name)
    several = [inputs_for(plain), inputs_for(plain, (30, 31, 32)), inputs_for(plain)]
    fast = with_graphs(plain)
    if name in REFUSED:
        with pytest.raises(StagebenchError, match=f"^{REFUSED[name]}$"):
            staged_generate(fast, several[0], OPTIONS)
        return
    expected, got = (
        torch.stack([scored(generate, model, inputs) for inputs in several])
        for generate, model in ((reference_generate, plain), (staged_generate, fast))
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - REFUSED.keys() - set(MIXTURES)))
def test_on_a_gpu_graphs_give_the_tokens_of_generate(name: str, gpu: torch.device) -> None:
    plain = plain_model(name)
    several = [on(gpu, inputs_for(plain, words)) for words in ((), (30, 31, 32), ())]
    plain.hf_model.to(gpu)
    with pinned_runtime(ModelSettings(device="cuda")):
        expected = [reference_generate(plain, inputs, OPTIONS).tolist() for inputs in several]
        fast = with_backend(plain, "graph")
        assert [rows(staged_generate(fast, inputs, OPTIONS)) for inputs in several] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("name", MIXTURES)
def test_on_a_gpu_steps_that_wait_to_know_their_experts_are_refused(name: str, gpu: torch.device) -> None:
    plain = plain_model(name)
    inputs = on(gpu, inputs_for(plain))
    plain.hf_model.to(gpu)
    with pinned_runtime(ModelSettings(device="cuda")), pytest.raises(ModelError, match=r"it waits for the device$"):
        staged_generate(with_backend(plain, "graph"), inputs, OPTIONS)


def on(device: torch.device, inputs: Inputs) -> Inputs:
    given = {name: tensor.to(device) for name, tensor in inputs.given.items()}
    return Inputs(inputs.input_ids.to(device), inputs.attention_mask.to(device), given, inputs.images)


def test_images_of_other_grids_in_turn_have_the_scores_of_generate() -> None:
    plain = plain_model("qwen2_5_vl")
    wide, square = inputs_for(plain), inputs_for(plain)
    wide.given["image_grid_thw"].copy_(torch.tensor([[1, 2, 8]]))
    fast = with_graphs(plain)
    for inputs in (wide, square, wide):
        expected = scored(reference_generate, plain, inputs)
        torch.testing.assert_close(scored(staged_generate, fast, inputs), expected, rtol=0, atol=1e-4)


LONG = OPTIONS | {"max_new_tokens": 20}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(("name", "layers"), [("gemma3", {}), ("gemma3", MIXED), ("idefics2", {})])
def test_a_prompt_longer_than_a_window_has_the_tokens_of_generate(name: str, layers: dict[str, Any]) -> None:
    words = tuple(range(30, 60))
    narrow, wide = (plain_model(name, sliding_window=window, **layers) for window in (8, 400))
    inputs = inputs_for(narrow, words)
    expected = reference_generate(narrow, inputs, LONG).tolist()
    assert reference_generate(wide, inputs, LONG).tolist() != expected
    assert rows(staged_generate(with_graphs(narrow), inputs, LONG)) == expected


@pytest.mark.parametrize(("window", "exact"), [(8, False), (400, True)])
def test_only_where_a_mask_hides_slots_of_padded_rows_the_very_tokens_of_generate_are_not_owed(
    window: int, exact: bool
) -> None:
    fast = with_graphs(plain_model("gemma3", sliding_window=window))
    staged_generate(fast, inputs_for(fast), OPTIONS)
    assert fast.backend.exact
    staged_generate(fast, two_rows(fast), OPTIONS)
    assert fast.backend.exact == exact


def test_where_a_window_moves_the_scores_are_those_of_generate_to_the_last_bit() -> None:
    plain = plain_model("gemma3", sliding_window=12, layer_types=["sliding_attention"] * 2)
    inputs = inputs_for(plain, tuple(range(30, 45)))
    expected = scored(reference_generate, plain, inputs)
    assert torch.equal(scored(staged_generate, with_graphs(plain), inputs), expected)


def test_a_rotary_embedding_that_could_grow_gives_the_tokens_of_generate() -> None:
    plain = plain_model("internvl", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    inputs = inputs_for(plain, (30, 31, 32))
    expected = reference_generate(plain, inputs, LONG).tolist()
    assert rows(staged_generate(with_graphs(plain), inputs, LONG)) == expected
    assert plain.hf_model.get_decoder().rotary_emb.rope_type == "dynamic"


def seeded(function: Any, *args: Any) -> Any:
    torch.manual_seed(0)
    return function(*args)


def test_what_is_sampled_is_what_generate_samples() -> None:
    plain = plain_model("qwen3_vl")
    options, inputs = {"max_new_tokens": 12, "do_sample": True}, inputs_for(plain)
    expected = seeded(reference_generate, plain, inputs, options).tolist()
    fast = with_graphs(plain)
    staged_generate(fast, inputs, options)  # to be set up draws random numbers elsewhere
    assert rows(seeded(staged_generate, fast, inputs, options)) == expected


# A state of all tokens so far can't be taken back: where there is one, no step is wasted.
@pytest.mark.parametrize(("name", "wasted"), [("glm4v", 1), ("qwen3_5", 0)])
def test_a_text_that_stops_ends_there(name: str, wasted: int) -> None:
    plain = plain_model(name)
    inputs = inputs_for(plain, (40, 41))
    whole = rows(staged_generate(plain, inputs, LONG))[0]
    end = next(i for i in range(1, 20) if whole[i] not in whole[:i])
    options = LONG | {"eos_token_id": [whole[end]]}
    stopped = staged_generate(with_graphs(plain), inputs, options)
    assert (rows(stopped), stopped.steps, stopped.wasted_steps) == ([whole[: end + 1]], end, wasted)


def test_decoding_goes_on_after_wasted_steps_as_in_generate() -> None:
    plain = plain_model("glm4v")
    inputs = inputs_for(plain, (40, 41))
    whole = rows(staged_generate(plain, inputs, LONG))[0]
    end = next(i for i in range(1, 20) if whole[i] not in whole[:i])
    fast = with_graphs(plain)
    stopped = advance(fast, prefill(fast, inputs, encode(fast, inputs), LONG | {"eos_token_id": [whole[end]]}))
    going = replace(stopped, unfinished=torch.ones_like(stopped.unfinished), stopping_criteria=StoppingCriteriaList())
    assert advance(fast, going, 4).sequences[0, stopped.prompt_tokens :].tolist() == whole[: end + 5]


PADDED = {"llava", "qwen2_5_vl", "gemma3", "qwen3_5", "mllama", "paligemma", "blip-2"}  # which looks positions up


@pytest.mark.parametrize("name", sorted(PADDED - REFUSED.keys()))
def test_rows_padded_on_the_left_have_the_tokens_of_generate(name: str) -> None:
    plain = plain_model(name)
    both, fast = two_rows(plain), with_graphs(plain)
    expected = reference_generate(plain, both, OPTIONS).tolist()
    assert rows(staged_generate(fast, both, OPTIONS)) == expected
    graph = name in ("gemma3", "paligemma")  # which make the masks before they call their language model
    assert fast.backend.stages["prefill"] == ("graph" if graph else "eager: rows of the prompt are padded")


def test_a_prompt_whose_cache_a_later_one_took_is_refused() -> None:
    fast = with_graphs(plain_model("internvl"))
    inputs = inputs_for(fast)
    earlier, _ = (prefill(fast, inputs, encode(fast, inputs), OPTIONS) for _ in range(2))
    with pytest.raises(StageError, match="the static cache of its own prompt, got that of a later prefill"):
        decode(fast, earlier)


def test_the_cache_unused_for_longest_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "KEPT", 1)
    fast = with_graphs(plain_model("internvl"))
    inputs = inputs_for(fast)
    for options in (OPTIONS, OPTIONS | {"max_new_tokens": 200}):
        prefilled = prefill(fast, inputs, encode(fast, inputs), options)
    assert (len(fast.backend.sessions), fast.backend.setups[1].nbytes) == (1, 0)
    assert prefilled.state["cache"] is next(iter(fast.backend.sessions.values())).cache


def test_features_are_not_overwritten_by_the_next_encode() -> None:
    fast = with_graphs(plain_model("llava_onevision"))
    inputs = inputs_for(fast)
    first = encode(fast, inputs)
    kept = first.tokens.clone()
    encode(fast, replace(inputs, given=inputs.given | {"pixel_values": -inputs.given["pixel_values"]}))
    assert torch.equal(first.tape[-1].answer().pooler_output[0], kept[0])


def test_each_stage_says_what_runs_it_and_why() -> None:
    said = {}
    for name in ("internvl", "smolvlm", "blip-2"):
        fast = with_graphs(plain_model(name))
        staged_generate(fast, inputs_for(fast), OPTIONS)
        said[name] = fast.backend.stages
    reads, old = "eager: it reads a value on the host", CACHE_ARGUMENT == "past_key_values"
    assert said == {
        "internvl": {"encode": "graph", "prefill": "graph", "decode": "graph"},
        "smolvlm": {"encode": reads, "prefill": "graph", "decode": "graph"},
        "blip-2": {
            "encode": "eager: it runs within generate()",
            "prefill": reads if old else "graph",  # before transformers 5.24
            "decode": "graph",
        },
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_chunk_size": 64}, "attention in one piece, got chunks of 64"),
        ({"layer_types": ["chunked_attention"] * 2}, "layers of full_attention, .*, got chunked_attention"),
    ],
)
def test_layers_that_a_step_can_not_serve_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    plain = plain_model("internvl")
    vars(plain.hf_model.config.get_text_config()).update(settings)
    with pytest.raises(ModelError, match=f"^the backend graph needs {message}$"):
        with_backend(plain, "graph")


def test_an_encoder_of_texts_is_refused() -> None:
    network: Any = SimpleNamespace(config=small_config("florence2"))
    assert why_not_fixed(network) == "a decoder alone, got one with an encoder of texts"


def test_a_step_that_gives_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = with_graphs(plain_model("qwen2_5_vl"))
    wrong = Form.logits
    monkeypatch.setattr(Form, "logits", lambda *args, offset, **rest: wrong(*args, offset=offset * 0, **rest))
    with pytest.raises(ModelError, match="must give the logits of the plain one, got a relative distance"):
        staged_generate(fast, inputs_for(fast, tuple(range(30, 60))), OPTIONS)


def test_a_cache_that_is_asked_for_is_refused() -> None:
    fast = with_graphs(plain_model("internvl"))
    inputs = inputs_for(fast)
    with pytest.raises(StageError, match="a graph must continue from a DynamicCache, got a StaticCache"):
        prefill(fast, inputs, encode(fast, inputs), OPTIONS | {"cache_implementation": "static"})


@pytest.mark.parametrize("name", ["qwen2_5_vl", "glm4v", "paligemma", "mllama"])
def test_a_network_with_positions_masks_or_layers_of_its_own_has_no_static_cache(name: str) -> None:
    assert why_not_static(small_network(name)) is not None


@pytest.mark.parametrize(("name", "window"), [("gemma3", 12), ("qwen3_5", None)])
def test_the_work_is_known_to_the_last_flop(name: str, window: int | None) -> None:
    plain = plain_model(name, **({"sliding_window": window} if window else {}))
    plain.hf_model.set_attn_implementation("eager")  # in which products of each length are counted
    inputs = inputs_for(plain, (40, 41, 42))
    tokens, work = count_work(lambda: reference_generate(plain, inputs, OPTIONS), plain.counted_modules)
    reference = Reference(plain, Sample(Path()), OPTIONS, inputs, tuple(tokens[0].tolist()), work)
    fast = with_graphs(plain)
    staged_generate(fast, inputs, OPTIONS)
    counter, given = WorkCounter(plain.counted_modules, fast.backend), {"preprocess": inputs}
    generation = run_stages(fast, reference.sample, OPTIONS, counter, IN_GENERATE, given)["decode"]
    done = additive(*counter.work.values())
    assert done == expected_work(fast, reference, generation)
    assert done["flops"] > work["flops"]
