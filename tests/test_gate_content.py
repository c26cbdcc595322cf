"""Less work is better for the same content only: what the gate says of content, of counts of it, and of no work."""

import pytest

from stagebench.gate import decide
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules
from stagebench.gate.verdicts import exit_code

LOAD = "benchmarks/test_stages.py::test_stage[m-load]"
WORK = {"images": 8, "frames_decoded": 18, "bytes_read": 94752, "aten_operators": 40}
FRAMES = {"frames": "0123456789abcdef"}
OTHER = {"frames": "fedcba9876543210"}
FEATURES = [1.0, 0.5, -4.0, 0.0]
RULES = Rules()


def a_run(work=WORK, content=FRAMES, stage="load", dtype="float32", name=LOAD, median=0.1):
    info = {"work": work, "content": content, "stage": stage}
    return {
        "machine_info": {"device": "d", "profile": "tiny", "dtype": dtype},
        "stagebench": {"failed": 0, "exit_status": 0},
        "benchmarks": [
            {
                "fullname": name,
                "stats": {"median": median},
                "extra_info": {key: value for key, value in info.items() if value is not None},
            }
        ],
    }


def judged(base, head, allowed=()):
    return judge_counters([base], [head], RULES, allowed)


def of(verdicts, counter):
    return next(v for v in verdicts if v.counter == counter)


def test_the_same_work_on_the_same_content_passes():
    (verdict,) = judged(a_run(), a_run())
    assert (verdict.verdict, verdict.reason) == ("pass", "all 4 as before; same content")


@pytest.mark.parametrize("frames", [18, 4, 36])
def test_other_content_is_changed_however_much_work_it_took(frames):
    verdicts = judged(a_run(), a_run(WORK | {"frames_decoded": frames}, OTHER))
    assert (of(verdicts, "frames").verdict, exit_code(verdicts)) == ("changed", 1)
    assert "other content, 0123456789abcdef before, fedcba9876543210 now" in of(verdicts, "frames").reason


def test_less_work_for_other_content_is_no_improvement():
    verdicts = judged(a_run(), a_run(WORK | {"frames_decoded": 4}, OTHER))
    assert of(verdicts, "frames_decoded").verdict == "changed"


@pytest.mark.parametrize("counter", ["frames_decoded", "bytes_read", "aten_operators"])
def test_less_work_for_the_same_content_is_an_improvement_and_passes(counter):
    verdicts = judged(a_run(), a_run(WORK | {counter: 3}))
    assert (of(verdicts, counter).verdict, exit_code(verdicts)) == ("improvement", 0)


@pytest.mark.parametrize("images", [1, 4, 9])
def test_another_number_of_images_is_changed_whichever_way(images):
    verdicts = judged(a_run(), a_run(WORK | {"images": images}))
    assert (of(verdicts, "images").verdict, exit_code(verdicts)) == ("changed", 1)


@pytest.mark.parametrize(
    ("stage", "counter"),
    [
        ("load", "images"),
        ("load", "frames_decoded"),
        ("load", "packets"),
        ("load", "bytes_read"),
        ("preprocess", "resized_pixels"),
        ("preprocess", "prompt_tokens"),
        ("encode", "images_encoded"),
        ("encode", "tower_forwards"),
        ("prefill", "language_model_forwards"),
        ("decode", "language_model_forwards"),
        ("decode", "steps"),
    ],
)
@pytest.mark.parametrize("allowed", [(), ("load", "preprocess", "encode", "prefill", "decode")])
def test_none_of_a_stages_own_work_is_a_regression_whatever_is_allowed(stage, counter, allowed):
    before, after = (a_run({counter: n, "aten_operators": 3}, stage=stage) for n in (8, 0))
    verdicts = decide.judge([before], [after], RULES, allowed)
    assert (of(verdicts, counter).verdict, "no work at all, 8 before, 0 now" in of(verdicts, counter).reason) == (
        "regression",
        True,
    )
    assert [v.verdict for v in verdicts if v.kind == "time"] == ["incomparable"]


