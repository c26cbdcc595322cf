"""What `--stage-scale` times is what plain `generate()` makes of the batch; what it leaves out is impossible."""

from dataclasses import replace

import pytest
import torch
from batch_inputs import generated, impossible, require_features, require_rows, stretched

from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.core.artifacts import Features, Sample
from stagebench.core.errors import StageError
from stagebench.pipeline.decode import decode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import prepared

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
ROWS, CONTEXT = 3, 640


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tiny_model("llava-1.5")


@pytest.fixture(scope="module")
def inputs(plain, synthetic):
    return prepared(plain, Sample(synthetic.video))


@pytest.fixture(scope="module")
def batch(plain, inputs):
    return stretched(plain, inputs, ROWS, CONTEXT)


@pytest.fixture(scope="module")
def expected(plain, batch):
    return generated(plain, *batch, OPTIONS)


def run_by(plain, name="graph"):
    return replace(plain, backend=GraphBackend(plain, name, None, RECIPES[name]))


def staged(model, batch):
    return decode(model, prefill(model, *batch, OPTIONS))


@pytest.mark.parametrize("model_of", [lambda plain: plain, run_by], ids=["plain", "graph"])
def test_a_batch_of_the_stages_is_that_of_generate(plain, batch, expected, model_of):
    model = model_of(plain)
    generation = staged(model, batch)
    require_rows(model, generation, expected)
    assert [list(row) for row in generation.token_ids] == [row for row, _ in expected]


def test_a_model_that_embeds_its_prompt_itself_is_left_out(tiny_model, inputs):
    reason = "only the processor of qwen2.5-vl knows which inputs belong to more images and to a longer prompt"
    assert impossible(tiny_model("qwen2.5-vl"), inputs, 1, 640, OPTIONS) == reason


def test_rows_that_stop_early_are_compared_with_the_padding(plain, batch, expected):
    options = {"max_new_tokens": 12, "eos_token_id": [expected[0][0][2]], "do_sample": False}
    rows = generated(plain, *batch, options)
    generation = decode(plain, prefill(plain, *batch, options))
    padded = [([*row, plain.hf_model.generation_config.pad_token_id], logits) for row, logits in rows]
    assert generation.steps < 11
    require_rows(plain, generation, padded)


@pytest.mark.parametrize("row", range(ROWS))
def test_another_token_in_any_row_is_refused(plain, batch, expected, row):
    generation = staged(plain, batch)
    rows = [list(tokens) for tokens in generation.token_ids]
    rows[row][4] += 1
    with pytest.raises(StageError, match=r"the tokens of generate\(\), got another token 4"):
        require_rows(plain, replace(generation, token_ids=tuple(map(tuple, rows))), expected)


def test_a_batch_that_lacks_a_row_is_refused(plain, batch, expected):
    generation = staged(plain, batch)
    with pytest.raises(ValueError, match="shorter"):
        require_rows(plain, replace(generation, token_ids=generation.token_ids[1:]), expected)


def test_equal_rows_of_which_generate_makes_different_texts_are_refused(plain, batch, expected):
    other = [(expected[0][0], expected[0][1]), ([token + 1 for token in expected[1][0]], expected[1][1])]
    generation = staged(plain, batch)
    both = replace(generation, token_ids=(generation.token_ids[0], tuple(other[1][0])))
    with pytest.raises(StageError, match="equal rows must give equal tokens, got another token 0"):
        require_rows(plain, both, other)


@pytest.mark.parametrize(
    ("backend", "rows", "context", "reason"),
    [
        ("graph", 8, 2112, None),
        ("fused", 1, 2112, None),
        ("fused", 4, 640, "the step of the backend fused is of one row, not of 4"),
        ("graph", 1, 589, "the prompt of llava-1.5 has 590 tokens, more than 589"),
        ("graph", 1, 4090, None),
        ("graph", 1, 4091, "llava-1.5 has 4096 positions, fewer than 4091 + 6"),
    ],
)
def test_what_cannot_be_is_known_beforehand(plain, inputs, backend, rows, context, reason):
    assert impossible(run_by(plain, backend), inputs, rows, context, OPTIONS) == reason


def features(noise):
    tokens = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    return Features(tokens * (1 + noise))


@pytest.mark.parametrize(("backend", "noise"), [("graph", 0), ("fused", 0), ("fused", 5e-7)])
def test_features_of_the_plain_code_but_for_the_rounding_of_other_kernels_are_taken(plain, backend, noise):
    require_features(run_by(plain, backend), features(noise), features(0))


@pytest.mark.parametrize(
    ("backend", "noise"), [("graph", 5e-7), ("fused", 2e-6), ("fused", -2), ("fused", float("nan"))]
)
def test_other_features_are_refused(plain, backend, noise):
    with pytest.raises(StageError, match=r"features must be within \S+ of the plain code's, got a distance of"):
        require_features(run_by(plain, backend), features(noise), features(0))
