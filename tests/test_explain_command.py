"""`stagebench explain`, through the command, on every format that it reads."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from stagebench.cli import main

TABLE = {
    "models": [
        {"name": "eventgpt", "load": 0.851, "preprocess": 0.023, "generation": 0.977, "tokens": 45.5},
        {"name": "video-llava", "load": 6.858, "preprocess": 0.072, "generation": 2.533, "tokens": 102.4},
    ]
}


def write(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return str(path)


@pytest.fixture
def attribute(tmp_path):
    """Runs the command on data, each in a file of its own."""

    def run(*data, options=(), name="numbers"):
        files = [write(tmp_path / f"{name}{i or ''}.json", each) for i, each in enumerate(data)]
        return CliRunner().invoke(main, ["explain", *files, *options])

    return run


def with_numbers(**changes):
    first, second = TABLE["models"]
    return {"models": [{key: v for key, v in {**first, **changes}.items() if v is not None}, second]}


def test_the_slowest_model_is_the_baseline(attribute):
    out = attribute(TABLE).stdout.splitlines()
    assert "eventgpt takes 1,851.000 ms where video-llava takes 9,463.000 ms: 5.11 times as fast." in out
    assert "Loading explains 6,007.000 of the 7,612.000 ms saved (78.9 %)." in out


def test_the_baseline_can_be_named(attribute):
    out = attribute(TABLE, options=["--baseline=eventgpt"]).stdout
    assert "video-llava takes 9,463.000 ms where eventgpt takes 1,851.000 ms: 5.11 times as slow." in out


def test_the_table_adds_up(attribute):
    lines = attribute(TABLE, options=["--markdown"]).stdout.splitlines()
    assert lines[:8] == [
        "| factor | video-llava | eventgpt | saved, ms | share | in logs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| load, ms | 6,858.000 | 851.000 | 6,007.000 | 78.9 % | 78.9 % |",
        "| preprocess, ms | 72.000 | 23.000 | 49.000 | 0.6 % | 0.6 % |",
        "| tokens | 102.4 | 45.5 | 1,314.642 | 17.3 % | 17.4 % |",
        "| time per token, ms | 24.736 | 21.473 | 241.358 | 3.2 % | 3.0 % |",
        "| total, ms | 9,463.000 | 1,851.000 | 7,612.000 | 100.0 % | 100.0 % |",
        "",
    ]


def test_every_other_model_is_explained_against_the_baseline(attribute):
    third = {"name": "llava-1.5", "load": 3.0, "preprocess": 0.1, "generation": 2.0, "tokens": 90}
    out = attribute({"models": [*TABLE["models"], third]}).stdout
    assert "eventgpt takes 1,851.000 ms where video-llava takes 9,463.000 ms" in out
    assert "llava-1.5 takes 5,100.000 ms where video-llava takes 9,463.000 ms" in out


def test_json_has_all_numbers(attribute):
    result = attribute(TABLE, options=["--json=-"])
    numbers = json.loads(result.stdout)
    (only,) = numbers["attributions"]
    assert (numbers["schema"], numbers["warnings"], only["baseline"]["model"]) == (1, [], "video-llava")
    assert sum(only["seconds"].values()) == pytest.approx(only["saved"])
    assert round(only["speedup"], 2) == 5.11


def test_json_goes_to_a_file_beside_the_table(attribute, tmp_path):
    result = attribute(TABLE, options=[f"--json={tmp_path / 'out.json'}"])
    assert "5.11 times as fast" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["schema"] == 1


def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys; from stagebench.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "explain", write(tmp_path / "numbers.json", TABLE)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (with_numbers(load=-1), "eventgpt: load must be at least 0 s and finite, got -1"),
        (with_numbers(load=float("nan")), "numbers.json: eventgpt: load must be a finite number, got nan"),
        (with_numbers(load="1"), "numbers.json: eventgpt: load must be a finite number, got '1'"),
        (with_numbers(load=True), "numbers.json: eventgpt: load must be a finite number, got True"),
        (
            with_numbers(load=None),
            "numbers.json: eventgpt must have load, got name, preprocess, generation, tokens",
        ),
        (with_numbers(tokens=0), "eventgpt: there must be at least one token, got 0"),
        (with_numbers(name="video-llava"), "numbers.json: every model must have a unique name, got 'video-llava'"),
        (with_numbers(name=None), "numbers.json: every model must have a unique name, got None"),
        (
            with_numbers(generation=None),
            "numbers.json: eventgpt must have either generation or decode, got name, load, preprocess, tokens",
        ),
        (with_numbers(prefill=1.0), "numbers.json: eventgpt: prefill must be beside decode, got it beside generation"),
        (
            with_numbers(prefil=1.0),
            "numbers.json: eventgpt: keys must be among decode, e2e, encode, generation, load, prefill, preprocess, "
            "tokens, unattributed, got prefil",
        ),
        ({"models": TABLE["models"][:1]}, "two models are needed, got eventgpt only"),
        ({"models": []}, "numbers.json: models must be a list of objects, got an empty one"),
        ({"models": 3}, "numbers.json: models must be a list of objects, got int"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(attribute, data, complaint):
    result = attribute(data)
    assert (result.exit_code, result.stderr) == (2, f"stagebench: {complaint}\n")


def test_a_file_that_is_no_json_is_refused(attribute):
    assert "numbers.json must be JSON, got: Expecting value" in attribute("stage times").stderr


def test_a_file_that_is_not_there_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["explain", str(tmp_path / "none.json")])
    assert (result.exit_code, result.stderr) == (
        2,
        f"stagebench: can't read {tmp_path}/none.json: No such file or directory\n",
    )


def test_a_file_of_no_known_format_is_refused(attribute):
    assert "must be of the format table, guidellm, pytest-benchmark, " in attribute([1]).stderr
    assert (
        "must be of the format serving, got other keys, or a mixture of formats"
        in attribute(TABLE, options=["--from=serving"]).stderr
    )


def test_an_unknown_baseline_is_refused(attribute):
    result = attribute(TABLE, options=["--baseline=llava"])
    assert result.stderr == "stagebench: the baseline must be one of eventgpt, video-llava, got 'llava'\n"


def test_a_total_that_the_stages_do_not_add_up_to_is_warned_of(attribute):
    result = attribute(with_numbers(e2e=2.5))
    assert result.stderr == "warning: numbers.json: eventgpt: the stages do not add up to e2e: 1.851 s and 2.5 s\n"
    assert attribute(with_numbers(e2e=1.852)).stderr == ""


def test_a_table_may_have_stages_apart_and_time_that_no_stage_explains(attribute):
    apart = {
        "models": [
            {
                "name": name,
                "load": 1,
                "preprocess": 1,
                "encode": 1,
                "prefill": x,
                "decode": 2,
                "unattributed": 0.1,
                "tokens": 9,
            }
            for name, x in (("a", 3), ("b", 1))
        ]
    }
    out = attribute(apart).stdout
    assert "Prefill explains 2,000.000 of the 2,000.000 ms saved (100.0 %)." in out
    assert "What no stage explains makes no difference." in out


def samples(name, load, count=12):
    return {
        "name": name,
        "samples": [
            {
                "id": i,
                "sequence": f"q{i // 2}",
                "load": load + i / 100,
                "preprocess": 0.1,
                "generation": 1,
                "tokens": 20 + i,
            }
            for i in range(count)
        ],
    }


def test_samples_give_intervals(attribute):
    (only,) = json.loads(attribute({"models": [samples("a", 3), samples("b", 1)]}, options=["--json=-"]).stdout)[
        "attributions"
    ]
    assert (only["intervals"]["samples"], only["intervals"]["clusters"]) == (12, 6)
    assert only["intervals"]["shares"]["load"] == pytest.approx({"low": 1.0, "high": 1.0})


def test_samples_of_one_model_only_are_left_out_and_said(attribute):
    result = attribute({"models": [samples("a", 3), samples("b", 1, count=10)]}, options=["--json=-"])
    numbers = json.loads(result.stdout)
    assert numbers["attributions"][0]["intervals"]["samples"] == 10
    assert numbers["warnings"] == ["2 samples belong to only one of a and b, 10 to both"]


def test_samples_that_do_not_add_up_are_counted(attribute):
    first, second = samples("a", 3), samples("b", 1)
    for row in first["samples"][4:]:
        row["e2e"] = 9.0
    assert json.loads(attribute({"models": [first, second]}, options=["--json=-"]).stdout)["warnings"] == [
        "numbers.json: a: the stages do not add up to e2e in 8 of 12 rows, first: 4.14 s and 9 s"
    ]


def test_a_sample_without_an_id_of_its_own_is_refused(attribute):
    twice = samples("a", 3)
    twice["samples"][1]["id"] = 0
    assert "numbers.json: a: every sample must have a unique id, got '0'" in attribute({"models": [twice]}).stderr


def test_models_of_one_name_in_two_files_are_named_after_their_files(attribute):
    faster = with_numbers(load=0.4)["models"][:1]
    out = attribute({"models": TABLE["models"][:1]}, {"models": faster}).stdout
    assert "eventgpt (numbers1.json) takes 1,400.000 ms where eventgpt (numbers.json) takes 1,851.000 ms" in out


def sample_row(model, sample, loading, **changes):
    seconds = {"load": loading, "preprocess": 0.1, "encode": 0.1, "prefill": 0.1, "decode": 1.0}
    return {
        "study": "main",
        "model": model,
        "sample": sample,
        "sequence": sample,
        "mode": "natural",
        "order": 0,
        "seconds": seconds,
        "e2e": sum(seconds.values()) + 0.01,
        "ttft": 0.3,
        "tokens": 11,
        "token_ids": list(range(11)),
        "finish_reason": "stop",
        "text": "a car",
    } | changes


def test_raw_samples_of_an_analysis_are_read_by_their_ending(tmp_path):
    rows = [sample_row(model, f"s{i}", load) for model, load in (("a", 3.0), ("b", 1.0)) for i in range(4)]
    others = [sample_row("a", "s0", 99.0, mode="fixed"), sample_row("a", "s0", 99.0, study="durations", value=1.0)]
    path = write(tmp_path / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, *others]))
    out = CliRunner().invoke(main, ["explain", path, "--json=-"]).stdout
    (only,) = json.loads(out)["attributions"]
    assert (only["seconds"]["load"], only["saved"], only["intervals"]["samples"]) == pytest.approx((2.0, 2.0, 4))


def test_samples_of_other_studies_only_are_refused(tmp_path):
    line = sample_row("a", "s", 1.0, study="durations", value=1.0)
    path = write(tmp_path / "samples.jsonl", json.dumps(line) + "\n")
    out = CliRunner().invoke(main, ["explain", path])
    assert "samples.jsonl must hold samples of the main study, got none" in out.stderr
