"""Backends: over a static cache, from padded prompts and looking at stops late, the very tokens of `generate()`.

A CPU has no CUDA graphs: there what would be captured is called. The graphs themselves are tested in `test_gpu.py`.
"""

import copy
import gc
import re
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import StaticLayer

from stagebench.backends import graph
from stagebench.backends.graph import LAG, RECIPES, GraphBackend, Recipe, _OnDevice
from stagebench.backends.load import with_backend
from stagebench.backends.static_cache import set_length, why_not_static
from stagebench.core.artifacts import Inputs, Sample
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import BACKENDS, DEFAULT_MODELS, ModelSettings
from stagebench.models.registry import build_model
from stagebench.pipeline import verify as verify_module
from stagebench.pipeline.decode import advance, cache_of, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import reference_generate, staged_generate
from stagebench.pipeline.timed_pass import timed_pass
from stagebench.pipeline.verify import Reference, TokenMatch, count_reference, verify

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def accelerated(model):
    """A model with a backend that is asked for on a GPU only."""
    return replace(model, backend=GraphBackend(model, "graph", None, RECIPES["graph"]))


@pytest.fixture(scope="module")
def sample(plain, synthetic):
    return Sample(synthetic.shown("own", plain.input_kind))


@pytest.fixture(scope="module")
def counted(plain, sample):
    """What `generate()` does with the sample, which takes a second to count."""
    return count_reference(plain, sample, OPTIONS)


def test_steps_taken_before_a_stop_was_seen_are_counted(plain, inputs):
    first = staged_generate(plain, inputs, OPTIONS).token_ids[0]
    options = {"max_new_tokens": 12, "eos_token_id": [first[1]], "do_sample": False}
    generation = staged_generate(accelerated(plain), inputs, options)
    assert ((first[:2],), 1, LAG - 1) == (generation.token_ids, generation.steps, generation.wasted_steps)


class Event:
    """One of a device that has done no more than was waited for, as a slow step leaves it."""

    recorded, done = 0, 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.recorded += 1
        self.number = Event.recorded

    def synchronize(self):
        Event.done = max(Event.done, self.number)

    def elapsed_time(self, other):
        assert other.number <= Event.done, "both events must be completed"
        return float(other.number - self.number)


def test_steps_in_vain_are_not_timed_because_they_may_not_have_ended(monkeypatch):
    for name, stand_in in {"Event": Event, "synchronize": lambda device: None}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, pin_memory: torch.zeros(size, dtype=dtype))
    progress = _OnDevice(torch.device("cpu"), limit=3)
    for going in (1, 0, 0):
        progress.note(torch.tensor([going]))
    assert [progress.going(0), progress.going(1)] == [True, False]
    assert [round((end - progress.began) * 1e3) for end in progress.ends(2)] == [1, 2]


def test_a_text_that_is_sampled_draws_no_more_random_numbers_than_in_generate(plain, inputs):
    first = seeded(reference_generate, plain, inputs, OPTIONS | {"do_sample": True})[0].tolist()[0]
    options = {"max_new_tokens": 12, "eos_token_id": [first[1]], "do_sample": True}
    expected, state = seeded(reference_generate, plain, inputs, options)
    generation, state_after = seeded(staged_generate, accelerated(plain), inputs, options)
    assert (expected.tolist(), 0) == (rows(generation), generation.wasted_steps)
    assert torch.equal(state, state_after)


def test_no_step_is_taken_beyond_the_limit(plain, inputs):
    generation = staged_generate(accelerated(plain), inputs, OPTIONS)
    assert (generation.steps, generation.wasted_steps) == (5, 0)


def test_a_shape_is_set_up_once(plain, inputs):
    fast = accelerated(plain)
    counts = [len(fast.backend.setups) for _ in range(3) if staged_generate(fast, inputs, OPTIONS)]
    assert counts == [3, 3, 3]  # encode, a prompt, a step


