"""Results of other tools: real files of each, cut to what a reader may need, and what is wrong with them in many ways.

Each file was written by the tool itself, on a CPU: `vllm bench latency`, `throughput` and `mm-processor` 0.32.0 with a
tiny LLaVA, llama-bench b11434 with a tiny model, bench_one_batch of SGLang 0.5.23 around a model that only waits, and
the clients (vllm 0.32.0, SGLang 0.5.23, AIPerf 0.13.0, GuideLLM 0.8.1) against a server that waits 50 ms for the first
of 4 tokens and 10 ms for each further one. AIPerf's and GuideLLM's are cut: percentiles, single requests and settings.
"""

import json
import math
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from mutations import mutants

from stagebench.analysis.importers.read import read_files
from stagebench.cli import main
from stagebench.core import json_files
from stagebench.core.errors import AnalysisError, StagebenchError

FILES = Path(__file__).parent / "fixtures" / "other_tools"
ALL = sorted(path.name for path in FILES.iterdir())


@cache
def text(name):
    return (FILES / name).read_text(encoding="utf-8")


def content(name):
    return [json.loads(line) for line in text(name).splitlines()] if name.endswith("l") else json.loads(text(name))


def replaced(data, path, value):
    """A copy with another value at a path."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


@pytest.fixture
def read(tmp_path):
    """Reads data, or a text, from a file of a name that says nothing of the tool."""

    def from_file(data, name="numbers.json"):
        written = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / name).write_text(written, encoding="utf-8")
        return read_files([tmp_path / name])

    return from_file


@pytest.mark.parametrize(
    ("name", "model", "parts", "tokens", "decode", "tool"),
    [
        # the mean of its latencies, 82.6584190, 83.0446610 and 83.1843490 ms, less ttft
        ("vllm_serve.json", "tiny", {"ttft": 51.574630}, 4, 31.387847, "vllm bench serve"),
        # the mean of the sums of its gaps: 33.795970, 35.564085 and 33.478989 ms
        ("vllm_serve_detailed.json", "tiny", {"ttft": 51.586988}, 4, 34.279681, "vllm bench serve"),
        ("vllm_latency.json", "llava", {"batch latency": 13.303731}, None, 0, "vllm bench latency"),
        # 33.760047 ms over 3 requests
        ("vllm_throughput.json", "llava", {"time per request": 11.253349}, None, 0, "vllm bench throughput"),
        (
            "vllm_mm_processor.json",
            "llava",
            # 389.758565 ms of latency less the two others
            {"preprocess": 2.187329, "encode": 44.658823, "unattributed": 342.912413},
            None,
            0,
            "vllm bench mm-processor",
        ),
        # 84.762833 less 52.861410 ms; no model is named
        ("sglang_serving.jsonl", "numbers.jsonl", {"ttft": 52.861410}, 4, 31.901422, "SGLang bench_serving 0.5.23"),
        # 35.571385 less 20.173926 ms
        (
            "sglang_one_batch.jsonl",
            "default batch 1, 32 + 4 tokens",
            {"prefill": 20.173926},
            4,
            15.397459,
            "SGLang bench_one_batch",
        ),
        # 86.039839 less 54.281142 ms
        ("aiperf.json", "tiny", {"ttft": 54.281142}, 4, 31.758697, "AIPerf 0.13.0"),
        # 83.131711 less 51.651637 ms
        ("guidellm.json", "tiny synchronous", {"ttft": 51.651637}, 4, 31.480074, "GuideLLM 0.8.1"),
        # 8 steps after the prompt's token
        ("llama_bench.json", "tiny.gguf", {"prefill": 0.472070}, 9, 0.334970, "llama-bench 11434"),
    ],
)
def test_a_file_of_each_tool_gives_the_numbers_computed_by_hand(read, name, model, parts, tokens, decode, tool):
    suffix = name.partition(".")[2]
    measured = read(text(name), f"numbers.{suffix}")
    costs = measured.costs[model]
    assert {part: 1e3 * seconds for part, seconds in costs.parts.items()} == pytest.approx(parts, abs=1e-6)
    assert (costs.tokens, 1e3 * costs.decode) == (tokens, pytest.approx(decode, abs=1e-6))
    assert measured.tools[model] == tool


def test_warnings_say_what_a_file_can_not_tell(read):
    found = [read(text(name), name).warnings for name in ("vllm_throughput.json", "vllm_mm_processor.json")]
    assert found == [
        ["vllm_throughput.json: llava: 3 requests ran together, so their share of the time is no request's latency"],
        [
            "vllm_mm_processor.json: llava: "
            "3 requests were sent at once: their latency includes waiting, and encode is a batch's"
        ],
    ]


@pytest.mark.parametrize(
    ("name", "path", "field"),
    [
        ("aiperf.json", ("time_to_first_token",), None),
        ("guidellm.json", ("benchmarks", 0, "metrics", "time_to_first_token_ms", "successful", "mean"), 0.0),
    ],
)
def test_a_run_without_streaming_has_no_first_token_rather_than_one_at_0(read, name, path, field):
    """GuideLLM's mean over no value is 0; AIPerf leaves the metric out."""
    measured = read(replaced(content(name), path, field))
    (costs,) = measured.costs.values()
    assert (costs.parts, costs.prefilled) == ({}, 0)
    assert any("the time to first token is missing" in warning for warning in measured.warnings)


