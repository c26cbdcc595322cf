"""Summaries, warnings and the sample lines they are made of."""

import json

import numpy as np
import pytest

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.report.report_data import percentiles, summarize, warnings
from stagebench.analysis.samples import costs_by_sample, costs_of, read_samples, select, sequences
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import STAGE_NAMES


def row(sample="s0", **changes):
    """One pass: stages of 10, 20, 30, 40 and 50 ms, and 1 ms more than they explain."""
    seconds = dict(zip(STAGE_NAMES, (0.01, 0.02, 0.03, 0.04, 0.05), strict=True)) | changes.pop("seconds", {})
    e2e = sum(seconds.values()) + 0.001
    whole = {
        "study": "main",
        "model": "eventgpt",
        "sample": sample,
        "sequence": "night",
        "mode": "natural",
        "order": 0,
        "seconds": seconds,
        "unattributed": 0.001,
        "e2e": e2e,
        "ttft": sum(seconds[stage] for stage in STAGE_NAMES[1:4]),
        "tpot": (seconds["decode"] + 0.001) / 10,
        "itl": [0.005] * 9,
        "tokens": 11,
        "token_ids": list(range(11)),
        "finish_reason": "stop",
        "text": "a car",
    }
    return whole | changes


def noisy(count, seed=0, **changes):
    rng = np.random.default_rng(seed)
    return [row(f"s{i}", order=i, seconds={"decode": 0.05 + rng.uniform(0, 0.01)}, **changes) for i in range(count)]


def kinds(rows):
    return [warning["kind"] for warning in warnings(rows)]


def test_a_summary_has_the_mean_and_the_spread_of_every_stage():
    rows = [row(f"s{i}", sequence=f"q{i}", seconds={"load": load}) for i, load in enumerate((0.01, 0.02, 0.06))]
    load = summarize(rows)["stages"]["load"]
    assert (load["mean"], load["p90"]) == pytest.approx((0.03, 0.052))
    assert load["cv"] == pytest.approx(np.std([1, 2, 6], ddof=1) / 3)
    assert load["interval"]["low"] <= load["mean"] <= load["interval"]["high"]


def test_shares_are_of_the_mean_and_add_up():
    shares = summarize(noisy(10))["shares"]
    assert list(shares) == [*STAGE_NAMES, "unattributed"]
    assert sum(shares.values()) == pytest.approx(1.0)


def test_throughput_is_all_tokens_over_all_seconds():
    rows = [row("a", tokens=1), row("b", tokens=31, seconds={"decode": 0.5})]
    assert summarize(rows)["output_throughput"] == pytest.approx(32 / sum(each["e2e"] for each in rows))


def test_samples_passes_and_sequences_are_counted():
    rows = [row("a"), row("a"), row("b", sequence="day")]
    summary = summarize(rows)
    assert (summary["samples"], summary["passes"], summary["sequences"]) == (2, 3, 2)


def test_itl_pools_all_gaps_of_all_passes():
    itl = summarize([row("a", itl=[0.0, 100.0]), row("b", itl=[50.0])])["itl"]
    assert itl == {"mean": 50.0, "p90": 90.0, "p99": 99.0, "count": 3}


def test_what_has_no_meaning_is_absent():
    lone = row()
    del lone["tpot"]
    summary = summarize([lone | {"itl": [], "tokens": 1}])
    absent = summary["tpot"], summary["itl"], summary["e2e"]["cv"], summary["e2e"]["interval"]
    assert absent == (None, None, None, None)


def test_peak_memory_is_the_largest_of_any_pass():
    peaks = summarize([row(peak_bytes={"encode": 3}), row(peak_bytes={"encode": 5}), row()])["peak_bytes"]
    assert (peaks["encode"], summarize([row()])["peak_bytes"]) == (5, {})


def test_no_value_has_no_percentiles():
    assert percentiles([]) is None


def test_a_steady_run_raises_no_warning():
    assert kinds(noisy(40)) == []


def test_a_run_that_gets_slower_is_warned_of():
    rows = [row(f"s{i}", order=i, seconds={"decode": 0.05 + 0.001 * i}) for i in range(20)]
    change = "encode, prefill and time per token change by +11% over the run"
    assert warnings(rows)[0] == {"kind": "drift", "text": f"{change} (Kendall's tau 1.00, p = 8e-19)"}