def test_work_that_was_none_before_may_stay_none():
    (verdict,) = judged(a_run({"frames_decoded": 0}), a_run({"frames_decoded": 0}))
    assert verdict.verdict == "pass"


def test_an_allowed_change_passes_and_is_reported_with_what_changed():
    verdicts = judged(a_run(), a_run(WORK | {"images": 4, "frames_decoded": 9}, OTHER), ["load"])
    assert (exit_code(verdicts), {v.verdict for v in verdicts}) == (0, {"pass"})
    assert of(verdicts, "images").reason == "images: allowed: other work, 8 before, 4 now"
    assert of(verdicts, "frames").reason.startswith("frames: allowed: other content, 0123")
    assert of(verdicts, "frames_decoded").reason == "frames_decoded: allowed: 18 before, 9 now, of other content"
    assert [v.allowed for v in verdicts if v.counter in ("images", "frames")] == ["load", "load"]


def test_more_work_for_allowed_content_is_a_regression_still():
    verdicts = judged(a_run(), a_run(WORK | {"frames_decoded": 36}, OTHER), ["load"])
    assert (of(verdicts, "frames_decoded").verdict, exit_code(verdicts)) == ("regression", 1)


def test_what_is_allowed_to_another_stage_lets_nothing_pass():
    assert exit_code(judged(a_run(), a_run(content=OTHER), ["encode", "decode"])) == 1


def test_times_of_other_content_are_incomparable_and_judged_where_it_is_allowed():
    base, head = [a_run(median=0.1 + i * 1e-4) for i in range(8)], [a_run(content=OTHER, median=0.1) for _ in range(8)]
    (strict,) = (v for v in decide.judge(base, head, RULES) if v.kind == "time")
    (allowed,) = (v for v in decide.judge(base, head, RULES, ["load"]) if v.kind == "time")
    assert (strict.verdict, allowed.verdict) == ("incomparable", "pass")
    assert allowed.reason.endswith("; of other content, as allowed")


def test_a_base_without_content_says_so_and_is_judged_by_its_counters():
    (verdict,) = judged(a_run(content=None), a_run())
    assert (verdict.verdict, verdict.reason) == ("pass", "all 4 as before; content not recorded in the base")


def test_content_that_is_no_longer_recorded_is_missing():
    verdicts = judged(a_run(), a_run(content=None))
    assert [(v.verdict, v.reason) for v in verdicts] == [("missing", "no longer counted: content of frames")]


@pytest.mark.parametrize(
    ("dtype", "now", "expected"),
    [
        ("float32", [1.0, 0.5, -4.0, 0.003], "pass"),
        ("float32", [1.0, 0.5, -4.0, 0.005], "changed"),
        ("bfloat16", [1.0, 0.5, -4.1, 0.1], "pass"),
        ("float16", [1.0, 0.5, -4.0, 0.3], "changed"),
        ("float64", [1.0, 0.5, -4.0, 0.005], "changed"),
        ("float32", [1.0, 0.5, -4.0], "changed"),
        ("float32", [], "changed"),
        ("float32", "0123456789abcdef", "changed"),
        ("float32", [1.0, -4.0, 0.5, 0.0], "changed"),
    ],
)
def test_features_are_alike_within_the_rounding_of_their_type(dtype, now, expected):
    runs = [a_run({"images_encoded": 5}, {"features": f}, "encode", dtype) for f in (FEATURES, now)]
    assert of(judged(*runs), "features").verdict == expected


def test_what_rounding_let_pass_is_reported_with_both_numbers():
    runs = [a_run({"images_encoded": 5}, {"features": f}, "encode") for f in (FEATURES, [1.0, 0.5, -4.001, 0.0])]
    assert of(judged(*runs), "features").reason == (
        "features: number 2 of its sketch -4 before, -4.001 now, 0.00025 of the largest apart, "
        "which is rounding (up to 0.001)"
    )