@pytest.mark.parametrize(
    ("stats", "parts"),
    [
        ({"preprocessor_total_ms": {"mean": 2.0}}, {"preprocess": 0.002, "unattributed": 0.387758565}),
        ({"total_time": {"mean": 2.0}}, {"unattributed": 0.389758565}),  # vllm 0.14
        ({}, {"unattributed": 0.389758565}),
    ],
)
def test_a_stage_that_vllm_did_not_time_is_absent(read, stats, parts):
    data = content("vllm_mm_processor.json") | {"mm_processor_stats": stats}
    assert read(data).costs["llava"].parts == pytest.approx(parts)


def test_files_of_earlier_versions_are_read(read):
    """AIPerf 0.3 has no version and another place of the model; GuideLLM 0.3 has no metadata and other places too."""
    aiperf = content("aiperf.json") | {"input_config": {"endpoint": {"model_names": ["old"]}}}
    measured = read({key: value for key, value in aiperf.items() if key != "aiperf_version"})
    assert measured.tools == {"old": "AIPerf or GenAI-Perf"}
    (benchmark,) = content("guidellm.json")["benchmarks"]
    totals = benchmark["metrics"].pop("request_totals") | {"errored": 2}
    earlier = {"request_totals": totals, "worker": {"backend_model": "old"}, "metrics": benchmark["metrics"]}
    measured = read({"benchmarks": [earlier]})
    assert (measured.tools, measured.warnings) == ({"old": "GuideLLM"}, ["numbers.json: old: 2 requests failed"])


def test_a_version_that_the_file_does_not_have_is_not_made_up(read):
    tests = [test | {"build_number": 0, "build_commit": "unknown"} for test in content("llama_bench.json")]
    without = [
        content("aiperf.json") | {"aiperf_version": None},
        replaced(content("guidellm.json"), ("metadata",), {}),
        tests,
    ]
    assert [list(read(data).tools.values()) for data in without] == [
        ["AIPerf or GenAI-Perf"],
        ["GuideLLM"],
        ["llama-bench"],
    ]


def test_an_interrupted_run_is_warned_of(read):
    assert (
        "numbers.json: tiny: the run was ended before its time"
        in read(content("aiperf.json") | {"was_cancelled": True}).warnings
    )


def llama(**changes):
    """Tests of llama-bench like those of the file, the first one changed."""
    first, *others = content("llama_bench.json")
    return [first | changes, *others]


