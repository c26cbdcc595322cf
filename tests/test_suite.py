"""The benchmark suite as its users run it: in a process of its own, with the synthetic clip and the tiny profile."""

import json

import pytest

from stagebench.core.errors import ResultsError
from stagebench.core.settings import DEFAULT_MODELS
from stagebench.core.stages import STAGE_NAMES
from stagebench.gate import baseline


@pytest.fixture(scope="module")
def suite(tmp_path_factory, suite_command):
    """One run of the whole suite, and the JSON it wrote."""
    folder = tmp_path_factory.mktemp("suite")
    done = suite_command(
        f"--benchmark-json={folder / 'out.json'}", "--benchmark-compare", f"--stage-baselines={folder}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, folder / "out.json"


@pytest.fixture(scope="module")
def benchmarks(suite):
    return {b["name"]: b for b in json.loads(suite[1].read_text())["benchmarks"]}


def stage_info(benchmarks, model):
    return {stage: benchmarks[f"test_stage[{model}-{stage}]"]["extra_info"] for stage in STAGE_NAMES}


def test_every_stage_of_every_model_is_there(benchmarks):
    expected = {f"test_stage[{model}-{stage}]" for model in DEFAULT_MODELS for stage in STAGE_NAMES}
    assert expected == {name for name in benchmarks if name.startswith("test_stage")}


def test_a_backend_that_needs_a_gpu_is_refused_before_anything_is_built(suite_command):
    done = suite_command("--stage-backend=eager,graph")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "backends on a CPU are eager, got graph" in done.stderr


def test_batch_and_context_are_timed_when_asked_for(suite_command):
    done = suite_command(
        "--stage-scale",
        "--stage-model=eventgpt",
        "--stage-profile=tiny-random",
        "--stage-new-tokens=3",
        "-k",
        "batch4 and context640 or images5",
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_no_benchmark_took_no_time(benchmarks):
    assert [name for name, b in benchmarks.items() if b["stats"]["min"] <= 0] == []


@pytest.mark.parametrize("model", sorted(DEFAULT_MODELS))
def test_the_stages_run_the_tower_as_often_as_generate_does(benchmarks, model):
    stages = stage_info(benchmarks, model)
    towers = sum(info["work"]["tower_forwards"] for info in stages.values())
    assert towers == benchmarks[f"test_generate[{model}]"]["extra_info"]["work"]["tower_forwards"] == 1


@pytest.mark.parametrize("model", sorted(DEFAULT_MODELS))
def test_the_new_tokens_are_prefills_first_and_decodes_steps(benchmarks, model):
    work = stage_info(benchmarks, model)["decode"]["work"]
    assert work["new_tokens"] == work["steps"] + 1 == 4


@pytest.mark.parametrize("model", sorted(DEFAULT_MODELS))
def test_decode_reads_its_weights_once_a_step_and_the_positions_written_by_then(benchmarks, model):
    stages = stage_info(benchmarks, model)
    moved, prompt = stages["decode"]["bytes"], stages["prefill"]["work"]["prompt_tokens"]
    assert moved["weights"] > 0 < moved["kv"]
    assert (moved["weights"] % 3, moved["kv"] % sum(prompt + k for k in (1, 2, 3))) == (0, 0)


CONTENT = {
    "load": {"frames"},
    "preprocess": {"pixels", "prompt"},
    "encode": {"features"},
    "prefill": {"tokens"},
    "decode": {"tokens"},
}


@pytest.mark.parametrize("model", sorted(DEFAULT_MODELS))
def test_every_stage_has_a_digest_of_what_it_made_and_the_whole_has_them_all(benchmarks, model):
    content = {stage: info["content"] for stage, info in stage_info(benchmarks, model).items()}
    assert {stage: set(found) for stage, found in content.items()} == CONTENT
    assert benchmarks[f"test_e2e[{model}]"]["extra_info"]["content"] == content


@pytest.mark.parametrize("model", sorted(DEFAULT_MODELS))
def test_all_images_are_encoded(benchmarks, model):
    stages = stage_info(benchmarks, model)
    encoded = {"eventgpt": 5, "llava-1.5": 1, "video-llava": 8}
    assert stages["encode"]["work"]["images_encoded"] == encoded[model]


def test_a_first_run_says_that_there_is_nothing_to_compare_with(suite):
    assert "no baseline yet for this environment, so nothing is compared" in suite[0].stdout


def test_an_accepted_run_is_found_and_compared_with(suite, tmp_path, suite_command):
    baseline.accept(suite[1], tmp_path, "the first one")
    done = suite_command("-k", "llava-1.5 and encode", "--benchmark-compare", f"--stage-baselines={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "comparing with" in done.stdout
    assert "test_stage[llava-1.5-encode] (NOW)" in done.stdout


def test_another_dtype_is_refused_and_named(suite, suite_command):
    done = suite_command("-k", "encode", "--stage-dtype=bfloat16", f"--benchmark-compare={suite[1]}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not comparable with" in done.stderr
    assert "dtype: 'bfloat16' here, 'float32' there" in done.stderr


def test_another_setting_than_the_baselines_is_said_by_name(suite, tmp_path, suite_command):
    baseline.accept(suite[1], tmp_path, "the first one")
    done = suite_command(
        "-k", "no such benchmark", "--stage-dtype=bfloat16", "--benchmark-compare", f"--stage-baselines={tmp_path}"
    )
    assert "differs in dtype: 'bfloat16' here, 'float32' there" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage-model=gpt-9"], "llava-onevision or hf:FOLDER, got gpt-9"),
        (["--stage-model="], "llava-onevision or hf:FOLDER, got none"),
        (["--stage-device=cuda:7"], "device must be one of cpu"),
        (["--stage-weights=folder"], "weights must be those of one model, got 3 models"),
        (["--stage-input=no-such.mp4"], "no-such.mp4"),
        (
            ["--stage-input=clip.mp4", "--stage-media=events"],
            "media must be own for a given input, got events",
        ),
        (["--stage-threads=0"], "threads must be at least 1, got 0"),
        (["--stage-rounds=0"], "'--stage-rounds': 0 is not in the range x>=1"),
        (["--benchmark-compare=no-such.json"], "got no file no-such.json"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error_of_one_line(arguments, message, suite_command):
    done = suite_command(*arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert [line for line in done.stderr.splitlines() if line] == [
        line for line in done.stderr.splitlines() if message in line
    ]


def test_a_decode_without_a_step_fails(suite_command):
    done = suite_command("-k", "test_stage and llava-1.5-decode", "--stage-new-tokens=1")
    assert "decode must do work, got steps = 0" in done.stdout


def test_a_failed_benchmark_keeps_the_run_from_becoming_a_baseline(tmp_path, suite_command):
    out = tmp_path / "out.json"
    suite_command("-k", "llava-1.5 and (encode or decode)", "--stage-new-tokens=1", f"--benchmark-json={out}")
    with pytest.raises(ResultsError, match="only if nothing failed, got 1 failures and pytest's exit status 1"):
        baseline.accept(out, tmp_path / "baselines", "try")


def test_times_alone_have_no_work_and_become_no_baseline(tmp_path, suite_command):
    out = tmp_path / "out.json"
    done = suite_command("-k", "llava-1.5-encode or reference", "--stage-times-only", f"--benchmark-json={out}")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert [("work" in b["extra_info"], b["stats"]["rounds"]) for b in json.loads(out.read_text())["benchmarks"]] == [
        (False, 2),
        (False, 2),
    ]
    with pytest.raises(ResultsError, match="only if its work was verified, got --stage-times-only"):
        baseline.accept(out, tmp_path / "baselines", "try")


def test_a_regressed_run_does_not_become_a_baseline(suite, tmp_path, suite_command):
    stored = json.loads(suite[1].read_text())
    for benchmark in stored["benchmarks"]:
        times = ("min", "q1", "ld15iqr", "median", "mean", "q3", "hd15iqr", "max")
        benchmark["stats"] |= {"data": [1e-9] * 2, "total": 2e-9, "rounds": 2} | dict.fromkeys(times, 1e-9)
    (tmp_path / "fast.json").write_text(json.dumps(stored))
    compare = (f"--benchmark-compare={tmp_path / 'fast.json'}", "--benchmark-compare-fail=mean:5%")
    done = suite_command("-k", "llava-1.5 and encode", *compare, f"--benchmark-json={tmp_path / 'out.json'}")
    assert done.returncode != pytest.ExitCode.OK
    with pytest.raises(ResultsError, match="a regressed run can't become a baseline"):
        baseline.accept(tmp_path / "out.json", tmp_path / "baselines", "try")


def test_other_work_than_the_baselines_fails_and_is_reported(suite, tmp_path, suite_command):
    stored = json.loads(suite[1].read_text())
    for benchmark in stored["benchmarks"]:
        benchmark["extra_info"].get("work", {})["images_encoded"] = 999
    (tmp_path / "other.json").write_text(json.dumps(stored))
    done = suite_command("-k", "llava-1.5 and encode", f"--benchmark-compare={tmp_path / 'other.json'}")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "stagebench: test_stage[llava-1.5-encode]: images_encoded: other work, 999 before, 1 now" in done.stdout


def test_counters_are_the_same_in_a_fresh_process(benchmarks, tmp_path, suite_command):
    name = "test_stage[video-llava-decode]"
    assert suite_command("-k", name, f"--benchmark-json={tmp_path / 'out.json'}").returncode == pytest.ExitCode.OK
    again = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert [b["extra_info"]["work"] for b in again] == [benchmarks[name]["extra_info"]["work"]]


def test_another_seed_gives_another_order_of_models(suite_command):
    orders = set()
    for seed in range(3):
        lines = suite_command("-k", "encode", "--collect-only", "-q", f"--stage-order-seed={seed}").stdout.splitlines()
        orders.add(tuple(line for line in lines if "test_stage" in line))
    assert {frozenset(order) for order in orders} == {frozenset(next(iter(orders)))}
    assert len(orders) > 1
