"""Stage timings of other tools: what is read out of them, and which of their claims are warned of."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from experiments.stage_rows import to_table
from foreign_results import ROWS, TYPED, ran, served, stage_row, summary, typed
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.attribution import Costs, attribute
from stagebench.analysis.importers.read import read_files
from stagebench.core.errors import AnalysisError, ResultsError, StagebenchError

BASELINE = next((Path(__file__).parents[1] / "baselines").glob("*-tiny-*/baseline.json"))


@pytest.fixture
def read(tmp_path):
    """Reads data from a file."""

    def from_file(data, format_name=None):
        path = tmp_path / "numbers.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        return read_files([path], format_name)

    return from_file


def warnings(measured):
    return [warning.removeprefix("numbers.json: ") for warning in measured.warnings]


def test_rows_of_stage_times_are_made_a_table(read):
    measured = read(to_table(ROWS))
    assert measured.samples["egpt"]["sample_3"] == Costs("egpt", {"load": 0.851, "preprocess": 0.023}, 45, 0.977, 0)
    assert measured.costs["llava"].tokens == 102
    assert (set(measured.sequences.values()), measured.warnings) == ({"interlaken_00_a"}, [])


def test_rows_of_the_published_means_give_the_attribution_of_the_published_means(read):
    """45.5 and 102.4 tokens, as averages of two and five rows; the beginning-of-sequence token is none."""
    rows = [
        stage_row(i, egpt_token_ids=[1, *[7] * (45 + i % 2)], llava_token_ids=[7] * (102 + (i % 5 < 2)))
        for i in range(10)
    ]
    costs = read(to_table(rows)).costs
    shares = attribute(costs["llava"], costs["egpt"]).shares
    assert [round(100 * share, 1) for share in shares.values()] == [78.9, 0.6, 17.3, 3.2]


def test_five_stages_in_objects_of_their_own_are_made_a_table_too(read):
    model = {"output_tokens": [5, 6, 7], "total_time": 15, **{f"stage{i}_time": i for i in range(1, 6)}}
    measured = read(to_table({"results": [{"sample_idx": 3, "eventgpt": model, "videollava": model}]}))
    expected = Costs("eventgpt", {"load": 1, "preprocess": 2, "encode": 3, "prefill": 4}, 3, 5, prefilled=1)
    assert (measured.samples["eventgpt"], list(measured.costs)) == ({"3": expected}, ["eventgpt", "videollava"])


@pytest.mark.parametrize("change", [{"egpt_stage1_time": None}, {"egpt_token_ids": []}])
def test_rows_without_times_or_tokens_are_no_samples(change):
    samples = to_table([*ROWS, stage_row(4, **change)])["models"][0]["samples"]
    assert [sample["id"] for sample in samples] == ["sample_0", "sample_1", "sample_2", "sample_3"]


def test_a_total_of_a_row_that_its_stages_do_not_make_is_warned_of(read):
    assert warnings(read(to_table([*ROWS, stage_row(4, egpt_time=1.9)]))) == [
        "egpt: the stages do not add up to e2e in 1 of 5 rows, first: 1.851 s and 1.9 s"
    ]


def test_a_stage_of_some_rows_that_took_no_time_is_warned_of(read):
    rows = [*ROWS, stage_row(4, egpt_stage2_time=0.0, egpt_time=1.828)]
    assert warnings(read(to_table(rows))) == [
        "egpt: preprocess takes 0 s in 1 of 5 rows: the stage did no work, or was not timed"
    ]


def test_a_run_of_our_suite_gives_the_median_of_each_stage():
    measured = read_files([BASELINE])
    stats = {b["name"]: b["stats"]["median"] for b in json.loads(BASELINE.read_text())["benchmarks"]}
    costs = measured.costs["eventgpt"]
    assert sorted(measured.costs) == ["eventgpt", "llava-1.5", "video-llava"]
    assert (costs.parts["prefill"], costs.tokens) == (stats["test_stage[eventgpt-prefill]"], 32)
    assert costs.decode == stats["test_stage[eventgpt-decode]"]


def a_run(*benchmarks, **own):
    return {
        "machine_info": {"device": "d", "profile": "tiny", "dtype": "float32"},
        "stagebench": {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []} | own,
        "benchmarks": list(benchmarks),
    }


def suite(**medians):
    seconds = {"load": 1, "preprocess": 1, "encode": 1, "prefill": 1, "decode": 1, "e2e": 5.1, "generate": 3} | medians
    names = {"e2e": "test_e2e[m]", "generate": "test_generate[m]"}
    load = {"name": "test_load[png-5]", "fullname": "png", "stats": {"median": 9}, "extra_info": {"units": 5}}
    return a_run(
        load,
        *(
            {
                "name": names.get(stage, f"test_stage[m-{stage}]"),
                "fullname": stage,
                "stats": {"median": median},
                "extra_info": {"model": "m", "new_tokens": 9} | ({} if stage in names else {"stage": stage}),
            }
            for stage, median in seconds.items()
            if median is not None
        ),
    )


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ({}, []),
        ({"e2e": 6}, ["m: its stages take 5 s, but e2e, which does the same, takes 6 s"]),
        ({"generate": 2.5}, ["m: encode, prefill, decode take 3 s, but generate, which does the same, takes 2.5 s"]),
        ({"e2e": None, "generate": None}, []),
    ],
)
def test_stages_of_a_suite_that_do_not_make_up_the_whole_are_warned_of(read, medians, expected):
    assert warnings(read(suite(**medians))) == expected


def test_a_run_that_lacks_a_stage_or_is_of_another_suite_is_refused(read):
    with pytest.raises(AnalysisError, match="m must have decode, got load, preprocess, encode, prefill, e2e, generate"):
        read(suite(decode=None))
    with pytest.raises(AnalysisError, match="must be a run of our suite, got no stage of a model in it"):
        read(a_run({"name": "test_x", "fullname": "x", "stats": {"median": 1.0}}))


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        ({"benchmarks": []}, "must be written by stagebench's pytest plugin"),
        (a_run(), "must hold at least one benchmark, got none"),
        (suite() | a_run(failed=1), "must be one in which nothing failed, got 1 failures"),
        (suite(encode=0), "encode: stats: median must be a finite number above 0, got 0"),
        (suite(encode=True), "encode: stats: median must be a finite number above 0, got True"),
    ],
)
def test_a_run_that_is_no_sound_one_is_refused(read, run, complaint):
    with pytest.raises(ResultsError, match=complaint):
        read(run)


def without(data, *keys):
    return {key: value for key, value in data.items() if key not in keys}


def test_requests_of_vllm_are_samples(read):
    measured = read(served())
    assert measured.samples["llava"]["1 (20)"] == Costs("llava", {"ttft": 0.1}, 5, 0.2)
    assert measured.warnings == []


def test_means_of_vllm_stand_for_the_requests(read):
    costs = read(without(served(), "ttfts", "itls", "output_lens")).costs["llava"]
    assert (costs.parts, costs.tokens, costs.decode) == ({"ttft": 0.1}, 5.0, pytest.approx(0.2))
    by_tpot = read(without(served(), "ttfts", "itls", "output_lens", "mean_e2el_ms")).costs["llava"]
    assert by_tpot.decode == pytest.approx(0.2)


def test_requests_that_came_back_empty_are_left_out(read):
    failed = served(
        output_lens=[3, 0, 7],
        itls=[[0.05] * 2, [], [0.05] * 6],
        errors=["", "timeout", ""],
        completed=2,
        total_output_tokens=10,
        output_throughput=5.0,
    )
    assert list(read(failed).samples["llava"]) == ["0 (10)", "2 (30)"]
    assert warnings(read(failed)) == ["llava: 1 requests failed"]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"failed": 4}, "llava: 4 requests failed"),
        ({"output_lens": [3, 5, 8]}, "llava: the requests have 16 new tokens, total_output_tokens says 15"),
        ({"num_prompts": 5}, "llava: 2 requests failed"),
        (
            {"itls": [[0.1], [0.1] * 2, [0.1] * 3]},
            "llava: 3 requests have not one gap fewer than tokens: several came at once, or the count is wrong",
        ),
        (
            {"duration": 0.3, "output_throughput": 50.0},
            "llava: 3.0 requests were in flight on average: ttft includes waiting, and time per token is shared",
        ),
    ],
)
def test_what_can_not_hold_in_a_result_of_vllm_is_warned_of(read, change, warning):
    assert [each for each in warnings(read(served(**change))) if each.startswith(warning)]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (served(mean_ttft_ms="fast"), "mean_ttft_ms must be a finite number, got 'fast'"),
        (served(completed=0), "at least one request must have completed, got 0"),
        (served(ttfts=5, input_lens=None), "must have one ttft, itl and output_len per request, got: object of type"),
        ([served(model_id=name) for name in ("a", "a", "a (result 1)")], "two results must have two names, got 'a"),
        (served(ttfts=[0.1]), "must have one ttft, itl and output_len per request"),
        (served(ttfts=[0.1, "x", 0.1]), "must have one ttft, itl and output_len per request"),
        (served(ttfts=[0.1, -1, 0.1]), "llava: ttft must be at least 0 s and finite, got -1"),
        (without(served(), "total_output_tokens"), "numbers.json must have total_output_tokens"),
    ],
)
def test_a_result_of_vllm_that_says_too_little_is_refused(read, data, complaint):
    with pytest.raises(AnalysisError, match=complaint):
        read(data)


ROUGH = "m: decode is mean tpot times mean tokens, a mean of ratios: off by "


@pytest.mark.parametrize(
    ("changes", "decode", "expected"),
    [
        ({}, 0.13, []),
        ({"latencies": [0.18, 0.28, 0.0], "num_prompts": 3}, 0.13, ["m: 1 requests failed"]),
        ({"latencies": None, "mean_e2el_ms": 230.0}, 0.13, []),
        ({"latencies": None}, 0.13, []),
        ({"latencies": None, "mean_itl_ms": None}, 0.13, []),
        (
            {"mean_itl_ms": 52.0},
            0.13,
            ["m: the gaps make 2.00 times decode: several tokens came at once, or the count is wrong"],
        ),
        (
            {"latencies": None, "mean_itl_ms": 52.0},
            0.26,
            [
                "m: decode is up to 1.57 times too long: its gaps imply more requests in flight than allowed",
                "m: 1.6 requests were in flight on average: ttft includes waiting, and time per token is shared",
            ],
        ),
        (
            {"latencies": None, "max_concurrency": None},
            0.13,
            ["m: decode is the mean gap times the further tokens, which is too long where several tokens came at once"],
        ),
        (
            {"latencies": None, "mean_itl_ms": None, "request_rate": 1.0, "duration": 9.0},
            0.25,
            [f"{ROUGH}up to 60% where the lengths of answers spread as far as their mean"],
        ),
        (
            {"latencies": None, "mean_itl_ms": None, "max_concurrency": None, "duration": 9.0, "std_tpot_ms": None},
            0.25,
            [f"{ROUGH}an unknown amount"],
        ),
        (
            {"latencies": None, "mean_itl_ms": None, "max_concurrency": None, "duration": 9.0, "std_tpot_ms": 0.0},
            0.25,
            [],
        ),
    ],
)
def test_decode_of_a_summary_is_exact_where_the_file_allows_it_and_warned_of_where_not(read, changes, decode, expected):
    measured = read(summary(**changes))
    assert (measured.costs["m"].decode, warnings(measured)) == (pytest.approx(decode), expected)


def test_a_summary_without_a_first_token_is_one_generation(read):
    measured = read(without(summary(), "mean_ttft_ms", "mean_tpot_ms", "std_tpot_ms", "mean_itl_ms"))
    costs = measured.costs["m"]
    assert (costs.parts, costs.tokens, costs.decode, costs.prefilled) == ({}, 6, pytest.approx(0.23), 0)
    assert warnings(measured) == ["m: the time to first token is missing, so a request counts as one generation"]


def test_details_are_enough_whatever_metrics_were_asked_for(read):
    measured = read({key: value for key, value in served().items() if not key.endswith("_ms")})
    assert (measured.samples["llava"]["2 (30)"].decode, measured.warnings) == (pytest.approx(0.3), [])


def test_requests_in_flight_are_counted_by_the_requests_themselves(read):
    itls, lengths = [[0.08], [0.02] * 9], [2, 10]
    data = summary(itls=itls, output_lens=lengths, ttfts=[0.1, 0.1])
    assert warnings(read(data)) == []


@pytest.mark.parametrize("name", ["results.json", "results.jsonl"])
def test_results_that_were_appended_to_one_file_are_models_of_their_own(tmp_path, name):
    lines = [json.dumps(summary(model_id=model, request_rate=float("inf"))) for model in ("a", "b", "a")]
    (tmp_path / name).write_text("\n".join(lines))
    assert list(read_files([tmp_path / name]).costs) == ["a (result 1)", "b", "a (result 3)"]


def test_a_list_of_results_is_read_too(read):
    assert list(read([summary(), summary(model_id="other")]).costs) == ["m", "other"]


def test_results_of_sglang_are_read_by_their_own_names(read):
    times = {"mean_e2e_latency_ms": 230.0, "mean_ttft_ms": 100.0, "mean_itl_ms": 26.0, "p99_itl_ms": 80.0}
    data = {"backend": "sglang", "completed": 2, "total_output_tokens": 12, "duration": 0.46, "request_rate": "inf"}
    assert read(data | times).costs["numbers.json"].decode == pytest.approx(0.13)


def test_the_given_summaries_give_the_decode_of_their_details(cases):
    files = [*(cases / "vllm_summary").glob("*.json"), cases / "vllm_e2el_only" / "e2elonly.json"]
    found = {path.stem: read_files([path]) for path in files}
    assert [measured.warnings for measured in found.values()] == [[]] * 5
    assert {name: round(next(iter(each.costs.values())).total, 3) for name, each in found.items()} == {
        "slow_sum": 1.626,
        "fast_sum": 0.813,
        "slow_det": 1.626,
        "fast_det": 0.813,
        "e2elonly": 0.813,
    }


def test_requests_with_other_prompts_are_not_compared(tmp_path):
    for name, data in (("a.json", served()), ("b.json", served(input_lens=[10, 20, 31]))):
        (tmp_path / name).write_text(json.dumps(data))
    samples = read_files([tmp_path / "a.json", tmp_path / "b.json"]).samples
    assert set(samples["llava (a.json)"]) & set(samples["llava (b.json)"]) == {"0 (10)", "1 (20)"}


def test_passes_of_a_run_are_those_of_one_sample_which_costs_what_its_median_pass_does(read):
    measured = read(ran())
    assert measured.costs["a"] == Costs(
        "a", {"load": 1.0, "preprocess": 2.0, "encode": 3.0, "prefill": 4.0, "unattributed": 0.5}, 3, 5.0
    )
    assert (list(measured.samples["b"]), measured.sequences) == (["scene"], {"scene": "scene"})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokens": 0}, "sample 1: tokens must be a whole number above 0, got 0"),
        ({"e2e": None}, "sample 1: e2e must be a finite number above 0, got None"),
        ({"seconds": {}}, "sample 1: seconds must have load, .*, got no load"),
    ],
)
def test_passes_that_say_too_little_are_refused(read, changes, complaint):
    with pytest.raises(AnalysisError, match=complaint):
        read(ran(**changes))


def test_a_run_without_a_pass_is_refused(read):
    with pytest.raises(AnalysisError, match="samples must be a list of objects, got an empty one"):
        read(ran() | {"samples": []})


@pytest.mark.parametrize(
    ("numbers", "warning"),
    [
        ({"decode": 0}, "a: decode takes 0 s: the stage did no work, or was not timed"),
        ({"tokens": 1, "decode": 4.0}, "a: decode takes time without any further token, which is impossible"),
        ({"encode": 0.0}, "a: encode takes 0 s: the stage did no work, or was not timed"),
        ({"decode": 1e-7}, "a: a token takes less than 10 us: are the times in seconds?"),
        ({"decode": 2533.0}, "a: a token takes more than 10 s: are the times in milliseconds?"),
        (
            {"decode": None, "encode": None, "prefill": None, "generation": 0},
            "a: generation takes 0 s: the stage did no work, or was not timed",
        ),
        ({"unattributed": -1.0}, "a: the stages take longer than the total, which is impossible"),
        ({"e2e": 9.0}, "a: the stages do not add up to e2e: 3.4 s and 9 s"),
    ],
)
def test_what_no_model_takes_is_warned_of_in_a_table(read, numbers, warning):
    assert warnings(read(typed(**numbers))) == [warning]


@pytest.mark.parametrize("numbers", [{"tokens": 1, "decode": 0}, {"tokens": 1, "decode": 1e-5}, {"tokens": 101.5}])
def test_what_a_model_may_take_is_not_warned_of(read, numbers):
    assert warnings(read(typed(**numbers))) == []


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"load": 10**400}, "numbers.json must be JSON, got: a number of 401 digits"),
        ({"tokens": 10**400}, "numbers.json must be JSON, got: a number of 401 digits"),
        ({"load": 1e308}, r"a: load must be a finite number, got 1e\+308"),
        ({"tokens": 1e19}, r"a: tokens must be a finite number, got 1e\+19"),
        ({"tokens": -3}, "a: there must be at least one token, got -3"),
        ({"tokens": True}, "a: tokens must be a finite number, got True"),
        ({"decode": "2 s"}, "a: decode must be a finite number, got '2 s'"),
        ({"prefill": -0.2}, "a: prefill must be at least 0 s and finite, got -0.2"),
        (dict.fromkeys(("load", "preprocess", "encode", "prefill", "decode"), 1e-320), "must be from 1e-09 .* got 4.9"),
        ({"load": 6.858e9}, r"a: the total must be from 1e-09 to 1e\+09 s, got 6.858e\+09"),
    ],
)
def test_what_can_not_be_reckoned_with_is_refused_in_a_table(read, numbers, complaint):
    with pytest.raises(AnalysisError, match=complaint):
        read(typed(**numbers))


@pytest.mark.parametrize("beside", [{"load": 9.0}, {"e2e": 9.0}, {"tokesn": 3}])
def test_numbers_beside_samples_are_refused(read, beside):
    numbers = {key: value for key, value in typed()["models"][0].items() if key != "name"}
    with pytest.raises(AnalysisError, match=f"a must have only samples, got also {next(iter(beside))}"):
        read({"models": [{"name": "a", "samples": [numbers | {"id": 0}], **beside}]})


def test_half_a_token_of_a_sample_is_warned_of(read):
    numbers = {key: value for key, value in typed()["models"][0].items() if key != "name"}
    samples = [numbers | {"id": 0}, numbers | {"id": 1, "tokens": 7.5}]
    assert warnings(read({"models": [{"name": "a", "samples": samples}]})) == [
        "a: the tokens in 1 of 2 rows are not a whole number: are they means?"
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(data, here=()):
    """The paths to everything in JSON."""
    yield here
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from places(value, (*here, key))


def replaced(data, path, value):
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("valid", [TYPED, suite(), served(), ran()], ids=["table", "suite", "vllm", "ran"])
@given(data=st.data())
def test_whatever_stands_in_a_file_is_read_or_refused(valid, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "numbers.json"
    wrong = replaced(valid, data.draw(st.sampled_from(list(places(valid)))), data.draw(anything))
    path.write_text(json.dumps(wrong))
    with suppress(StagebenchError):
        assert all(costs.total > 0 for costs in read_files([path]).costs.values())