@pytest.mark.parametrize(
    ("tests", "models"),
    [
        (llama(), {"tiny.gguf": 9}),
        (llama()[:1], {"tiny.gguf pp32": 1}),
        (llama()[1:], {"tiny.gguf tg8": 8}),
        ([*llama(), *llama(n_gen=8)[:1]], {"tiny.gguf": 9, "tiny.gguf pp32+tg8": 9}),
        ([*llama(), *llama(n_prompt=64)[:1]], {"tiny.gguf pp32": 1, "tiny.gguf tg8": 8, "tiny.gguf pp64": 1}),
        (
            [*llama(), *(test | {"n_threads": 2} for test in llama())],
            {"tiny.gguf, n_threads 1": 9, "tiny.gguf, n_threads 2": 9},
        ),
        ([test | {"model_filename": "C:\\models\\a.gguf"} for test in llama()], {"a.gguf": 9}),
    ],
)
def test_tests_of_llama_bench_of_the_same_settings_are_one_request(read, tests, models):
    assert {name: costs.tokens for name, costs in read(tests).costs.items()} == models
    lines = "".join(json.dumps(test) + "\n" for test in tests)
    assert {name: costs.tokens for name, costs in read(lines, "numbers.jsonl").costs.items()} == models


def test_a_run_that_was_appended_to_the_same_file_keeps_its_own_name(read):
    assert list(read(content("sglang_one_batch.jsonl")[:1] * 2).costs) == [
        "default batch 1, 32 + 4 tokens (result 1)",
        "default batch 1, 32 + 4 tokens (result 2)",
    ]


def test_benchmarks_of_one_guidellm_report_are_named_after_their_load(read):
    data = content("guidellm.json")
    strategies = {"type_": "concurrent", "streams": 4}, {"type_": "constant", "rate": 2.5}
    (benchmark,) = data["benchmarks"]
    found = [replaced(benchmark, ("config", "strategy"), each) for each in strategies]
    assert list(read(data | {"benchmarks": found}).costs) == ["tiny concurrent 4", "tiny constant 2.5"]


def test_the_page_names_every_tool_with_the_version_that_the_files_are_of():
    page = (Path(__file__).parents[1] / "docs" / "guides" / "importing.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.count("|") == 6][2:]
    tools = {tool for name in ALL for tool in read_files([FILES / name]).tools.values()}
    assert len(rows) == len(tools)
    assert [tool for tool in tools if not any(all(word in row for word in tool.split()) for row in rows)] == []


def explain(*paths, options=()):
    return CliRunner().invoke(main, ["explain", *map(str, paths), *options])


def test_explain_compares_two_clients_and_says_which_tool_gave_the_numbers():
    result = explain(FILES / "aiperf.json", FILES / "guidellm.json", options=["--json=-"])
    numbers = json.loads(result.stdout)
    assert numbers["tools"] == {"tiny": "AIPerf 0.13.0", "tiny synchronous": "GuideLLM 0.8.1"}
    assert numbers["attributions"][0]["seconds"]["ttft"] == pytest.approx(0.054281142 - 0.051651637, abs=1e-9)
    assert "tiny is a result of AIPerf 0.13.0.\n" in explain(FILES / "aiperf.json", FILES / "guidellm.json").stdout


def test_times_without_a_number_of_tokens_are_explained_without_one(read, tmp_path):
    slower = content("vllm_latency.json") | {"model_id": "b", "avg_latency": 0.026607462}
    (tmp_path / "slower.json").write_text(json.dumps(slower))
    lines = explain(FILES / "vllm_latency.json", tmp_path / "slower.json").stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["batch", "latency,"], ["total,", "ms"]]
    assert "Batch latency explains 13.304 of the 13.304 ms saved (100.0 %)." in lines


def test_a_latency_and_a_share_of_a_run_are_not_compared():
    result = explain(FILES / "vllm_latency.json", FILES / "vllm_throughput.json")
    assert (result.exit_code, result.stderr) == (
        2,
        "stagebench: llava (vllm_latency.json) and llava (vllm_throughput.json) must have the same parts, got "
        "batch latency, time per request for one of them only\n",
    )