def test_a_pass_in_which_something_was_set_up_is_not_the_one_that_is_kept(plain, sample):
    fast = accelerated(plain)
    seen = []
    fast.backend.encode = watched(fast.backend.encode, seen)
    timed_pass(fast, sample, OPTIONS)
    assert (fast.setups, len(seen) > 1) == (3, True)


def rows(generation):
    return [list(row) for row in generation.token_ids]


def seeded(function, *args):
    """What a function gives from one random state, and the random state that it leaves."""
    torch.manual_seed(0)
    return function(*args), torch.random.get_rng_state()


@pytest.mark.parametrize("texts", [(7, 7, 7), (7, 8, 9)], ids=["equal rows", "rows of different text"])
def test_a_batch_gives_the_tokens_of_the_plain_path(plain, inputs, texts):
    ids = inputs.input_ids.repeat(3, 1)
    ids[:, 1] = torch.tensor(texts)
    three = Inputs(ids, torch.ones_like(ids), {"pixel_values": inputs.pixels[0].repeat(3, 1, 1, 1, 1)}, images=15)
    expected = reference_generate(plain, three, OPTIONS).tolist()
    assert len({tuple(row) for row in expected}) == len(set(texts))
    assert expected == rows(staged_generate(accelerated(plain), three, OPTIONS))


def watched(function, seen):
    """The function, noting its calls."""
    return lambda *args: seen.append(args) or function(*args)


def test_a_later_prompt_does_not_read_what_an_earlier_one_left(plain, inputs):
    fast = accelerated(plain)
    longer = Inputs(
        torch.cat([inputs.input_ids, torch.full((1, 40), 9)], dim=1),
        torch.ones(1, 626, dtype=torch.long),
        inputs.given,
        inputs.images,
    )
    staged_generate(fast, longer, OPTIONS)
    assert reference_generate(plain, inputs, OPTIONS).tolist() == rows(staged_generate(fast, inputs, OPTIONS))


@pytest.mark.parametrize("longer", [40, 100], ids=["in the padding", "in the cache"])
def test_a_prompt_of_nan_leaves_nothing_to_the_next_one(plain, inputs, longer):
    fast, options = accelerated(plain), OPTIONS | {"max_new_tokens": 60}  # both in a cache of 768 tokens
    ids = torch.cat([torch.full((1, longer), 9), inputs.input_ids], dim=1)  # its NaN reach beyond the next one's end
    staged_generate(
        fast, Inputs(ids, torch.ones_like(ids), {"pixel_values": inputs.pixels[0] * torch.nan}, inputs.images), options
    )
    assert reference_generate(plain, inputs, options).tolist() == rows(staged_generate(fast, inputs, options))


def test_decoding_goes_on_after_steps_in_vain_where_generate_would(plain, inputs):
    texts = staged_generate(plain, inputs, OPTIONS | {"max_new_tokens": 12, "min_new_tokens": 12}).token_ids[0]
    fast = accelerated(plain)
    stopping = {"max_new_tokens": 12, "eos_token_id": [texts[1]], "do_sample": False}
    stopped = advance(fast, prefill(fast, inputs, encode(fast, inputs), stopping))
    going = replace(stopped, unfinished=torch.ones_like(stopped.unfinished), stopping_criteria=StoppingCriteriaList())
    assert (texts[:6], LAG - 1) == (tuple(advance(fast, going, 4).sequences[0, -6:].tolist()), stopped.wasted_steps)


