"""A model spread over two processes on the CPU is the model, and is really spread."""

import json
import math

import pytest
import torch
import watched_ranks
from click.testing import CliRunner
from transformers import LlamaConfig

from stagebench.backends.tensor_parallel import Pass, certify, require_devices, require_even_heads, slowest, spread
from stagebench.cli import main
from stagebench.core.artifacts import Sample
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import DEFAULT_MODELS, GenerationSettings, ModelSettings
from stagebench.core.stages import IN_GENERATE
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models.assembly import random_model
from stagebench.models.eventgpt import EventGPT
from stagebench.models.registry import build_model
from stagebench.pipeline.run_stages import prepared, reference_generate
from stagebench.suite import measure

TOKENS = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`stagebench run` on two processes: what it printed, what it wrote, and what each rank saw."""
    seen, out = tmp_path_factory.mktemp("seen"), tmp_path_factory.mktemp("numbers") / "out.json"
    options = ("--device=cpu", "--profile=tiny-random", f"--new-tokens={TOKENS}", "--passes=1", f"--json={out}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "SEEN": str(seen)}.items():
            patch.setenv(name, value)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(measure, "on_each_rank", watched_ranks.watched)
        result = CliRunner().invoke(main, ["run", "--tensor-parallel", "2", *options])
    assert result.exit_code == 0, result.output
    ranks = [json.loads((seen / f"{rank}.json").read_text()) for rank in (0, 1)]
    return result.stdout, json.loads(out.read_text()), ranks


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Tokens of plain `generate()` by model, in this process; EventGPT's vocabulary is the worker's."""
    synthetic = write_synthetic_clip(tmp_path_factory.mktemp("scene"))
    options = GenerationSettings(TOKENS, True).options()
    odd = EventGPT.random_config("tiny")
    odd.vocab_size = 515
    tokens = {}
    for name in DEFAULT_MODELS:
        settings = ModelSettings()
        model = random_model(EventGPT, odd, settings) if name == "eventgpt" else build_model(name, settings)
        inputs = prepared(model, Sample(synthetic.shown("own", model.input_kind)))
        tokens[name] = reference_generate(model, inputs, options)[0].tolist()
    return tokens


def test_every_rank_gives_the_tokens_of_generate(run, expected):
    _, _, ranks = run
    for of_model in ranks[0]:
        tokens = expected[of_model["model"]]
        assert of_model["passes"] == [[1, tokens], [2, tokens]] * 2
    assert [of_model["passes"] for of_model in ranks[1]] == [[[2, expected[name]]] * 2 for name in DEFAULT_MODELS]


def test_each_rank_holds_half_of_the_language_models_matrices(run):
    _, _, ranks = run
    for of_rank in ranks:
        assert [of_model["queries"] for of_model in of_rank] == [[[64, 64], [32, 64]]] * len(DEFAULT_MODELS)
        assert all(0.5 < of_model["share"] < 0.85 for of_model in of_rank)  # the encoder is whole, and wide in tiny


def test_there_is_a_row_for_each_stage_and_number_of_processes(run):
    printed, written, _ = run
    assert printed.count("a process holds") == len(DEFAULT_MODELS)
    rows, checks = written["rows"], written["checks"]
    cells = [(name, stage, processes) for name in DEFAULT_MODELS for stage in IN_GENERATE for processes in (1, 2)]
    assert [(row["model"], row["stage"], row["tp"]) for row in rows] == cells
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
    assert [check["tokens"] for check in checks] == [{"1": "equal", "2": "equal"}] * len(DEFAULT_MODELS)
    assert written["identity"]["collectives"] == "2 processes, gloo"


@pytest.mark.parametrize("option", ["--natural-length", "--tensor-parallel=1"])
def test_what_can_not_be_spread_is_refused(option):
    result = CliRunner().invoke(main, ["run", "--device=cpu", "--tensor-parallel=2", option])
    assert result.exit_code == 2


def test_an_error_on_one_rank_is_one_of_ours_and_ends_all():
    with pytest.raises(StageError, match=r"^rank 1 has no room$"):
        spread(2, watched_ranks.refuse_on_rank_1)


@pytest.mark.parametrize(
    ("device", "processes", "message"),
    [("cpu", 2, "runs on cuda here .*, got cpu"), ("cuda", 3, "3 processes and 2 GPUs")],
)
def test_devices_that_transformers_will_not_take_are_refused(monkeypatch, device, processes, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match=message):
        require_devices(device, processes)


@pytest.mark.parametrize("heads", ["num_attention_heads", "num_key_value_heads"])
def test_processes_that_do_not_divide_the_heads_are_refused(heads):
    config = LlamaConfig(hidden_size=96, **{"num_attention_heads": 6, "num_key_value_heads": 6, heads: 2})
    with pytest.raises(ModelError, match=f"^the processes must divide {heads} 2, got 3$"):
        require_even_heads(config, 3)


def test_a_stage_lasts_until_the_slowest_rank_is_done():
    ranks = [Pass(2, (5, 6), {"encode": 1.0, "decode": 4.0}), Pass(2, (5, 6), {"encode": 2.0, "decode": 3.0})]
    assert slowest(ranks) == Pass(2, (5, 6), {"encode": 2.0, "decode": 4.0})


def test_ranks_of_different_tokens_are_refused():
    with pytest.raises(StageError, match="same tokens, got 2 different texts"):
        slowest([Pass(2, (5, 6), {}), Pass(2, (5, 7), {})])


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_a_pass_may_part_from_generate_at_a_near_tie_only(gap):
    logits = [torch.tensor([2.0 + gap, 2.0])]
    passes = [Pass(1, (0,), {}), Pass(2, (1,), {}), Pass(2, (0,), {})]
    if gap:
        with pytest.raises(StageError, match=r"2 processes must give the tokens of generate\(\), got different"):
            certify(passes, (0,), logits)
    else:
        outcomes = certify(passes, (0,), logits)
        assert {n: outcome.verdict for n, outcome in outcomes.items()} == {1: "equal", 2: "near-tie"}
        assert math.isclose(outcomes[2].gap, 0.0)