def test_what_a_tolerance_let_pass_is_reported_with_both_numbers():
    verdicts = judged(a_run(WORK | {"peak_bytes": 1000}), a_run(WORK | {"peak_bytes": 1019}))
    assert [v.reason for v in verdicts] == [
        "peak_bytes: 1,000 before, 1,019 now, within its tolerance of 0.02",
        "the other 4 as before; same content",
    ]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [(0, 4096, "pass"), (0, 8192, "regression"), (139_264, 143_360, "pass"), (139_264, 278_528, "regression")],
)
def test_a_page_that_a_library_reads_of_its_own_accord_is_let_pass_and_reported(before, now, expected):
    verdict = of(judged(*(a_run(WORK | {"bytes_from_files": n}) for n in (before, now))), "bytes_from_files")
    assert (verdict.verdict, f"{before:,} before, {now:,} now" in verdict.reason) == (expected, True)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(0, "changed"), (4096, "changed"), (12288, "changed"), (94208, "improvement"), (139_264, "pass")],
)
@pytest.mark.parametrize("counter", ["bytes_from_files", "load.bytes_from_files"])
def test_a_file_that_load_no_longer_reads_for_the_same_content_is_changed(counter, now, expected):
    def a_load(n):
        return a_run(WORK | ({counter: n} if counter == "bytes_from_files" else {"load": {"bytes_from_files": n}}))

    verdicts = judged(a_load(139_264), a_load(now))
    assert exit_code(verdicts) == (1 if expected == "changed" else 0)
    assert [v.verdict for v in verdicts if v.counter == counter] == ([expected] if expected != "pass" else [])
    assert exit_code(judged(a_load(139_264), a_load(now), ["load"])) == 0


def test_content_of_a_stage_within_the_whole_is_of_that_stage():
    whole = [
        {"load": {"frames": frames}, "decode": {"tokens": "0123456789abcdef"}}
        for frames in (FRAMES["frames"], OTHER["frames"])
    ]
    work = {"load": {"images": 8, "frames_decoded": 18}, "decode": {"steps": 31}}
    runs = [a_run(work, content, None) for content in whole]
    assert [v.counter for v in judged(*runs) if v.verdict == "changed"] == ["load.frames"]
    assert exit_code(judged(*runs, ["load"])) == 0
    assert exit_code(judged(*runs, ["decode"])) == 1


def test_a_benchmark_that_names_no_stage_has_that_of_its_content():
    runs = [a_run({"images": n, "prompt_tokens": 590}, {"pixels": p}, None) for n, p in ((8, "0" * 16), (4, "1" * 16))]
    assert exit_code(judged(*runs, ["preprocess"])) == 0


def test_content_that_does_not_repeat_in_the_base_is_inconclusive_and_in_the_head_it_is_changed():
    mixed, same = [a_run(), a_run(content=OTHER)], [a_run(), a_run()]
    assert [v.verdict for v in judge_counters(mixed, same, RULES)] == ["inconclusive"]
    assert [v.verdict for v in judge_counters(same, mixed, RULES)] == ["changed"]


@pytest.mark.parametrize(("one", "expected"), [(19, "regression"), (17, "inconclusive"), (0, "regression")])
def test_one_run_of_the_head_that_does_more_than_a_base_that_repeats_itself_is_enough(one, expected):
    head = [a_run(), a_run(WORK | {"frames_decoded": one}), a_run()]
    assert of(judge_counters([a_run()] * 3, head, RULES), "frames_decoded").verdict == expected


def test_counters_that_one_side_has_not_are_missing_and_named():
    fewer = {"images": 8}
    assert [(v.verdict, v.reason) for v in judged(a_run(), a_run(fewer))] == [
        ("missing", "no longer counted: frames_decoded, bytes_read, aten_operators")
    ]
    verdicts = judged(a_run(None, None), a_run(fewer, None))
    assert [(v.verdict, v.reason) for v in verdicts] == [("missing", "not counted in the base: images")]


def test_a_benchmark_without_counters_is_shown_as_not_counted_and_does_not_count():
    verdicts = judged(a_run(None, None), a_run(None, None))
    assert [(v.kind, exit_code(verdicts)) for v in verdicts] == [("uncounted", 2)]