def test_a_config_given_beside_options_is_left_as_it_was(plain, inputs):
    fast, given = accelerated(plain), GenerationConfig(max_new_tokens=3)
    before = given.to_dict()
    prefill(fast, inputs, encode(fast, inputs), {"generation_config": given, "do_sample": False})
    assert before == given.to_dict()


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_the_attention_of_the_model_is_what_it_was_after_a_prompt(plain, inputs, monkeypatch, ends):
    fast, decoder = accelerated(plain), plain.hf_model.get_decoder()
    features, before = encode(fast, inputs), plain.hf_model.config.to_dict()
    if ends == "in an error":
        monkeypatch.setattr(decoder.norm, "forward", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError) if ends == "in an error" else nullcontext():
        prefill(fast, inputs, features, OPTIONS)
    assert (before, "sdpa") == (plain.hf_model.config.to_dict(), decoder.config._attn_implementation)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"layer_types": ["sliding_attention"] * 2, "sliding_window": 64},
            "attend to all tokens, got a cache of Static",
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "the same for all lengths, got dynamic"),
    ],
)
def test_a_model_that_padding_or_a_static_cache_would_change_is_refused(plain, changed, message):
    hf_model = copy.copy(plain.hf_model)
    hf_model.config = copy.deepcopy(hf_model.config)
    for name, value in changed.items():
        setattr(hf_model.config.get_text_config(), name, value)
    assert message in why_not_static(hf_model)


def test_a_prompt_whose_cache_a_later_one_took_is_refused(plain, inputs):
    fast = accelerated(plain)
    features = encode(fast, inputs)
    earlier, _ = (prefill(fast, inputs, features, OPTIONS) for _ in range(2))
    with pytest.raises(StageError, match="the static cache of its own prompt, got that of a later prefill"):
        decode(fast, earlier)


@pytest.fixture
def keeps_one(plain, monkeypatch):
    """A model whose backend keeps one static cache."""
    monkeypatch.setattr(graph, "KEPT", 1)
    return accelerated(plain)


LONGER = OPTIONS | {"max_new_tokens": 200}  # needs a longer cache


def test_the_cache_unused_for_longest_is_freed(keeps_one, inputs):
    features = encode(keeps_one, inputs)
    cache = weakref.ref(cache_of(prefill(keeps_one, inputs, features, OPTIONS).state))
    kept = cache() is not None
    prefill(keeps_one, inputs, features, LONGER)
    gc.collect()
    assert (kept, cache()) == (True, None)


def test_a_cache_in_use_is_not_the_one_that_is_freed(plain, inputs, monkeypatch):
    monkeypatch.setattr(graph, "KEPT", 2)
    fast = accelerated(plain)
    features = encode(fast, inputs)
    for options in (OPTIONS, LONGER, OPTIONS, OPTIONS | {"max_new_tokens": 400}):
        prefill(fast, inputs, features, options)
    before = fast.setups
    prefill(fast, inputs, features, OPTIONS)
    assert fast.setups == before


def test_what_was_set_up_and_replayed_stays_counted_when_it_is_freed(keeps_one, inputs):
    features = encode(keeps_one, inputs)
    decode(keeps_one, prefill(keeps_one, inputs, features, OPTIONS))
    for captured in keeps_one.backend.setups:
        captured.work["calls"] = 1  # a CPU replays nothing
    prefill(keeps_one, inputs, features, LONGER)
    assert (keeps_one.setups, keeps_one.backend.replayed()["calls"]) == (5, 1 + 1 + 5)


def test_a_prompt_whose_cache_was_freed_is_refused(keeps_one, inputs):
    features = encode(keeps_one, inputs)
    earlier, _ = (prefill(keeps_one, inputs, features, options) for options in (OPTIONS, LONGER))
    with pytest.raises(StageError, match="the static cache of its own prompt, got that of a later prefill"):
        decode(keeps_one, earlier)


def test_a_shape_whose_cache_was_freed_is_set_up_anew(keeps_one, plain, inputs):
    for options in (OPTIONS, LONGER):
        staged_generate(keeps_one, inputs, options)
    assert reference_generate(plain, inputs, OPTIONS).tolist() == rows(staged_generate(keeps_one, inputs, OPTIONS))


def test_features_are_not_overwritten_by_the_next_encode(plain, inputs):
    fast = accelerated(plain)
    first = encode(fast, inputs).tokens
    encode(fast, replace(inputs, given={"pixel_values": inputs.pixels[0] * 2}))
    assert torch.equal(encode(plain, inputs).tokens, first)