TIMES = {
    "vllm_serve.json": ("mean_ttft_ms",),
    "vllm_serve_detailed.json": ("ttfts", 0),
    "vllm_latency.json": ("avg_latency",),
    "vllm_throughput.json": ("elapsed_time",),
    "vllm_mm_processor.json": ("mm_processor_stats", "encoder_forward_ms", "mean"),
    "sglang_serving.jsonl": (0, "mean_ttft_ms"),
    "sglang_one_batch.jsonl": (1, "prefill_latency"),
    "aiperf.json": ("request_latency", "avg"),
    "guidellm.json": ("benchmarks", 0, "metrics", "request_latency", "successful", "mean"),
    "llama_bench.json": (0, "avg_ns"),
}
"""A time in each file."""


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "fast", -1.0, True, [], {}])
@pytest.mark.parametrize("name", ALL)
def test_a_time_that_is_none_is_refused_in_one_line(tmp_path, name, wrong):
    data = replaced(content(name), TIMES[name], wrong)
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, data)) if name.endswith("l") else json.dumps(data))
    result = explain(path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "two models are needed" not in result.stderr


@pytest.mark.parametrize("name", ALL)
def test_a_truncated_file_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_text(text(name)[: len(text(name)) // 3])
    result = explain(tmp_path / name)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "JSON" in result.stderr


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            {"metadata": {}, "metrics": {"request_latency": {"value": 91.9, "unit": "ms"}}},
            "got other keys, or a mixture",
        ),
        ("build_commit,n_prompt,n_gen,avg_ns\n", "must be JSON, got: Expecting value"),
        ([], "must be of the format table, .*, llama-bench, aiperf, samples, got other keys"),
        (
            [content("vllm_serve.json"), *content("llama_bench.json")],
            "must be of the format .*, or a mixture of formats",
        ),
        (content("guidellm.json") | {"benchmarks": []}, "benchmarks must be a list of objects, got an empty one"),
        (content("guidellm.json") | {"benchmarks": None}, "benchmarks must be a list of objects, got NoneType"),
        (
            content("vllm_throughput.json") | {"num_requests": 0},
            "num_requests must be a whole number of at least 1, got 0",
        ),
        (content("vllm_mm_processor.json") | {"completed": 0}, "completed must be a whole number of at least 1, got 0"),
        (
            replaced(content("vllm_mm_processor.json"), ("mm_processor_stats", "encoder_forward_ms"), {"mean": "9"}),
            "mm_processor_stats: encoder_forward_ms: mean must be a finite number, got '9'",
        ),
        (
            content("sglang_one_batch.jsonl")[0] | {"output_len": 4.5},
            "output_len must be a whole number of at least 1, got 4.5",
        ),
        (
            content("sglang_one_batch.jsonl")[0] | {"total_latency": 0.01},
            "decode must be at least 0 s and finite, got -0.01",
        ),
        (llama(n_prompt=0), "result 1 must have a prompt or new tokens, got neither"),
        (content("aiperf.json") | {"output_sequence_length": None}, "must have output_sequence_length.avg, got none"),
        (
            replaced(content("aiperf.json"), ("request_latency", "unit"), "us"),
            "request_latency must be in ms, got 'us'",
        ),
        (
            replaced(content("aiperf.json"), ("request_count", "avg"), 0),
            "at least one request must have completed, got 0",
        ),
    ],
)
def test_what_a_result_can_not_say_is_refused(read, data, complaint):
    with pytest.raises(AnalysisError, match=complaint):
        read(data)


def test_lines_of_several_tools_are_refused(read):
    lines = text("sglang_serving.jsonl") + text("sglang_one_batch.jsonl")
    with pytest.raises(AnalysisError, match=r"must be of the format .*, or a mixture of formats"):
        read(lines, "numbers.jsonl")


@pytest.mark.parametrize("name", ["numbers.json", "numbers.jsonl"])
def test_a_file_larger_than_any_result_is_refused(read, monkeypatch, name):
    monkeypatch.setattr(json_files, "LARGEST", 1000)
    with pytest.raises(AnalysisError, match="more than 1,000 bytes"):
        read(text("aiperf.json"), name)


@pytest.mark.parametrize("name", ALL)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    for mutant in mutants(content(name), name, 60):
        (tmp_path / "numbers.json").write_bytes(mutant)
        try:
            assert all(costs.total > 0 for costs in read_files([tmp_path / "numbers.json"]).costs.values())
        except StagebenchError as error:
            assert "\n" not in str(error)  # noqa: PT017 # most are read