def test_texts_that_get_longer_and_clips_that_take_longer_to_load_are_no_drift():
    rows = [
        row(f"s{i}", order=i, tokens=11 + i, seconds={"load": 0.01 + 0.01 * i, "decode": 0.005 * (10 + i)})
        for i in range(20)
    ]
    assert kinds(rows) == []


def test_drift_does_not_depend_on_the_order_of_the_lines():
    rows = [row(f"s{i}", order=i, seconds={"decode": 0.05 + 0.001 * i}) for i in range(20)]
    assert warnings(rows) == warnings(rows[::-1])


def test_a_steady_run_seldom_drifts():
    """1 in 100 by chance; 3 of 200 at most here, with these seeds."""
    assert sum("drift" in kinds(noisy(30, seed)) for seed in range(200)) <= 3


def test_a_pass_that_is_far_out_is_named():
    rows = [*noisy(20), row("slow", order=20, seconds={"decode": 0.5})]
    (warning,) = warnings(rows)
    assert (warning["kind"], warning["text"]) == (
        "outliers",
        "decode: 1 of 21 passes lie far out, the farthest, of slow, at 8.9 times the median",
    )


def test_where_most_passes_are_equal_nothing_is_far_out():
    assert kinds([row(f"s{i}", order=i) for i in range(9)] + [row("x", order=9, seconds={"load": 1.0})]) == []


def test_first_loads_that_are_slower_are_a_cold_cache():
    rows = [
        row(f"s{i}", order=3 * i + p, seconds={"load": 0.01 if p else 0.05, "decode": 0.05 + i / 1e4})
        for i in range(5)
        for p in range(3)
    ]
    assert [warning["text"] for warning in warnings(rows) if warning["kind"] == "cold cache"] == [
        "the first load of a sample takes 5.0 times as long as its later ones"
    ]


def test_loads_that_stay_as_they_are_are_no_cold_cache():
    assert kinds([row(f"s{i}", order=2 * i + p) for i in range(5) for p in range(2)]) == []


def test_texts_that_the_limit_cut_off_are_counted_at_natural_length_only():
    assert kinds([row(finish_reason="length"), row("b")]) == ["limit"]
    assert kinds([row(finish_reason="length", mode="fixed")]) == []


def test_rows_are_read_back_and_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row("b"))[:40])
    assert read_samples(path) == [row()]
    path.write_bytes(json.dumps(row()).encode() + b'\n{"text": "\xc3')
    assert read_samples(path) == [row()]


def test_a_last_line_that_is_whole_counts_without_its_end(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row("b")))
    assert read_samples(path) == [row(), row("b")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{\n", "samples.jsonl:1 must be JSON"),
        ("[]\n", "samples.jsonl:1 must be an object, got \\[\\]"),
        (
            '{"model": "a"}\n',
            "samples.jsonl:1 must have study, .*, got no study, sample, mode, order, seconds, e2e",
        ),
        (
            json.dumps(row(seconds={})).replace("encode", "x") + "\n",
            "seconds must have load, preprocess, encode, prefill, decode, got no encode",
        ),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, text, complaint):
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    with pytest.raises(AnalysisError, match=complaint):
        read_samples(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnalysisError, match=r"can't read the samples .*: No such file"):
        read_samples(tmp_path / "none.jsonl")


def test_the_costs_of_a_row_add_up_to_e2e():
    costs = costs_of(row())
    assert costs.total == pytest.approx(row()["e2e"])
    assert (costs.parts[UNATTRIBUTED], costs.further) == (pytest.approx(0.001), 10)


def test_of_the_passes_of_a_sample_the_median_one_counts_and_an_outlier_of_20x_moves_nothing():
    rows = [row("a", seconds={"load": load}) for load in (0.03, 0.6, 0.02)] + [row("b")]
    by_sample = costs_by_sample(rows)
    assert (list(by_sample), by_sample["a"].parts["load"]) == (["a", "b"], 0.03)
    assert summarize(rows[:3])["stages"]["load"]["mean"] == 0.03
    assert isinstance(by_sample["b"], Costs)


def test_lines_are_selected_by_what_they_say():
    rows = [row(), row(mode="fixed"), row(study="durations"), row(error="no frames")]
    assert select(rows, mode="natural", study="main") == rows[:1]


def test_a_sample_of_no_sequence_is_one_of_its_own():
    assert sequences([row("a"), row("b", sequence=None)]) == {"a": "night", "b": "b"}