def as_keywords(hf_model, options, monkeypatch):
    return options


def as_object(hf_model, options, monkeypatch):
    return {"generation_config": GenerationConfig(**options)}


def as_the_models_own(hf_model, options, monkeypatch):
    for name, option in options.items():
        monkeypatch.setattr(hf_model.generation_config, name, option)
    return {}


GIVEN = pytest.mark.parametrize("given", [as_keywords, as_object, as_the_models_own])


@GIVEN
@pytest.mark.parametrize("limit", [{"max_new_tokens": 7}, {"max_length": 593}])
def test_a_limit_holds_wherever_it_is_given(plain, inputs, monkeypatch, given, limit):
    options = given(plain.hf_model, limit | {"do_sample": True, "top_k": 5, "eos_token_id": None}, monkeypatch)
    torch.manual_seed(0)
    expected = reference_generate(plain, inputs, options).tolist()
    torch.manual_seed(0)
    written = rows(staged_generate(accelerated(plain), inputs, options))
    assert (expected, 7) == (written, len(written[0]))


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`:UserWarning")
def test_without_a_limit_there_are_as_many_tokens_as_in_generate(plain, inputs):
    options = {"do_sample": False, "eos_token_id": None}
    assert reference_generate(plain, inputs, options).tolist() == rows(
        staged_generate(accelerated(plain), inputs, options)
    )


@GIVEN
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_implementation": "sliding_window"}, "the backend graph has a static cache, got sliding_window"),
        (
            {"cache_implementation": "quantized"},
            "cache_implementation can't be split, got 'quantized': it must be one of dynamic, static, sliding_window, "
            "hybrid, hybrid_chunked",
        ),
        ({"prefill_chunk_size": 8}, "the backend graph prefills at once, got prefill_chunk_size=8"),
        (
            {"num_return_sequences": 2, "do_sample": True},
            "the backend graph gives one text per prompt, got num_return_sequences=2",
        ),
        ({"num_beams": 2}, "only greedy search and sampling can be split into stages, got beam_search"),
        (
            {"prompt_lookup_num_tokens": 2},
            "only greedy search and sampling can be split into stages, got assisted_generation",
        ),
        ({"max_new_tokens": 3511}, "prompt and new tokens must fit the model's 4096 positions, got 4097"),
        (
            {"max_length": 586, "max_new_tokens": None},
            "max_length must leave room after the prompt's 586 tokens, got 586",
        ),
    ],
)
def test_what_a_backend_cannot_serve_is_refused_before_anything_is_set_up(
    plain, inputs, monkeypatch, given, options, message
):
    fast = accelerated(plain)
    with pytest.raises(StageError, match=f"^{re.escape(message)}$"):
        prefill(fast, inputs, encode(plain, inputs), given(plain.hf_model, OPTIONS | options, monkeypatch))
    assert fast.backend.setups == []


def test_a_limit_that_generate_sees_otherwise_than_the_backend_is_refused(plain, inputs, monkeypatch):
    monkeypatch.setattr(plain.hf_model.generation_config, "max_new_tokens", 9)
    options = {"max_new_tokens": None, "max_length": 666, "do_sample": False}
    with pytest.raises(StageError, match=r"^the backend has room for 595 tokens, got 666 from generate\(\)$"):
        prefill(accelerated(plain), inputs, encode(plain, inputs), options)


@pytest.mark.parametrize("name", ["position_ids", "max_new_token"])
def test_an_argument_for_the_model_is_refused_before_anything_is_set_up(plain, inputs, name):
    fast = accelerated(plain)
    with pytest.raises(StageError, match=f"^{name} can't be split: the stages take only options of generation"):
        prefill(fast, inputs, encode(plain, inputs), OPTIONS | {name: 1})
    assert fast.backend.setups == []


def test_a_padded_batch_is_refused_before_anything_is_set_up(plain, inputs):
    fast = accelerated(plain)
    mask = inputs.attention_mask.clone()
    mask[0, 0] = 0
    with pytest.raises(StageError, match="takes batches of prompts of one length, got a padded one"):
        prefill(fast, replace(inputs, attention_mask=mask), encode(plain, inputs), OPTIONS)
    assert fast.backend.setups == []


def test_a_static_cache_that_is_asked_for_is_the_backends_own(plain, inputs, monkeypatch):
    allocated = []
    monkeypatch.setattr(StaticLayer, "lazy_initialization", watched(StaticLayer.lazy_initialization, allocated))
    staged_generate(accelerated(plain), inputs, OPTIONS | {"cache_implementation": "static"})
    assert len(allocated) == plain.hf_model.config.num_hidden_layers


@pytest.mark.parametrize("name", RECIPES)
def test_a_backend_that_the_device_does_not_have_is_refused(plain, name):
    with pytest.raises(ModelError, match=f"the backend {name} needs a CUDA device, got cpu"):
        with_backend(plain, name)


def test_eager_is_no_backend(plain):
    assert with_backend(accelerated(plain), "eager").backend is None


def test_every_backend_has_a_recipe():
    assert ("eager", *RECIPES) == BACKENDS


def verified(fast, sample, options=OPTIONS):
    return verify(fast, count_reference(fast, sample, options))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", sorted(DEFAULT_MODELS))
def test_a_backend_is_proven_against_generate_to_the_last_flop(synthetic, name, attention):
    fast = accelerated(build_model(name, ModelSettings(attention=attention)))
    proof = verified(fast, Sample(synthetic.shown("own", fast.input_kind)))
    assert (proof.tokens.verdict, proof.work["decode"]["language_model_forwards"]) == ("equal", 5)
    assert sum(work["flops"] for work in proof.work.values()) > proof.reference_work["flops"]


def test_a_backend_that_takes_steps_in_vain_is_proven_too(plain, sample):
    first = verified(accelerated(plain), sample).generation.token_ids[0]
    options = {"max_new_tokens": 12, "eos_token_id": [first[1]], "do_sample": False}
    generation = verified(accelerated(plain), sample, options).generation
    assert (generation.steps, generation.wasted_steps) == (1, LAG - 1)


def test_generate_is_counted_once_for_all_backends(plain, counted, monkeypatch):
    monkeypatch.setattr(verify_module, "reference_generate", lambda *_: 1 / 0)
    for model in (plain, accelerated(plain)):
        verify(model, counted)


@pytest.mark.parametrize(("exact", "accepted"), [(True, False), (False, True)])
def test_a_near_tie_is_a_text_for_a_backend_with_kernels_of_its_own_only(plain, counted, exact, accepted, monkeypatch):
    recipe = Recipe() if exact else Recipe(fused=True)
    fast = replace(plain, backend=GraphBackend(plain, "graph" if exact else "fused", None, recipe))
    monkeypatch.setattr(GraphBackend, "fused_step", lambda *_: None)  # the plain one, in its place
    monkeypatch.setattr(verify_module, "match_tokens", lambda *_: TokenMatch("near-tie", 2, 1.0))
    with nullcontext() if accepted else pytest.raises(StageError, match="got another token 2"):
        assert verify(fast, counted).tokens.verdict == "near-tie"


def test_a_near_tie_may_end_a_text_earlier(plain, sample, monkeypatch):
    fast = replace(plain, backend=GraphBackend(plain, "fused", None, Recipe(fused=True)))
    monkeypatch.setattr(GraphBackend, "fused_step", lambda *_: None)
    reference = count_reference(plain, sample, {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False})
    shorter = replace(reference, options=reference.options | {"min_new_tokens": 4, "eos_token_id": reference.tokens[4]})
    steps = reference.steps  # of the text that `generate()` is taken to have written
    monkeypatch.setattr(Reference, "steps", lambda _, slots: steps(slots))
    monkeypatch.setattr(verify_module, "match_tokens", lambda *_: TokenMatch("near-tie", 5, 1.0))
    assert len(verify(fast, shorter).generation.token_ids[0]) < 9


@pytest.mark.parametrize("limit", ["max_length", "generation_config"])
def test_a_limit_of_any_kind_can_be_proven(plain, sample, counted, limit):
    prompt = counted.inputs.input_ids.shape[1]
    given = {"max_length": prompt + 4} if limit == "max_length" else {limit: GenerationConfig(max_new_tokens=4)}
    assert verified(accelerated(plain), sample, given).tokens.verdict == "equal"


def test_a_backend_that_gives_other_tokens_is_refused(plain, counted):
    fast = accelerated(plain)
    fast.backend.encode = lambda inputs: -plain.encode(inputs)
    with pytest.raises(StageError, match=r"the stages must give the tokens of generate\(\), got another token 0"):
        verify(fast, counted)


def test_a_backend_that_runs_the_tower_twice_is_refused(plain, counted):
    fast = accelerated(plain)
    once = fast.backend.encode
    fast.backend.encode = lambda inputs: (once(inputs), once(inputs))[1]
    with pytest.raises(StageError, match="got tower_forwards 2, not 1; projector_forwards 2, not 1; images_encoded 10"):
        verify(fast, counted)


def twice_unseen(module, monkeypatch):
    """Let a module do all of its work twice, with no further forward that a hook would see."""
    once = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: (once(*args, **kwargs), once(*args, **kwargs))[1])


@pytest.mark.parametrize("part", ["tower", "projector"])
def test_a_backend_that_encodes_twice_unseen_is_refused_by_its_flops(plain, counted, part, monkeypatch):
    fast = accelerated(plain)
    twice_unseen(plain.counted_modules[part], monkeypatch)
    with pytest.raises(StageError, match=r"the work of generate\(\), got flops \d+, not \d+$"):
        verify(fast, counted)


def test_a_backend_that_decodes_every_step_twice_is_refused(plain, sample, monkeypatch):
    once = graph.step_logits

    def twice(hf_model, cache, tokens):
        length = cache.layers[0].cumulative_length.clone()
        once(hf_model, cache, tokens)
        set_length(cache, length)
        return once(hf_model, cache, tokens)

    monkeypatch.setattr(graph, "step_logits", twice)
    with pytest.raises(StageError, match="once per step, got 10 times in 5 steps"):
        verified(accelerated(plain), sample)


def test_a_backend_that_decodes_one_layer_twice_unseen_is_refused_by_its_flops(plain, counted, monkeypatch):
    fast = accelerated(plain)
    mlp = plain.hf_model.get_decoder().layers[0].mlp
    once = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: once(x) if x.shape[1] > 1 else (once(x), once(x))[1])
    with pytest.raises(StageError, match=r"the work of generate\(\), got flops \d+, not \d+$"):
        verify(fast, counted)


def test_a_prompt_padded_further_than_it_says_is_refused_by_its_flops(plain, counted, monkeypatch):
    fast = replace(plain, backend=GraphBackend(plain, "graph", None, Recipe(bucket=1)))
    once = graph.prompt_logits

    def wasteful(hf_model, cache, embeds, length):
        return once(hf_model, cache, torch.nn.functional.pad(embeds, (0, 0, 0, 10)), length)

    monkeypatch.setattr(graph, "prompt_logits", wasteful)
    with pytest.raises(StageError, match=r"the work of generate\(\), got flops \d+, not \d+$"):
        verify(fast, counted)


def test_a_backend_that_sets_something_up_in_every_pass_is_refused(plain, sample):
    fast = accelerated(plain)
    once = fast.backend.encode
    fast.backend.encode = lambda inputs: (once(inputs), fast.backend.setups.append(None))[0]
    with pytest.raises(StageError, match="a later pass of an input must set nothing up"):
        timed_pass(fast, sample, OPTIONS)
